"""Where settings come from: defaults, the site's file, the user's file, LAUNCHER_… variables.

Owns finding, reading and joining the layers, and the origin of every key. Blocks are joined key by key; lists and
plain values are replaced.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from launcher.errors import LauncherError, RequestError, SettingsError
from launcher.settings.checks import Checks
from launcher.settings.files import Written, parse, read
from launcher.settings.origins import DEFAULTS, where
from launcher.settings.pathnames import expanded
from launcher.settings.records import Where, collect, unknown_key, wrong
from launcher.settings.schema import BLOCKS, NAME, NAMED, Caps, Profile, Settings
from launcher.settings.sources import site_file, user_file

Tree = dict[str, Any]
Report = Callable[[LauncherError], None]
_OWN_VARIABLES = {"LAUNCHER_SITE", "LAUNCHER_CONFIG"}
# A site that names its own clusters does not want this machine (its login node) offered beside them.
_REPLACED_BY_SITE = ("clusters", "profiles")
# What a site allows would mean nothing if its users could allow themselves more.
_SITES_OWN = ("allow", "limits")


def load(variables: Mapping[str, str] | None = None) -> Settings:
    """The settings of this user on this machine; `variables` stands for the process's environment.

    Raises SettingsError naming file, line, key and value; RequestError for a wrong LAUNCHER_… variable.
    """
    return load_noting(os.environ if variables is None else variables)[0]


def load_noting(variables: Mapping[str, str]) -> tuple[Settings, str]:
    """`load`, and `places.sessions` as it was written: `~` and variables still stand in it."""
    layers = _Layers(variables, _fail)
    settings = layers.settings()
    assert settings is not None
    return settings, layers.sessions


def mistakes(variables: Mapping[str, str] | None = None) -> list[LauncherError]:
    """Every mistake that `load` would meet, not only the first; a file that is no YAML hides those that follow."""
    found: list[LauncherError] = []
    _Layers(os.environ if variables is None else variables, found.append).settings()
    return sorted(found, key=_place)


def load_alone(file: Path, variables: Mapping[str, str] | None = None) -> Settings:
    """`load` of what `mistakes_in` looks at; raises like it."""
    return load(_with(file, os.environ if variables is None else variables))


def mistakes_in(file: Path, variables: Mapping[str, str] | None = None) -> list[LauncherError]:
    """Every mistake of `file`: as the user's own where it is that, else as a site's file without any user's."""
    return mistakes(_with(file, os.environ if variables is None else variables))


def _with(file: Path, variables: Mapping[str, str]) -> Mapping[str, str]:
    user = user_file(variables)
    if user is not None and os.path.abspath(user) == os.path.abspath(file):
        return variables
    return {"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull}


def _place(error: LauncherError) -> tuple[str, int]:
    # As one reads: file by file, from the top; what names no line comes first.
    place = re.match(r"(.*?), line (\d+): ", error.message)
    return (place[1], int(place[2])) if place else (error.message.partition(": ")[0], 0)


def _fail(error: LauncherError) -> NoReturn:
    raise error


@dataclass(slots=True)
class _Layers:
    # The joined layers so far. With a `report` that raises, the first mistake ends everything.
    variables: Mapping[str, str]
    report: Report
    tree: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    locks: tuple[str, ...] = ()
    site: str | None = None
    unread: bool = False
    sessions: str = ""

    def settings(self) -> Settings | None:
        packaged = Path(__file__).with_name("defaults.yml").read_text("utf-8")
        self._join(parse(packaged, DEFAULTS).data, DEFAULTS)
        self.tree.pop("locks")
        self._site()
        self._user()
        for name, value in sorted(self.variables.items()):
            if name.startswith("LAUNCHER_") and name not in _OWN_VARIABLES and "__" in name:
                self._variable(name, value)
        for name, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "/hub")):
            locked = "models" in self.locks or "models.cache" in self.locks
            if self.origins["models.cache"] == DEFAULTS and self.variables.get(name) and not locked:
                self._join({"models": {"cache": self.variables[name] + below}}, name)
        # What a file that could not be read would have described is not missing.
        return None if self.unread else self._made()

    def _site(self) -> None:
        path = site_file(self.variables)
        if path is None:
            return
        self.site = str(path)
        layer = self._read(path)
        if any(key in layer for key in _REPLACED_BY_SITE):
            for key in _REPLACED_BY_SITE:
                self.tree[key], self.origins[key] = {}, self.site
        locks = layer.pop("locks", None)
        self._join(layer, self.site)
        if locks is not None and not (
            isinstance(locks, list) and all(isinstance(lock, str) for lock in locks)
        ):
            must = "must be a list of keys such as session.idle_minutes"
            advice = "Write it as [session.idle_minutes]."
            self.report(wrong(self._line(self.site, "locks"), "locks", must, locks, advice))
            locks = None
        self.locks = (*(locks or ()), *_SITES_OWN)

    def _user(self) -> None:
        path = user_file(self.variables)
        if path is None:
            return
        layer = self._read(path)
        if layer.pop("locks", None) is not None:
            at = self._line(str(path), "locks")
            self.report(SettingsError(f"{at}: only a site's file has locks.", f"Take locks out of {path}."))
        self._refuse_locked(layer, str(path))
        self._join(layer, str(path))

    def _variable(self, name: str, value: str) -> None:
        # LAUNCHER_SESSION__IDLE_MINUTES=5 is session.idle_minutes: 5
        keys = name.removeprefix("LAUNCHER_").lower().split("__")
        if keys[0] not in BLOCKS or len(keys) != 2:
            advice = f"Use LAUNCHER_BLOCK__KEY with one of: {', '.join(BLOCKS)}."
            self.report(RequestError(f"The variable {name} names no setting.", advice))
            return
        try:
            layer = {keys[0]: {keys[1]: parse(value, name).data}}
        except SettingsError:
            shown = f'"{value[:80]}"'
            advice = "Write it as in a site.yml: 5, true, a text."
            self.report(
                RequestError(f"The variable {name} has the value {shown}, which is not YAML.", advice)
            )
            return
        self._refuse_locked(layer, name)
        self._join(layer, name)

    def _read(self, path: Path) -> Tree:
        try:
            written = read(path)
        except SettingsError as error:
            self.report(error)
            self.unread = True
            return {}
        self.lines[str(path)] = written.lines
        return self._layer(written, str(path))

    def _layer(self, written: Written, origin: str) -> Tree:
        for key, line, first in written.twice:
            twice = f"{origin}, line {line}: {key} stands twice, first in line {first}."
            self.report(SettingsError(twice, "Keep one of them."))
        data = {} if written.data is None else written.data
        if not isinstance(data, dict):
            shown = "a list" if isinstance(data, list) else "one value"
            must = f"{origin}, line 1: the file must be a block of keys, not {shown}."
            self.report(SettingsError(must, "See docs/site.md for its shape."))
            return {}
        known = (*BLOCKS, *NAMED, "locks")
        for key in [key for key in data if key not in known]:
            self.report(unknown_key(self._line(origin, key), key, known))
            del data[key]
        return data

    def _line(self, origin: str, key: str) -> str:
        line = self.lines.get(origin, {}).get(key)
        return origin if line is None else f"{origin}, line {line}"

    def _join(self, layer: Tree, origin: str) -> None:
        _join(self.tree, layer, origin, self.origins)

    def _refuse_locked(self, layer: Tree, origin: str, prefix: str = "") -> None:
        for key, value in layer.items():
            at = f"{prefix}{key}"
            if at in self.locks:
                message = f"{self._line(origin, at)}: {at} is locked by {self.site}."
                self.report(SettingsError(message, f"Take {at} out of {origin}."))
            elif isinstance(value, dict):
                self._refuse_locked(value, origin, f"{at}.")

    def _made(self) -> Settings | None:
        seen: list[LauncherError] = []

        def report(error: LauncherError) -> None:
            seen.append(error)
            self.report(error)

        if isinstance(self.tree["places"], dict):
            self.sessions = str(self.tree["places"]["sessions"])
        tree = _expanded(self.tree)
        place = partial(where, origins=self.origins, lines=self.lines)
        blocks: dict[str, Any] = {
            key: collect(type_, tree[key], key, place, report) for key, type_ in BLOCKS.items()
        }
        entries = {key: _entries(key, tree[key], place, report) for key in NAMED}
        named: dict[str, dict[str, Any]] = {key: {} for key in NAMED}
        for key, type_ in NAMED.items():
            for name, value in entries[key].items():
                made: Any = collect(type_, value, f"{key}.{name}", place, report, name=name)
                if made is not None:
                    named[key][name] = made
        if tree["profiles"] == {}:
            empty = f"{place('profiles')}: profiles is empty."
            report(SettingsError(empty, "Describe at least one profile."))
        self._check(blocks, named, Checks(entries, place, report))
        if seen:
            return None
        found = {**blocks, **named, "origins": self.origins, "lines": self.lines}
        settings = Settings(**found, locks=self.locks, site=self.site)
        if settings.limits != Caps():
            for profile in settings.profiles.values():
                self._refuse_own_args(settings, profile)
        return settings

    def _refuse_own_args(self, settings: Settings, profile: Profile) -> None:
        # sbatch takes the last of two options: --gres or --time here would undo what the site's limits allow.
        key = f"profiles.{profile.name}.sbatch_args"
        if profile.sbatch_args and settings.from_user(key):
            what = f"{settings.where(key)}: {key} is the site's alone, because {self.site} sets limits."
            self.report(SettingsError(what, f"Take {key} out of {settings.origin(key)}."))

    def _check(self, blocks: Mapping[str, Any], named: Mapping[str, dict[str, Any]], checks: Checks) -> None:
        for cluster in named["clusters"].values():
            checks.cluster(cluster)
        for profile in named["profiles"].values():
            checks.profile(profile)
        for environment in named["environments"].values():
            checks.environment(environment)
        for model in named["catalog"].values():
            checks.model(model, named["environments"])
        checks.aliases(named["catalog"])
        for offer in named["offers"].values():
            checks.offer(offer)
        if blocks["session"] is not None:
            checks.session(blocks["session"])
        if blocks["endpoint"] is not None:
            checks.endpoint(blocks["endpoint"])
        checks.locks(self.locks, str(self.site), self.lines.get(str(self.site), {}))


def _join(tree: Tree, layer: Tree, origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in layer.items():
        if value is None and not prefix:
            continue  # "session:" with nothing below it says nothing
        at = f"{prefix}{key}"
        origins[at] = origin
        if value is None and prefix in {f"{named}." for named in NAMED}:
            tree.pop(key, None)  # `name: null` takes an entry of an earlier layer away
        elif isinstance(value, dict):
            below = tree.get(key)
            tree[key] = dict(below) if isinstance(below, dict) else {}
            _join(tree[key], value, origin, origins, f"{at}.")
        else:
            tree[key] = value


def _entries(key: str, value: Any, place: Where, report: Report) -> Tree:
    """The entries of the named block `key` whose names can be used."""
    if not isinstance(value, dict):
        advice = "Write names below it, and below each name its keys."
        report(wrong(place(key), key, "must be a block of names", value, advice))
        return {}
    must = "must have names of letters, digits, dots, dashes and underscores"
    sound = {name: entry for name, entry in value.items() if re.fullmatch(NAME, name)}
    for name in value:
        if name not in sound:
            report(wrong(place(f"{key}.{name}"), key, must, name, "Use another name, of at most 64."))
    return sound


def _expanded(tree: Tree) -> Tree:
    # ~ and $USER in whatever names a folder, a file or a database; a site's file serves many users.
    for key, type_ in (BLOCKS | NAMED).items():
        fields = dataclasses.fields(type_)
        names = [field.name for field in fields if field.metadata.keys() & {"path", "variables"}]
        entries = tree[key].values() if key in NAMED and isinstance(tree[key], dict) else [tree[key]]
        for entry in entries if names else ():
            if isinstance(entry, dict):
                entry.update({name: expanded(entry[name]) for name in names if name in entry})
    return tree

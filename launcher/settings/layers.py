"""Where settings come from: defaults, the site's file, the user's file, LAUNCHER_… variables.

Owns finding, reading and joining the layers, and the origin of every key. Blocks are joined key by key; lists and
plain values are replaced.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import RequestError, SettingsError
from launcher.settings.files import read_yaml
from launcher.settings.records import record, wrong
from launcher.settings.schema import (
    NAME,
    Allow,
    CatalogModel,
    Cluster,
    Environment,
    ModelPlaces,
    Network,
    Places,
    Profile,
    SessionDefaults,
    Settings,
)

Tree = dict[str, Any]
_BLOCKS = {
    "session": SessionDefaults,
    "network": Network,
    "places": Places,
    "models": ModelPlaces,
    "allow": Allow,
}
_NAMED = {"clusters": Cluster, "profiles": Profile, "environments": Environment, "catalog": CatalogModel}
_OWN_VARIABLES = {"LAUNCHER_SITE", "LAUNCHER_CONFIG"}
# A site that names its own clusters does not want this machine (its login node) offered beside them.
_REPLACED_BY_SITE = ("clusters", "profiles")
# What a site allows would mean nothing if its users could allow themselves more.
_SITES_OWN = ("allow",)


def load(variables: Mapping[str, str] | None = None) -> Settings:
    """The settings of this user on this machine; `variables` stands for the process's environment.

    Raises SettingsError naming file, key and value; RequestError for a wrong LAUNCHER_… variable.
    """
    variables = os.environ if variables is None else variables
    tree: Tree = {}
    origins: dict[str, str] = {}
    _join(
        tree,
        _parse(resources.files("launcher.settings").joinpath("defaults.yml").read_text("utf-8"), "defaults"),
        "defaults",
        origins,
    )
    locks: tuple[str, ...] = ()
    if (site := site_file(variables)) is not None:
        layer = _parse(_read(site), str(site))
        if any(key in layer for key in _REPLACED_BY_SITE):
            for key in _REPLACED_BY_SITE:
                tree[key], origins[key] = {}, str(site)
        _join(tree, layer, str(site), origins)
        locks = (*_locks(tree.pop("locks"), str(site)), *_SITES_OWN)
    else:
        tree.pop("locks")
    if (user := _user_file(variables)) is not None:
        layer = _parse(_read(user), str(user))
        if "locks" in layer:
            raise SettingsError(f"{user}: only a site's file has locks.", f"Take locks out of {user}.")
        _refuse_locked(layer, locks, str(user), str(site))
        _join(tree, layer, str(user), origins)
    for name, value in sorted(variables.items()):
        if name.startswith("LAUNCHER_") and name not in _OWN_VARIABLES and "__" in name:
            layer = _variable(name, value)
            _refuse_locked(layer, locks, name, str(site))
            _join(tree, layer, name, origins)
    for name, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "/hub")):
        if origins["models.cache"] == "defaults" and variables.get(name):
            _join(tree, {"models": {"cache": variables[name] + below}}, name, origins)
    return _settings(_expanded(tree), origins, locks, str(site) if site else None)


def site_file(variables: Mapping[str, str]) -> Path | None:
    """The site's file: $LAUNCHER_SITE, else `site.yml` beside the launcher's venv, else /etc/launcher/site.yml."""
    if named := variables.get("LAUNCHER_SITE"):
        return Path(named)
    for folder in (Path(sys.prefix).parent, Path("/etc/launcher")):
        if (path := folder / "site.yml").is_file():
            # An install links to it from each release; errors should name the one to edit.
            return path.resolve()
    return None


def _user_file(variables: Mapping[str, str]) -> Path | None:
    if named := variables.get("LAUNCHER_CONFIG"):
        return Path(named)
    home = variables.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = Path(home, "launcher", "config.yml")
    return path if path.is_file() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not a text file in UTF-8.", "Write it again as plain text."
        ) from error
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}.", "Check the path and its permissions.") from error


def _parse(text: str, origin: str) -> Tree:
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise SettingsError(f"{origin}{where}: {problem}.", "Correct the YAML there.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"{origin} must be a block of keys.", "See docs/site.md for its shape.")
    for key in data:
        if key not in _BLOCKS and key not in _NAMED and key != "locks":
            raise SettingsError(
                f"{origin}: {key} is not a known key.",
                f"Known keys: {', '.join([*_BLOCKS, *_NAMED, 'locks'])}.",
            )
    return data


def _variable(name: str, value: str) -> Tree:
    # LAUNCHER_SESSION__IDLE_MINUTES=5 is session.idle_minutes: 5
    keys = name.removeprefix("LAUNCHER_").lower().split("__")
    if keys[0] not in _BLOCKS or len(keys) != 2:
        raise RequestError(
            f"The variable {name} names no setting.",
            f"Use LAUNCHER_BLOCK__KEY with one of: {', '.join(_BLOCKS)}.",
        )
    try:
        return {keys[0]: {keys[1]: yaml.safe_load(value)}}
    except yaml.YAMLError as error:
        raise RequestError(f'The variable {name} has the value "{value}", which is not YAML.') from error


def _join(tree: Tree, layer: Tree, origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in layer.items():
        if value is None and not prefix:
            continue  # "session:" with nothing below it says nothing
        at = f"{prefix}{key}"
        origins[at] = origin
        if value is None and prefix in {f"{named}." for named in _NAMED}:
            tree.pop(key, None)  # `name: null` takes an entry of an earlier layer away
        elif isinstance(value, dict):
            below = tree.get(key)
            tree[key] = dict(below) if isinstance(below, dict) else {}
            _join(tree[key], value, origin, origins, f"{at}.")
        else:
            tree[key] = value


def _expanded(tree: Tree) -> Tree:
    # ~ and $USER in whatever names a folder or a file; a site's file serves many users.
    def expanded(value: Any) -> Any:
        if isinstance(value, list):
            return [expanded(item) for item in value]
        return os.path.expanduser(os.path.expandvars(value)) if isinstance(value, str) else value

    for key in ("places", "models"):
        if isinstance(tree[key], dict):
            tree[key] = {name: expanded(value) for name, value in tree[key].items()}
    for key, names in (("environments", ("path", "image", "binds", "setup")), ("catalog", ("path",))):
        for entry in tree[key].values() if isinstance(tree[key], dict) else ():
            if isinstance(entry, dict):
                entry.update({name: expanded(entry[name]) for name in names if name in entry})
    return tree


def _locks(value: object, origin: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise wrong(origin, "locks", "must be a list of keys such as session.idle_minutes", value)
    return tuple(value)


def _refuse_locked(layer: Tree, locks: tuple[str, ...], origin: str, site: str, prefix: str = "") -> None:
    for key, value in layer.items():
        at = f"{prefix}{key}"
        if at in locks:
            raise SettingsError(f"{origin}: {at} is locked by {site}.", f"Take {at} out of {origin}.")
        if isinstance(value, dict):
            _refuse_locked(value, locks, origin, site, f"{at}.")


def _settings(tree: Tree, origins: dict[str, str], locks: tuple[str, ...], site: str | None) -> Settings:
    probe = Settings(SessionDefaults(), Network(), Places(), ModelPlaces(), Allow(), {}, {}, {}, {}, origins)
    blocks: dict[str, Any] = {
        key: record(type_, tree[key], key, probe.origin) for key, type_ in _BLOCKS.items()
    }
    for key, type_ in _NAMED.items():
        entries = tree[key]
        if not isinstance(entries, dict):
            raise wrong(probe.origin(key), key, "must be a block of names", entries)
        for name in entries:
            if not re.fullmatch(NAME, str(name)):
                raise wrong(
                    probe.origin(f"{key}.{name}"),
                    f"{key}.{name}",
                    "must be a name of letters and digits",
                    name,
                )
        blocks[key] = {
            str(name): record(type_, value, f"{key}.{name}", probe.origin, name=str(name))
            for name, value in entries.items()
        }
    settings = Settings(**blocks, origins=origins, locks=locks, site=site)
    _check_references(settings)
    _check_locks(settings)
    return settings


def _check_references(settings: Settings) -> None:
    if not settings.profiles:
        raise SettingsError(
            f"{settings.origin('profiles')}: profiles is empty.", "Describe at least one profile."
        )
    for profile in settings.profiles.values():
        at = f"profiles.{profile.name}"
        _known(settings, f"{at}.cluster", profile.cluster, settings.clusters)
        if profile.hours is not None and profile.hours > profile.hours_max:
            must = f"must be at most the profile's hours_max, {profile.hours_max:g}"
            raise wrong(settings.origin(f"{at}.hours"), f"{at}.hours", must, profile.hours)
        if profile.environment is not None:
            _known(settings, f"{at}.environment", profile.environment, settings.environments)
    for model in settings.catalog.values():
        at = f"catalog.{model.name}"
        if model.environment is not None:
            _known(settings, f"{at}.environment", model.environment, settings.environments)
        if model.engine != "simulated" and model.id is None and model.path is None:
            raise SettingsError(
                f"{settings.origin(at)}: {at} has neither id nor path.", f"Say in {at} which model."
            )
        for profile_name in model.profiles:
            _known(settings, f"{at}.profiles", profile_name, settings.profiles)
    if settings.session.profile is not None:
        _known(settings, "session.profile", settings.session.profile, settings.profiles)
    for environment in settings.environments.values():
        at = f"environments.{environment.name}"
        needed = {"module": "modules", "container": "image"}.get(environment.kind)
        if needed and not getattr(environment, needed):
            raise SettingsError(f"{settings.origin(at)}: {at}.{needed} is missing.", f"Add {needed} to {at}.")


def _check_locks(settings: Settings) -> None:
    for lock in settings.locks:
        block, _, _ = lock.partition(".")
        known: list[str] = [*_BLOCKS, *_NAMED]
        if block in _BLOCKS:
            known = [block, *(f"{block}.{field.name}" for field in dataclasses.fields(_BLOCKS[block]))]
        elif block in _NAMED:
            names = [f"{block}.{name}" for name in getattr(settings, block)]
            fields = [field.name for field in dataclasses.fields(_NAMED[block])]
            known = [block, *names, *(f"{name}.{field}" for name in names for field in fields)]
        if lock not in known:
            near = difflib.get_close_matches(lock, known, 1)
            advice = (
                f'Did you mean "{near[0]}"?'
                if near
                else "Name keys of this file, such as session.idle_minutes."
            )
            raise SettingsError(f'{settings.site}: locks: "{lock}" is not a known key.', advice)


def _known(settings: Settings, key: str, value: str, known: Mapping[str, object]) -> None:
    if value not in known:
        raise wrong(settings.origin(key), key, f"must be one of {', '.join(known) or 'none'}", value)

"""What no single value shows: that names lead somewhere, that limits agree, that locks are keys.

Owns the rules between the blocks of the settings; what one value may be is in launcher.settings.schema.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import SettingsError
from launcher.settings.records import Report, Where, wrong
from launcher.settings.schema import (
    BLOCKS,
    NAMED,
    CatalogModel,
    Cluster,
    Environment,
    Profile,
    SessionDefaults,
)

Entries = Mapping[str, Mapping[str, Any]]
_LISTED = 12


class Checks:
    """The rules between blocks; `entries` are those of each named block as written, sound or not."""

    def __init__(self, entries: Entries, where: Where, report: Report) -> None:
        self._entries = entries
        self._where = where
        self._report = report

    def cluster(self, cluster: Cluster) -> None:
        if cluster.ssh is not None and cluster.scheduler == "local":
            self._wrong(f"clusters.{cluster.name}.ssh", "must be empty where scheduler is local", cluster.ssh)

    def profile(self, profile: Profile) -> None:
        at = f"profiles.{profile.name}"
        self._name(f"{at}.cluster", profile.cluster, "clusters")
        self._name(f"{at}.environment", profile.environment, "environments")
        if profile.hours is not None and profile.hours > profile.hours_max:
            must = f"must be at most the profile's hours_max, {profile.hours_max:g}"
            self._wrong(f"{at}.hours", must, profile.hours)
        if profile.gpus_max is not None and profile.gpus_max < profile.gpus:
            self._wrong(
                f"{at}.gpus_max", f"must be at least the profile's gpus, {profile.gpus}", profile.gpus_max
            )
        for field, choices in (("account", profile.accounts), ("qos", profile.qos_choices)):
            value = getattr(profile, field)
            if value is not None and choices and value not in choices:
                self._wrong(f"{at}.{field}", f"must be one of {', '.join(choices)}", value)

    def environment(self, environment: Environment) -> None:
        at = f"environments.{environment.name}"
        needed = {"module": "modules", "container": "image"}.get(environment.kind)
        if needed and not self._written("environments", environment.name).get(needed):
            self._missing(at, f"{at}.{needed} is missing", f"Add {needed} to {at}.")

    def model(self, model: CatalogModel, environments: Mapping[str, Environment]) -> None:
        at = f"catalog.{model.name}"
        self._name(f"{at}.environment", model.environment, "environments")
        holds = environments.get(model.environment or "")
        if holds is not None and holds.engines and model.engine not in (*holds.engines, "simulated"):
            self._wrong(f"{at}.environment", f"must be an environment with {model.engine}", model.environment)
        written = self._written("catalog", model.name)
        if model.engine != "simulated" and written.get("id") is None and written.get("path") is None:
            self._missing(at, f"{at} has neither id nor path", f"Say in {at} which model.")
        for place, profile in enumerate(model.profiles):
            self._name(f"{at}.profiles", profile, "profiles", f"{at}.profiles[{place}]")

    def session(self, session: SessionDefaults) -> None:
        self._name("session.profile", session.profile, "profiles")

    def locks(self, locks: Sequence[str], site: str, lines: Mapping[str, int]) -> None:
        known = [*BLOCKS, *NAMED]
        for block, type_ in BLOCKS.items():
            known += [f"{block}.{field.name}" for field in dataclasses.fields(type_)]
        for block, type_ in NAMED.items():
            for name in self._entries[block]:
                known += [f"{block}.{name}", *(f"{block}.{name}.{f.name}" for f in dataclasses.fields(type_))]
        for place, lock in enumerate(locks):
            if lock in known:
                continue
            near = difflib.get_close_matches(lock, known, 1)
            advice = f'Did you mean "{near[0]}"?' if near else "Name keys, such as session.idle_minutes."
            line = lines.get(f"locks[{place}]")
            at = site if line is None else f"{site}, line {line}"
            self._report(SettingsError(f'{at}: locks: "{lock[:80]}" is not a known key.', advice))

    def _written(self, block: str, name: str) -> Mapping[str, Any]:
        # Not the record: where an id is of the wrong kind, that is the mistake, and it is not missing.
        found: Mapping[str, Any] = self._entries[block][name] or {}
        return found

    def _name(self, key: str, value: str | None, block: str, at: str | None = None) -> None:
        known = list(self._entries[block])
        if value is None or value in known:
            return
        near = difflib.get_close_matches(value, known, 1)
        hint = f'Did you mean "{near[0]}"?' if near else f"Describe {value[:64]} under {block}."
        some = ", ".join(known) if len(known) <= _LISTED else f"the {len(known)} names in {block}"
        must = f"must be one of {some}" if known else f"must be a name in {block}, which is empty"
        self._report(wrong(self._where(at or key), key, must, value, hint))

    def _wrong(self, key: str, must: str, value: Any) -> None:
        self._report(wrong(self._where(key), key, must, value))

    def _missing(self, key: str, what: str, hint: str) -> None:
        self._report(SettingsError(f"{self._where(key)}: {what}.", hint))

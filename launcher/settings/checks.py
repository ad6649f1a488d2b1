"""What no single value shows: that names lead somewhere, that limits agree, that locks are keys.

Owns the rules between the blocks of the settings; what one value may be is in launcher.settings.schema.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import SettingsError, did_you_mean
from launcher.settings.pathnames import unset
from launcher.settings.records import Report, Where, wrong
from launcher.settings.schema import (
    BLOCKS,
    NAMED,
    CatalogModel,
    Cluster,
    Endpoint,
    Environment,
    Offered,
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
        if cluster.launcher is not None and cluster.ssh is None:
            at, advice = f"clusters.{cluster.name}.launcher", "Add ssh: HOST, or take launcher out."
            self._wrong(at, "must be empty where ssh is", cluster.launcher, advice)
        if cluster.ssh is not None and cluster.scheduler == "local" and not cluster.remote:
            at = f"clusters.{cluster.name}.ssh"
            advice = "Take ssh out, or write scheduler: slurm."
            self._wrong(at, "must be empty where scheduler is local", cluster.ssh, advice)

    def profile(self, profile: Profile) -> None:
        at = f"profiles.{profile.name}"
        self._name(f"{at}.cluster", profile.cluster, "clusters")
        self._name(f"{at}.environment", profile.environment, "environments")
        for place, option in enumerate(profile.sbatch_args):
            if not option.isprintable():  # in the job's script, what follows a line break would be a command
                key = f"{at}.sbatch_args"
                must = "must hold no line break and no control character"
                advice = "Write one option in each item."
                self._report(wrong(self._where(f"{key}[{place}]"), key, must, option, advice))
        most, gpus = f"{profile.hours_max:g}", profile.gpus
        if profile.hours is not None and profile.hours > profile.hours_max:
            advice = f"Write hours: {most}, or a larger hours_max."
            self._wrong(
                f"{at}.hours", f"must be at most the profile's hours_max, {most}", profile.hours, advice
            )
        if profile.gpus_max is not None and profile.gpus_max < gpus:
            advice = f"Write gpus_max: {gpus} or more, or leave it out."
            must = f"must be at least the profile's gpus, {gpus}"
            self._wrong(f"{at}.gpus_max", must, profile.gpus_max, advice)
        for field, list_, choices in (
            ("account", "accounts", profile.accounts),
            ("qos", "qos_choices", profile.qos_choices),
        ):
            value = getattr(profile, field)
            if value is not None and choices and value not in choices:
                advice = f"Write one of them, or add {value} to {list_}."
                self._wrong(f"{at}.{field}", f"must be one of {', '.join(choices)}", value, advice)

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
            held = [name for name, e in environments.items() if not e.engines or model.engine in e.engines]
            advice = f"Write {' or '.join(held[:3])}." if held else f"Add {model.engine} to its engines."
            if self._written("catalog", model.name).get("engine") is None:
                advice += f" Or add engine: {holds.engines[0]} to {at}."
            must = f"must be an environment with {model.engine}"
            self._wrong(f"{at}.environment", must, model.environment, advice)
        written = self._written("catalog", model.name)
        if model.engine != "simulated" and written.get("id") is None and written.get("path") is None:
            self._missing(at, f"{at} has neither id nor path", f"Say in {at} which model.")
        for place, profile in enumerate(model.profiles):
            self._name(f"{at}.profiles", profile, "profiles", f"{at}.profiles[{place}]")

    def endpoint(self, endpoint: Endpoint) -> None:
        state = endpoint.state
        if state is None:
            return
        if not re.fullmatch(r"sqlite:////[^?#]+(\?network=allowed)?|postgresql(\+psycopg)?://\S+", state):
            advice = "Write sqlite:////FOLDER/state.db, or postgresql+psycopg://HOST/DATABASE."
            self._wrong(
                "endpoint.state", "must be the URL of a database", state.partition("@")[2] or state, advice
            )
        elif state.startswith("sqlite:") and (variable := unset(state)) is not None:
            what = f"{self._where('endpoint.state')}: endpoint.state names {variable}, which is not set."
            self._report(SettingsError(what, "Write it out, or use what every user has, such as $USER."))
        elif re.match(r"[^/]+//[^/@]*:[^/@]*@", state) or re.search(r"[?&](ssl)?password=", state):
            what = f"{self._where('endpoint.state')}: endpoint.state must hold no password."
            self._report(SettingsError(what, "Write the password into ~/.pgpass, and take it out here."))

    def offer(self, offer: Offered) -> None:
        at = f"offers.{offer.name}"
        for field, names, block in (
            ("profiles", offer.profiles, "profiles"),
            ("groups", offer.groups, "groups"),
        ):
            for place, name in enumerate(names):
                self._name(f"{at}.{field}", name, block, f"{at}.{field}[{place}]")
        if offer.minimum > offer.maximum:
            advice = f"Write minimum: {offer.maximum}, or a larger maximum."
            must = f"must be at most the offer's maximum, {offer.maximum}"
            self._wrong(f"{at}.minimum", must, offer.minimum, advice)

    def aliases(self, catalog: Mapping[str, CatalogModel]) -> None:
        meant = {name: name for name in catalog}
        for model in catalog.values():
            for place, alias in enumerate(model.aliases):
                other = meant.setdefault(alias, model.name)
                if other != model.name:
                    key = f"catalog.{model.name}.aliases"
                    what = f'{self._where(f"{key}[{place}]")}: {key} says "{alias[:80]}", which means {other} already.'
                    self._report(SettingsError(what, "Use another alias."))

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
            advice = did_you_mean(lock, known, 1) or "Name keys, such as session.idle_minutes."
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
        hint = did_you_mean(value, known, 1) or f"Describe {value[:64]} under {block}."
        some = ", ".join(known) if len(known) <= _LISTED else f"the {len(known)} names in {block}"
        must = f"must be one of {some}" if known else f"must be a name in {block}, which is empty"
        self._report(wrong(self._where(at or key), key, must, value, hint))

    def _wrong(self, key: str, must: str, value: Any, advice: str) -> None:
        self._report(wrong(self._where(key), key, must, value, advice))

    def _missing(self, key: str, what: str, hint: str) -> None:
        self._report(SettingsError(f"{self._where(key)}: {what}.", hint))

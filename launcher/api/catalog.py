"""The models that the site offers, and what a session of one of them would get: vec-inf's `list`.

Owns looking; what is planned for a model is `launcher.planning`'s word, and this module's only where that refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.kinds import TYPES, family, model_type
from launcher.models.links import model_root
from launcher.models.resolve import ResolvedModel, catalog_entry, resolve
from launcher.planning.times import hours_by_default
from launcher.sessions.clock import time_limit

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.sessions.plan import Plan
    from launcher.settings.schema import CatalogModel, Profile, Settings


@dataclass(frozen=True, slots=True)
class Offered:
    """One model of the catalog; `trouble` says why it cannot be started now, None where it can.

    `task` is one of `launcher.models.kinds.TYPES`, `model_type` vec-inf's word for it, `origin` where it is offered.
    """

    name: str
    id: str
    title: str
    task: str
    engine: str
    origin: str
    revision: str | None = None
    path: str | None = None
    trouble: str | None = None

    @property
    def model_type(self) -> str:
        return model_type(self.task)

    @property
    def available(self) -> bool:
        return self.trouble is None


@dataclass(frozen=True, slots=True)
class Setup:
    """What a session of a model gets when nothing is asked for.

    `values` are by vec-inf's names, None where a job would not say it; `origins` tells for some where the value is
    from; `trouble` is why such a session would be refused now.
    """

    values: Mapping[str, Any]
    engine_args: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)
    trouble: str | None = None


def offered(settings: Settings) -> list[Offered]:
    """Every model of the catalog that is not hidden, by type and name; reads their configuration files."""
    found = [_offered(entry, settings) for entry in settings.catalog.values() if not entry.hidden]
    order = list(TYPES)
    return sorted(found, key=lambda one: (order.index(one.task), one.name.lower()))


def setup(model: str, launcher: Launcher) -> Setup:
    """What a session of `model` gets, from its plan, or from the settings where planning it is refused.

    Raises ModelError, with near names, for a model that is neither in the catalog nor here.
    """
    settings = launcher.settings
    entry = catalog_entry(model, settings)
    plan: Plan | None = None
    trouble: str | None = None
    try:
        found = resolve(model, settings)
    except ModelError as error:
        if entry is None:
            raise
        found = ResolvedModel(entry.id or entry.name, None, entry.revision, "the catalog", entry)
        trouble = str(error)
    else:
        try:
            plan = launcher.plan(model)
        except LauncherError as error:
            trouble = str(error)
    profile = settings.profiles[plan.resources.profile] if plan else _profile(entry, settings)
    origins = {"model_name": found.found, **_origins(profile, plan, settings)}
    arguments = plan.engine_args if plan else (entry.engine_args if entry else ())
    return Setup(_values(found, profile, plan, settings), arguments, origins, trouble)


def _offered(entry: CatalogModel, settings: Settings) -> Offered:
    told = settings.where(f"catalog.{entry.name}")
    try:
        found = resolve(entry.name, settings)
    except LauncherError as error:
        task = _task(entry, None)
        return Offered(
            entry.name, entry.id or entry.name, entry.title, task, entry.engine, told, entry.revision,
            trouble=str(error),
        )  # fmt: skip
    return Offered(
        entry.name, found.id, entry.title, _task(entry, found), found.engine, told, found.revision,
        str(found.snapshot) if found.snapshot else None, _refusal(entry.name, settings),
    )  # fmt: skip


def _refusal(model: str, settings: Settings) -> str | None:
    """Why a launch of `model` would be refused whatever it asks for: no engine here, too large for all hardware."""
    from launcher.planning import make_plan
    from launcher.planning.request import Request

    try:
        make_plan(Request(model), settings, door="python")
    except RequestError:  # what is missing can be said: an account, an environment
        return None
    except LauncherError as error:
        return str(error)
    return None


def _task(entry: CatalogModel, found: ResolvedModel | None) -> str:
    from launcher.models.inspect.facts import facts
    from launcher.models.known import known

    if found is not None and found.snapshot is not None:
        try:
            return facts(found.snapshot).task
        except LauncherError:
            pass
    if (about := known(entry.id or entry.name)) is not None:
        return about.task
    return {"whisper": "transcription", "simulated": "chat"}.get(entry.engine, "unknown")


def _profile(entry: CatalogModel | None, settings: Settings) -> Profile:
    names = [*(entry.profiles if entry else ()), settings.session.profile, *settings.profiles]
    return next(settings.profiles[name] for name in names if name is not None and name in settings.profiles)


def _values(found: ResolvedModel, profile: Profile, plan: Plan | None, settings: Settings) -> dict[str, Any]:
    wanted = plan.resources if plan else profile
    task, vocabulary = _described(found)
    named, variant = family(found.id)
    memory_gb = wanted.memory_gb
    hours = plan.limits.hours if plan else hours_by_default(profile, settings)
    return {
        "model_name": found.id,
        "model_family": named,
        "model_variant": variant,
        "model_type": model_type(task),
        "engine": found.engine,
        "revision": found.revision,
        "profile": profile.name,
        "gpus_per_node": wanted.gpus,
        "resource_type": wanted.gpu_type,
        "num_nodes": wanted.nodes,
        "cpus_per_task": wanted.cpus,
        "mem_per_node": f"{memory_gb:g}G" if memory_gb is not None else None,
        "vocab_size": vocabulary,
        "account": wanted.account,
        "qos": wanted.qos,
        "time": time_limit(hours),
        "partition": wanted.partition,
        "environment": plan.environment.name if plan else profile.environment,
        "model_weights_parent_dir": str(model_root(found.snapshot).parent) if found.snapshot else None,
        "model_weights": str(found.snapshot) if found.snapshot else None,
    }


def _described(found: ResolvedModel) -> tuple[str | None, int | None]:
    if found.snapshot is not None:
        from launcher.models.inspect.facts import facts

        try:
            what = facts(found.snapshot)
        except LauncherError:
            return None, None
        return what.task, what.vocabulary
    return (_task(found.entry, None) if found.entry else None), None


# vec-inf's name for a value, and ours in a profile and in a plan's origins.
_OURS = {
    "gpus_per_node": "gpus", "resource_type": "gpu_type", "num_nodes": "nodes", "cpus_per_task": "cpus",
    "mem_per_node": "memory_gb", "account": "account", "qos": "qos", "partition": "partition", "time": "hours",
    "profile": "profile", "environment": "environment",
}  # fmt: skip


def _origins(profile: Profile, plan: Plan | None, settings: Settings) -> dict[str, str]:
    told: dict[str, str] = {}
    for name, ours in _OURS.items():
        key = f"profiles.{profile.name}.{ours}"
        own = plan.origins.get(ours) if plan else None
        if own is None and key in settings.origins:
            own = settings.where(key)
        if own is not None:
            told[name] = own
    return told

"""Starting the same again from a record, and saying what is not the same.

The record is a wish, not an order: what it asks for is checked like any request, for whoever runs it, here and now.
Owns that request; what differs is `launcher.api.differences`' word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.api.differences import Difference, compared
from launcher.engines.vllm_arguments import check_args
from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.resolve import resolve
from launcher.planning import Request, make_plan
from launcher.planning.surroundings import OWN
from launcher.sessions.plan import Plan
from launcher.settings.schema import Settings

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.api.record import Record

# What a request may change of a profile; the first three are of a person, not of the work.
_PERSONAL = ("account", "qos", "reservation")
_RESOURCES = (
    "partition",
    "constraint",
    "nodes",
    "gpus",
    "gpu_type",
    "cpus",
    "memory_gb",
    "exclude",
    "nodelist",
)
# What another site's record says that has a meaning here.
_SIZES = ("gpus", "gpu_type", "cpus", "memory_gb")
_TRUST = "--trust-remote-code"


@dataclass(frozen=True, slots=True)
class Rerun:
    """What would be started, what differs from the record, and what could not be compared, as sentences."""

    plan: Plan
    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...]


def prepared(launcher: Launcher, record: Record, *, door: str, strict: bool = False, **changed: Any) -> Rerun:
    """The plan for what `record` says; `changed` are fields of a request that shall be otherwise.

    Reads the model's files to compare them; submits nothing. Raises what planning raises, and with `strict`
    RequestError where anything differs.
    """
    settings = launcher.settings
    _check_fields(changed)
    mine = _is_mine(launcher, record)
    request = _request(record.plan, settings, changed, mine=mine)
    plan = make_plan(request, settings, door=door)
    for name, value in _missing(record.plan, plan, changed, mine=mine).items():
        # What may not be asked for here (another site's own variables) is left out, and told as a difference.
        with contextlib.suppress(RequestError):
            wider = dataclasses.replace(request, **{name: value})
            plan, request = make_plan(wider, settings, door=door), wider
    plan = dataclasses.replace(plan, origins={**plan.origins, "rerun": record.plan.id})
    differences, not_compared = compared(record, plan)
    asked = _asked(changed) | (set() if mine else set(_PERSONAL))
    if strict and (unasked := [one for one in differences if one.what not in asked]):
        named = ", ".join(one.what for one in unasked[:8])
        more = f" and {len(unasked) - 8} more" if len(unasked) > 8 else ""
        verb = "differs" if len(unasked) == 1 else "differ"
        raise RequestError(
            f"It would not be the same as session {record.plan.id}: {named}{more} {verb}.",
            "See: launcher rerun RECORD --dry-run; or leave out --strict.",
        )
    return Rerun(plan, differences, not_compared)


def _asked(changed: dict[str, Any]) -> set[str]:
    """What may differ because it was asked for, in the words of `launcher.api.differences`."""
    names = {name.replace("_", " ") for name in changed}
    if "profile" in changed:
        names.update(field.replace("_", " ") for field in (*_RESOURCES, *_PERSONAL, "sbatch args", "cluster"))
    if "environment" in changed:
        own = ("kind of environment", "folder of the environment", "modules", "binds", "image")
        names.update((*own, "image's id", "image's size", "image's time"))
    return names


def _check_fields(changed: dict[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(Request)} - {"model", "revision"}
    for name in changed:
        if name not in known:
            raise RequestError(f'A rerun cannot change "{name[:60]}".', "Launch a new session instead.")


def _request(then: Plan, settings: Settings, changed: dict[str, Any], *, mine: bool) -> Request:
    model, revision = _model(then, settings)
    name = changed.get("profile") or then.resources.profile
    wanted: dict[str, Any] = {"fit_check": False, "page": then.page, "name": then.name}
    if name in settings.profiles:
        profile = settings.profiles[name]
        wanted["profile"] = name
    else:  # another site's record, or the profile has another name by now
        profile = None
    personal = _PERSONAL if mine else ()
    for field in (*(_RESOURCES if profile is not None else _SIZES), *personal):
        value = getattr(then.resources, field)
        # What the profile says by itself need not be asked for, and may be the site's to say.
        if value is not None and (profile is None or getattr(profile, field, None) != value):
            wanted[field] = value
    if "profile" in changed:  # other hardware: what was asked of the old one says nothing of it
        wanted = {field: value for field, value in wanted.items() if field not in (*_RESOURCES, *_PERSONAL)}
    wanted["hours"], wanted["idle_minutes"] = then.limits.hours, then.limits.idle_minutes
    wanted["environment"] = _environment(then, settings, mine=mine)
    wanted.update(_arguments(then, model, revision, settings))
    if not mine and not changed.get("trust_remote_code"):
        _check_code(then, wanted)
    return Request(model=model, revision=revision, **{**wanted, **changed})


def _model(then: Plan, settings: Settings) -> tuple[str, str | None]:
    """The model as it has to be called here to get that very copy, and its commit."""
    was = then.model
    tries = [(was.id, was.revision)]
    if was.snapshot is not None and was.revision is None:
        # A plain folder is the same only at the same place; elsewhere its id may mean another.
        tries.insert(0, (was.snapshot, None))
    troubles: list[LauncherError] = []
    for model, revision in tries:
        try:
            resolve(model, settings, revision)
        except (ModelError, RequestError) as error:
            troubles.append(error)
        else:
            return model, revision
    # A path is nobody's to correct; where there is an id, its trouble may say how to get the model.
    raise type(troubles[0])(
        f"The model of session {then.id[:80]} is not here as it was. {troubles[0].message}", troubles[-1].hint
    )


def _is_mine(launcher: Launcher, record: Record) -> bool:
    """Whether it is the record of a session of this user's list: whatever else it says, a stranger may have written."""
    then = record.plan
    kept = os.path.realpath(launcher.folder / then.id) if "/" not in then.id else None
    return (
        then.user == pwd.getpwuid(os.getuid()).pw_name
        and os.path.realpath(os.path.dirname(record.source)) == kept
    )


def _check_code(then: Plan, wanted: dict[str, Any]) -> None:
    """Raise RequestError where somebody else's record would have code run that is not the site's."""
    try:
        if then.engine == "vllm":
            check_args(wanted.get("engine_args", ()), allow_remote_code=False)
        asks = bool(wanted.get("trust_remote_code"))
    except RequestError:
        asks = True
    if asks:
        raise RequestError(
            f"{then.id[:80]} is no session of yours, and its record asks for code that is not the site's.",
            "Look at its engine arguments (launcher record FILE); then launch the model with those that you trust.",
        )


def _environment(then: Plan, settings: Settings, *, mine: bool) -> str | None:
    was = then.environment
    if was.name == OWN and not mine:
        return None  # a program of somebody else, which would run as me
    if was.name == OWN:
        return was.image if was.kind == "container" else was.path
    known = settings.environments.get(was.name)
    holds = known is not None and (not known.engines or then.engine in known.engines)
    return was.name if holds else None


def _arguments(then: Plan, model: str, revision: str | None, settings: Settings) -> dict[str, Any]:
    """The engine's arguments as they were, less what the catalog gives anyway."""
    entry = resolve(model, settings, revision).entry
    preset = entry.engine_args if entry else ()
    was = then.engine_args
    own = was[len(preset) :] if was[: len(preset)] == preset else was
    trusted = _TRUST in own and _TRUST not in preset
    if not settings.allow.engine_args and own:
        # Whoever may not add arguments gets those that fit here, as with every launch.
        return {"fit_check": True}
    return {"engine_args": tuple(word for word in own if word != _TRUST), "trust_remote_code": trusted}


def _missing(then: Plan, now: Plan, changed: dict[str, Any], *, mine: bool) -> dict[str, Any]:
    """What the plan `now` would still have to be asked for: variables, binds, the folder that the engine runs in."""
    was, here = then.environment, now.environment
    found: dict[str, Any] = {
        "env": {n: v for n, v in was.env.items() if here.env.get(n) != v and (mine or _is_plain(n, v))},
    }
    if mine:  # folders of somebody else mean nothing to me
        found["binds"] = tuple(bind for bind in was.binds if bind not in here.binds)
        found["work_dir"] = then.work_dir
    return {name: value for name, value in found.items() if value and name not in changed}


def _is_plain(name: str, value: str) -> bool:
    # A path in a variable of somebody else means nothing to me, and may name code to load.
    return "/" not in value and not name.startswith(("PYTHON", "LD_"))

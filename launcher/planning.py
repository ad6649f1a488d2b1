"""A request becomes a plan: every value is checked here, once, whichever door it came through.

Owns the rules (what may be asked for, what holds when nothing is asked) and writes nothing; `launcher.api` makes the
directory and submits.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import pwd
import re
import secrets
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.engines import engine as engine_called
from launcher.errors import RequestError, SettingsError
from launcher.models.resolve import ResolvedModel, resolve
from launcher.sessions.plan import Limits, Plan, PlannedCluster, PlannedModel, Resources
from launcher.settings.records import record
from launcher.settings.schema import TOKEN, Environment, Profile, Settings

_WORDS = ("partition", "account", "qos", "constraint", "reservation", "gpu_type")
_SIZES = {"nodes": 1, "gpus": 0, "cpus": 1, "memory_gb": 0.1}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for; None means: choose for me. Sizes are per node, `memory_gb` in GiB, times as named."""

    model: str
    profile: str | None = None
    revision: str | None = None
    name: str | None = None
    hours: float | None = None
    idle_minutes: float | None = None
    environment: str | None = None
    page: bool | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    engine_args: tuple[str, ...] = ()
    trust_remote_code: bool = False


def make_plan(request: Request, settings: Settings, *, door: str) -> Plan:
    """The plan for `request`; `door` is `shell`, `python` or `ondemand`.

    Raises RequestError for a value that may not be asked for, ModelError for the model, SettingsError where the
    site's own description cannot work. Reads the model's files, writes nothing.
    """
    _check_types(request)
    model = resolve(request.model, settings, request.revision)
    origins: dict[str, str] = {"model": model.found}
    profile = _profile(request, model, settings, origins)
    engine_name = model.entry.engine if model.entry else "vllm"
    environment = _environment(request, model, profile, engine_name, settings, origins)
    hours = _hours(request, profile, settings, origins)
    idle_minutes = _idle_minutes(request, settings, origins)
    arguments = _engine_args(request, model, engine_name, settings)
    name = _name(request, model)
    cluster = settings.clusters[profile.cluster]
    if model.entry:
        environment = dataclasses.replace(environment, env={**environment.env, **model.entry.env})
    return Plan(
        id=f"{name}-{secrets.token_hex(4)}",
        name=name,
        created_at=time.time(),
        door=door,
        user=pwd.getpwuid(os.getuid()).pw_name,
        engine=engine_name,
        model=PlannedModel(
            model.id, model.id, str(model.snapshot) if model.snapshot else None, model.revision
        ),
        cluster=PlannedCluster(cluster.name, cluster.scheduler, cluster.login_host),
        resources=_resources(request, profile, settings, origins),
        environment=environment,
        limits=Limits(
            hours,
            idle_minutes,
            settings.session.start_timeout_minutes * 60,
            settings.session.engine_restarts,
        ),
        network=settings.network,
        places=settings.places,
        launcher=launcher_program(),
        engine_args=arguments,
        page=settings.session.page if request.page is None else request.page,
        origins=origins,
    )


def _check_types(request: Request) -> None:
    values = {f.name: getattr(request, f.name) for f in dataclasses.fields(Request)}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    try:
        record(Request, given, "request", lambda key: key)
    except SettingsError as error:
        raise RequestError(error.message.partition(": request.")[2] or error.message, "Correct it.") from None


def launcher_program() -> str:
    """The absolute path of the `launcher` command that belongs to this Python."""
    return str(Path(sys.executable).parent / "launcher")


def unknown(what: str, value: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is not there, with the near ones or all."""
    names = list(known)
    near = difflib.get_close_matches(value, names, 3)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"Choose one of: {', '.join(names)}."
    return RequestError(f'Unknown {what} "{value[:80]}".', advice)


def _profile(request: Request, model: ResolvedModel, settings: Settings, origins: dict[str, str]) -> Profile:
    fitting = model.entry.profiles if model.entry else ()
    if request.profile is not None:
        if request.profile not in settings.profiles:
            raise unknown("profile", request.profile, settings.profiles)
        name, origins["profile"] = request.profile, "request"
        if fitting and name not in fitting:
            raise RequestError(
                f'Model "{request.model}" does not run on profile "{name}".',
                f"Choose one of: {', '.join(fitting)}.",
            )
    elif fitting:
        name, origins["profile"] = fitting[0], "catalog"
    elif settings.session.profile is not None:
        name, origins["profile"] = settings.session.profile, settings.origin("session.profile")
    else:
        name, origins["profile"] = next(iter(settings.profiles)), "the first profile"
    return settings.profiles[name]


def _environment(
    request: Request,
    model: ResolvedModel,
    profile: Profile,
    engine_name: str,
    settings: Settings,
    origins: dict[str, str],
) -> Environment:
    if request.environment is not None:
        if request.environment not in settings.environments:
            raise unknown("environment", request.environment, settings.environments)
        name, origins["environment"] = request.environment, "request"
    elif model.entry and model.entry.environment:
        name, origins["environment"] = model.entry.environment, "catalog"
    elif profile.environment:
        name, origins["environment"] = (
            profile.environment,
            settings.origin(f"profiles.{profile.name}.environment"),
        )
    elif settings.environments:
        own = [n for n in settings.environments if settings.origin(f"environments.{n}") != "defaults"]
        name, origins["environment"] = (own or list(settings.environments))[0], "the first environment"
    else:
        raise SettingsError(
            f"{settings.origin('environments')}: environments is empty.", "Describe at least one."
        )
    environment = settings.environments[name]
    if engine_name != "simulated":
        _check_environment(environment, engine_name, settings)
    return environment


def _check_environment(environment: Environment, engine_name: str, settings: Settings) -> None:
    at = f"environments.{environment.name}"
    if environment.kind == "venv":
        folder = (
            Path(os.path.expanduser(environment.path))
            if environment.path
            else Path(sys.executable).parent.parent
        )
        program = folder / "bin" / engine_name
        if not os.access(program, os.X_OK):
            raise SettingsError(
                f"{settings.origin(at)}: {at} has no program {program}.",
                f"Install {engine_name} there, or choose another environment.",
            )
    elif environment.kind == "container" and environment.image and not Path(environment.image).exists():
        raise SettingsError(
            f"{settings.origin(at)}: {at}.image {environment.image} is not there.",
            "Ask the site to put it there.",
        )


def _hours(request: Request, profile: Profile, settings: Settings, origins: dict[str, str]) -> float:
    if request.hours is None:
        key = f"profiles.{profile.name}.hours"
        origins["hours"] = settings.origin(key if profile.hours is not None else "session.hours")
        return min(profile.hours if profile.hours is not None else settings.session.hours, profile.hours_max)
    origins["hours"] = "request"
    if not math.isfinite(request.hours) or request.hours <= 0:
        raise RequestError(
            f"The hours must be more than 0, not {request.hours:g}.",
            f'Profile "{profile.name}" allows up to {profile.hours_max:g}.',
        )
    if request.hours > profile.hours_max:
        raise RequestError(
            f'Profile "{profile.name}" allows up to {profile.hours_max:g} hours, not {request.hours:g}.',
            "Ask for fewer hours or choose another profile.",
        )
    return request.hours


def _idle_minutes(request: Request, settings: Settings, origins: dict[str, str]) -> float:
    limit = settings.session.idle_minutes
    if request.idle_minutes is None:
        origins["idle_minutes"] = settings.origin("session.idle_minutes")
        return limit
    origins["idle_minutes"] = "request"
    if not math.isfinite(request.idle_minutes) or request.idle_minutes < 0:
        raise RequestError(
            f"The idle minutes must be 0 or more, not {request.idle_minutes:g}.",
            "0 means: never stop for that.",
        )
    if not (limit and settings.locked("session.idle_minutes")):
        return request.idle_minutes
    if request.idle_minutes == 0:
        raise RequestError(
            "An idle time of 0 means never, which this site does not allow.",
            f"Ask for at most {limit:g} minutes.",
        )
    if request.idle_minutes > limit:
        raise RequestError(
            f"This site allows at most {limit:g} idle minutes, not {request.idle_minutes:g}.",
            "Ask for fewer.",
        )
    return request.idle_minutes


def _engine_args(
    request: Request, model: ResolvedModel, engine_name: str, settings: Settings
) -> tuple[str, ...]:
    if request.engine_args and not settings.allow.engine_args:
        raise RequestError("This site does not allow further engine arguments.", "Leave them out.")
    for argument in request.engine_args:
        if not argument.isprintable() or len(argument) > 10_000:
            raise RequestError(
                f"The engine argument {argument[:40]!r} holds a character that cannot be shown, or is too long.",
                "Write each argument on one line.",
            )
    preset = model.entry.engine_args if model.entry else ()
    if model.entry and settings.from_user(f"catalog.{model.entry.name}.engine_args"):
        request = dataclasses.replace(request, engine_args=(*preset, *request.engine_args))
        preset = ()  # the user's own entry: what is in it is asked for like the rest
        if not settings.allow.engine_args:
            raise RequestError("This site does not allow further engine arguments.", "Leave them out.")
    own = ("--trust-remote-code",) if request.trust_remote_code and engine_name == "vllm" else ()
    if own and not settings.allow.trust_remote_code:
        raise RequestError("This site does not run code that comes with a model.", "Choose another model.")
    engine = engine_called(engine_name)
    engine.check_args(request.engine_args, allow_remote_code=settings.allow.trust_remote_code)
    return (*preset, *own, *request.engine_args)


def _name(request: Request, model: ResolvedModel) -> str:
    if request.name is None:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", model.id.rpartition("/")[2])[:40].strip("-.") or "session"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", request.name):
        raise RequestError(
            f"{request.name[:60]!r} cannot be a session's name.",
            "Use up to 40 letters, digits, dots and dashes.",
        )
    return request.name


def _resources(request: Request, profile: Profile, settings: Settings, origins: dict[str, str]) -> Resources:
    values: dict[str, Any] = {}
    for field in (*_WORDS, *_SIZES):
        asked = getattr(request, field)
        key = f"profiles.{profile.name}.{field}"
        values[field] = getattr(profile, field) if asked is None else asked
        if asked is None:
            if key in settings.origins:
                origins[field] = settings.origin(key)
            continue
        origins[field] = "request"
        if settings.locked(key):
            raise RequestError(
                f"This site does not let you choose {field} on profile {profile.name}.", "Leave it out."
            )
        if field in _WORDS and not re.fullmatch(TOKEN, asked):
            raise RequestError(
                f"The {field} must be one plain word, not {asked[:60]!r}.", "Look it up with sinfo."
            )
        if field in _SIZES and not (math.isfinite(asked) and _SIZES[field] <= asked < 1e6):
            raise RequestError(f"The number of {field} must be at least {_SIZES[field]}, not {asked:g}.")
    return Resources(profile=profile.name, sbatch_args=profile.sbatch_args, **values)


def unknown_field(wanted: Iterable[str]) -> RequestError:
    """The error for a request with a field that does not exist."""
    known = [field.name for field in dataclasses.fields(Request)]
    return unknown("option", next(name for name in wanted if name not in known), known)

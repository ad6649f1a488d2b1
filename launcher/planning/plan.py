"""From a request to a plan: the order in which things are decided."""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from launcher.engines.vllm_arguments import option_values
from launcher.errors import RequestError
from launcher.models.resolve import ResolvedModel, resolve
from launcher.models.snapshot import no_tokenizer
from launcher.models.speech import check_format, is_chosen_for_vllm
from launcher.planning.advice import advised
from launcher.planning.arguments import arguments_of
from launcher.planning.asked import REQUEST, traced
from launcher.planning.choice import choose
from launcher.planning.environment import choose_environment
from launcher.planning.request import Request, check_types
from launcher.planning.resources import check_values, resources_of
from launcher.planning.spread import spread
from launcher.planning.surroundings import log_dir_of, surrounded, work_dir_of
from launcher.planning.times import hours_of, idle_minutes_of
from launcher.sessions.plan import CHOSEN, Limits, Plan, PlannedCluster, PlannedModel
from launcher.settings.schema import Settings


def make_plan(
    request: Request, settings: Settings, *, door: str, said: Mapping[str, str] | None = None
) -> Plan:
    """The plan for `request`; `door` is `shell`, `python` or `ondemand`, `said` tells who named each of its fields.

    Raises RequestError for a value that may not be asked for, ModelError for the model, SettingsError where the
    site's own description cannot work. Reads the model's files, writes nothing.
    """
    try:
        return _made(request, settings, door, said or {})
    except RequestError as error:
        raise (traced(error, said) if said else error) from error.__cause__


def _made(request: Request, settings: Settings, door: str, said: Mapping[str, str]) -> Plan:
    check_types(request)
    model = resolve(request.model, settings, request.revision)
    origins: dict[str, str] = {"model": model.found}
    engine_name = model.engine
    if request.engine not in (None, engine_name):
        raise RequestError(
            f'Model "{model.id}" runs on the engine {engine_name}, not on {request.engine}.',
            "Leave the engine out.",
        )
    check_values(request)
    if engine_name == "vllm" and model.snapshot is not None and not is_chosen_for_vllm(model.entry, settings):
        check_format(model.id, model.snapshot, settings)
    arguments = arguments_of(request, model, engine_name, settings)
    choice = choose(request, model, engine_name, arguments, settings, origins)
    profile = choice.profile
    environment = choose_environment(request, model, profile, engine_name, settings, origins)
    hours = hours_of(request, profile, settings, origins)
    idle_minutes = idle_minutes_of(request, settings, origins)
    if engine_name == "vllm":
        remote = settings.allow.trust_remote_code
        if model.snapshot is not None and not model.tokenizer and not _tokenizer_named(arguments):
            raise no_tokenizer(model.snapshot, model.id)
        arguments += (*choice.engine_args, *advised(model.id, arguments, allow_remote_code=remote))
    name = _name(request, model)
    cluster = settings.clusters[profile.cluster]
    environment = surrounded(environment, model.entry.env if model.entry else {}, request, settings)
    resources = resources_of(request, profile, choice.gpus, settings, origins)
    if engine_name == "vllm" and resources.nodes > 1:
        arguments += (share := spread(arguments, resources.nodes, resources.gpus))
        origins.update((word, CHOSEN) for word in share if word.startswith("--"))
    for field in _named(request):
        if origins.setdefault(field, REQUEST) == REQUEST:
            origins[field] = said.get(field, REQUEST)
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
        cluster=PlannedCluster(cluster.name, cluster.scheduler, cluster.login_host, cluster.ssh),
        resources=resources,
        environment=environment,
        limits=Limits(
            hours,
            idle_minutes,
            settings.session.start_timeout_minutes * 60,
            settings.session.engine_restarts,
            settings.limits.audio_hours if engine_name == "whisper" else None,
            settings.limits.batch_file_gb,
            settings.limits.batch_files_gb,
        ),
        network=settings.network,
        places=dataclasses.replace(settings.places, sessions=log_dir_of(request, settings)),
        launcher=launcher_program(),
        engine_args=arguments,
        audio_folders=settings.allow.audio_folders if engine_name == "whisper" else (),
        page=settings.session.page if request.page is None else request.page,
        work_dir=work_dir_of(request),
        origins=origins,
    )


def _named(request: Request) -> list[str]:
    """The fields in which it is not the usual request."""
    usual = Request(request.model)
    names = [field.name for field in dataclasses.fields(Request)]
    return [name for name in names if getattr(request, name) != getattr(usual, name)]


def _tokenizer_named(arguments: tuple[str, ...]) -> bool:
    return any(option_values(arguments, option) for option in ("--tokenizer", "--skip-tokenizer-init"))


def launcher_program() -> str:
    """The absolute path of the `launcher` command that belongs to this Python."""
    return str(Path(sys.executable).parent / "launcher")


def _name(request: Request, model: ResolvedModel) -> str:
    if request.name is None:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", model.id.rpartition("/")[2])[:40].strip("-.") or "session"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", request.name):
        raise RequestError(
            f"{request.name[:60]!r} cannot be a session's name.",
            "Use up to 40 letters, digits, dots and dashes.",
        )
    return request.name

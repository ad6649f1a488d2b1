"""Which environment the engine's program comes from, and whether it is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher.errors import RequestError, SettingsError
from launcher.models.resolve import ResolvedModel
from launcher.planning.request import Request, unknown
from launcher.settings.schema import Environment, Profile, Settings


def choose_environment(
    request: Request,
    model: ResolvedModel,
    profile: Profile,
    engine_name: str,
    settings: Settings,
    origins: dict[str, str],
) -> Environment:
    """The environment of a session: asked for, or the catalog's, the profile's, or the site's first."""
    holding = [n for n, e in settings.environments.items() if not e.engines or engine_name in e.engines]
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
        own = [n for n in holding if settings.origin(f"environments.{n}") != "defaults"]
        name = (own or holding or list(settings.environments))[0]
        origins["environment"] = "the first environment"
    else:
        raise SettingsError(
            f"{settings.where('environments')}: environments is empty.", "Describe at least one."
        )
    environment = settings.environments[name]
    if name not in holding:
        raise RequestError(
            f'Environment "{name}" does not hold the engine {engine_name}.',
            f"Choose one of: {', '.join(holding)}." if holding else "Ask the site for one that does.",
        )
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
                f"{settings.where(at)}: {at} has no program {program}.",
                f"Install {engine_name} there, or choose another environment.",
            )
    elif environment.kind == "container" and environment.image and not Path(environment.image).exists():
        raise SettingsError(
            f"{settings.where(at)}: {at}.image {environment.image} is not there.",
            "Ask the site to put it there.",
        )

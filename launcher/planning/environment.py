"""Which environment the engine's program comes from, and whether it is there."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.engines.installed import venv_folder
from launcher.engines.whisper_arguments import PACKAGES
from launcher.errors import RequestError, SettingsError
from launcher.models.resolve import ResolvedModel
from launcher.planning.request import Request, unknown
from launcher.planning.surroundings import own_environment
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
    asked = request.environment
    if asked is not None and (own := own_environment(asked, engine_name, settings)) is not None:
        origins["environment"] = "request"
        if engine_name != "simulated":
            try:
                check_environment(own, engine_name, settings)
            except SettingsError as error:  # it stands in no file
                said = error.message.rpartition(f"environments.{own.name} ")[2]
                raise RequestError(f"The environment {asked[:200]} {said}", error.hint) from None
        return own
    holding = [n for n, e in settings.environments.items() if not e.engines or engine_name in e.engines]
    if request.environment is not None:
        if request.environment not in settings.environments:
            raise unknown("environment", request.environment, settings.environments)
        name, origins["environment"] = request.environment, "request"
    elif model.entry and model.entry.environment:
        name, origins["environment"] = model.entry.environment, "catalog"
    elif profile.environment and _means(profile.environment, engine_name, settings):
        name, origins["environment"] = (
            profile.environment,
            settings.origin(f"profiles.{profile.name}.environment"),
        )
    elif settings.environments:
        meant = [n for n in holding if _means(n, engine_name, settings)]
        named = [n for n in meant or holding if settings.origin(f"environments.{n}") != "defaults"]
        name = (named or meant or holding or list(settings.environments))[0]
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
        check_environment(environment, engine_name, settings)
    return environment


def _means(name: str, engine_name: str, settings: Settings) -> bool:
    """Whether the environment `name` is for the engine, where nobody said so for this model or session.

    For Whisper one is only that names it, or the launcher's own: what holds "any" engine was made for vLLM.
    """
    environment = settings.environments[name]
    if engine_name != "whisper":
        return True
    return "whisper" in environment.engines or (
        not environment.engines and environment.kind == "venv" and environment.path is None
    )


def check_environment(environment: Environment, engine_name: str, settings: Settings) -> None:
    """Raise SettingsError where `environment` has not what the engine's program needs, as far as files tell."""
    at = f"environments.{environment.name}"
    if environment.kind == "venv":
        folder = venv_folder(environment)
        if engine_name == "whisper":
            _check_packages(environment, folder, settings)
            return
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


def _check_packages(environment: Environment, folder: Path, settings: Settings) -> None:
    # Its program is the launcher's own, and runs on the Python of the environment.
    at = f"environments.{environment.name}"
    python = folder / "bin" / "python3"
    if not os.access(python, os.X_OK):
        raise SettingsError(
            f"{settings.where(at)}: {at} has no program {python}.",
            "Correct the environment's path, or choose another environment.",
        )
    places = list(folder.glob("lib*/python3*/site-packages"))
    missing = [name for name in PACKAGES if not any((place / name).is_dir() for place in places)]
    # A venv may borrow from the Python it was made of (--system-site-packages); only starting it could tell then.
    if not missing or _borrows(folder):
        return
    named = ", ".join(name.replace("_", "-") for name in missing)
    if environment.path is None:
        raise SettingsError(
            f"The launcher's own Python has no {named}, which Whisper sessions need.",
            "Ask the site to install it: make install PREFIX=… EXTRAS='ui whisper'. "
            "In a checkout of your own: scripts/venv.sh .venv whisper.",
        )
    raise SettingsError(
        f"{settings.where(at)}: {at} ({folder}) has no {named}.",
        f"Install {' '.join(name.replace('_', '-') for name in PACKAGES)} there, or choose another environment.",
    )


def _borrows(folder: Path) -> bool:
    try:
        text = (folder / "pyvenv.cfg").read_text(errors="replace")
    except OSError:
        return True  # no venv at all, perhaps a conda environment whose packages are elsewhere
    lines = (line.partition("=") for line in text.lower().splitlines())
    return any(
        key.strip() == "include-system-site-packages" and value.strip() == "true" for key, _, value in lines
    )

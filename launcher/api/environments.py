"""Where the engines' programs come from: each environment of the site, and whether it is there.

Owns looking at files; nothing is started, so of modules nothing is known here (`launcher doctor` loads them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.engines.installed import PACKAGE, Image, installed
from launcher.errors import SettingsError
from launcher.planning.environment import check_environment

if TYPE_CHECKING:
    from launcher.settings.schema import Environment, Settings


@dataclass(frozen=True, slots=True)
class Held:
    """One environment; `versions` are those of the engines that were found in it, None where that is not known.

    `staged` is whether its program is there, None where only a job can tell; `trouble` what is missing. `place` is a
    folder, an image or the modules' names, `origin` the file that describes it.
    """

    name: str
    kind: str
    place: str
    staged: bool | None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    image: Image | None = None
    trouble: str | None = None
    origin: str = ""


def environments(settings: Settings) -> list[Held]:
    """Every environment of the site, in its order."""
    return [_held(environment, settings) for environment in settings.environments.values()]


def _held(environment: Environment, settings: Settings) -> Held:
    found = installed(environment)
    # One that names no engine is for any: the first that is missing says nothing.
    engines = [name for name in environment.engines or PACKAGE if name in PACKAGE]
    troubles = {name: _trouble(environment, name, settings) for name in engines}
    there = [name for name in engines if troubles[name] is None]
    trouble = None
    if environment.engines:
        trouble = next((why for why in troubles.values() if why is not None), None)
    elif not there and not (environment.kind == "venv" and environment.path is None):
        # The launcher's own is always there, if only for the simulated engine.
        trouble = troubles[engines[0]]
    place = {
        "container": environment.image or "",
        "module": " ".join(environment.modules),
        "venv": environment.path or "the launcher's own",
    }[environment.kind]
    address = environment.kind == "container" and "://" in place
    staged = None if environment.kind == "module" or address else trouble is None
    versions = {name: found.version(name) for name in there} if environment.kind == "venv" else {}
    return Held(
        environment.name,
        environment.kind,
        place,
        staged,
        versions,
        found.image,
        trouble,
        settings.where(f"environments.{environment.name}"),
    )


def _trouble(environment: Environment, engine: str, settings: Settings) -> str | None:
    try:
        check_environment(environment, engine, settings)
    except SettingsError as error:
        return str(error)
    return None

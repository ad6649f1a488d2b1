"""What a request may put around the engine: variables, folders that a container sees, places, a venv of its own.

Owns which of them are refused: what is no secret's place, what is the launcher's own, what the site keeps to itself.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import RequestError
from launcher.planning.request import Request
from launcher.settings.pathnames import expanded, unset
from launcher.settings.schema import Environment, Settings

OWN = "own"
CONTAINERS = ("apptainer", "singularity", "container", "docker")
_NAME_MOST = 200
_SECRET = re.compile(r"(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)", re.IGNORECASE)
# How names begin whose values the launcher or Slurm chooses, or that would write prompts into a log or open a second
# door; then names that are so as a whole.
_LAUNCHERS = (
    "LAUNCHER_", "SLURM_", "APPTAINER", "SINGULARITY", "VLLM_LOGGING_", "VLLM_CONFIGURE_LOGGING", "VLLM_DEBUG_",
    "VLLM_TRACE_FUNCTION", "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_RPC_BASE_PATH",
    "VLLM_HOST_IP", "VLLM_PORT", "VLLM_DP_", "GLOO_SOCKET_IFNAME",
)  # fmt: skip
_EXACT = ("PATH", "HOME", "TMPDIR")
# These make the engine load foreign code.
_CODE = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "BASH_ENV",
    "VLLM_PLUGINS",
    "VLLM_USE_MODELSCOPE",
)
# What every engine gets: it never downloads, and the user's own packages are not among its own.
_ALWAYS_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONNOUSERSITE")
_MOST = 10_000
_IMAGES = (".sif", ".simg", ".img")


def surrounded(
    environment: Environment, entry_env: Mapping[str, str], request: Request, settings: Settings
) -> Environment:
    """`environment` with the catalog's variables and the request's, and its binds; raises RequestError.

    Without a container a bind has no meaning: every folder is seen as it is.
    """
    for what, field, given in (
        ("variables for the engine", "env", request.env), ("binds", "binds", request.binds),
    ):  # fmt: skip
        if given and settings.locked(f"environments.{environment.name}.{field}"):
            raise RequestError(f"This site does not let you add {what}.", "Leave them out.")
    if request.env and not settings.allow.engine_args:
        raise RequestError("This site does not allow further variables for the engine.", "Leave them out.")
    for name, value in request.env.items():
        _check_variable(name, value, settings)
    binds = tuple(_bind(bind) for bind in request.binds)
    return dataclasses.replace(
        environment,
        env={**environment.env, **entry_env, **request.env},
        binds=(*environment.binds, *(binds if environment.kind == "container" else ())),
    )


def work_dir_of(request: Request) -> str | None:
    """The folder that the engine runs in, if one is asked for; raises RequestError where it cannot be."""
    if request.work_dir is None:
        return None
    folder = _place(request.work_dir, "working directory")
    if not os.path.isdir(folder):
        raise RequestError(f"The working directory {folder} is not there.", "Make it, or name another.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"You may not write into the working directory {folder}.", "Name another.")
    return folder


def log_dir_of(request: Request, settings: Settings) -> str:
    """The folder that the session's own is made in: the one asked for, or the site's.

    Below a folder of somebody else it is one with this user's name: a session's folder is private.
    """
    if request.log_dir is None:
        return settings.places.sessions
    if settings.locked("places.sessions"):
        raise RequestError("This site says where the logs of sessions are.", "Leave the log directory out.")
    folder = _place(request.log_dir, "log directory")
    try:
        theirs = os.stat(folder)
    except OSError:
        return folder
    if theirs.st_uid != os.getuid() or theirs.st_mode & 0o002:
        folder = os.path.join(folder, pwd.getpwuid(os.getuid()).pw_name)
    # Whose link it is, may lead it elsewhere tomorrow.
    if os.path.islink(folder) and os.lstat(folder).st_uid not in (os.getuid(), 0):
        raise RequestError(f"The log directory {folder} is a link of somebody else.", "Name another.")
    return folder


def own_environment(text: str, engine_name: str, settings: Settings) -> Environment | None:
    """The environment that is no name of the site's: a folder (a venv), an image, or "the container"; else None.

    Raises RequestError where the site keeps environments to itself, or nothing of the kind is there.
    """
    holding = [e for e in settings.environments.values() if not e.engines or engine_name in e.engines]
    containers = [environment for environment in holding if environment.kind == "container"]
    if text in CONTAINERS:
        if not containers:
            raise RequestError(
                f"No container here holds the engine {engine_name}.", "See: launcher config show"
            )
        return containers[0]
    if "/" not in text and not text.startswith(("~", "$")):
        return None
    if settings.locked("environments"):
        raise RequestError(
            "This site does not let you bring an environment of your own.",
            f"Choose one of: {', '.join(settings.environments)}.",
        )
    path = _place(text, "environment")
    if os.path.isdir(path):
        if not os.access(Path(path, "bin", "python"), os.X_OK):
            raise RequestError(f"{path} is no virtual environment: it has no bin/python.", "Name its folder.")
        return Environment(OWN, kind="venv", path=path)
    if not os.path.isfile(path) or not path.endswith(_IMAGES):
        trouble = "is no image" if os.path.isfile(path) else "is not there"
        raise RequestError(
            f"The environment {path} {trouble}.",
            "Name a virtual environment's folder, or an image's .sif file.",
        )
    runtime = containers[0].runtime if containers else "apptainer"
    return Environment(OWN, kind="container", image=path, runtime=runtime)


def _check_variable(name: str, value: str, settings: Settings) -> None:
    if len(name) > _NAME_MOST:
        raise RequestError(f"The name {name[:40]!r}… of a variable is too long.", "Give it a shorter one.")
    if not value.isprintable() or len(value) > _MOST:
        raise RequestError(
            f"The variable {name} holds a character that cannot be shown, or is too long.",
            "Correct its value.",
        )
    if _SECRET.fullmatch(name):
        raise RequestError(
            f"The variable {name} looks like a secret, and the plan of a session is no place for one.",
            "Leave it out: an engine needs none, and launcher models add reads your token itself.",
        )
    switched_off = name in _ALWAYS_ON and value != "1"
    if switched_off or name in _EXACT or name.startswith(_LAUNCHERS):
        raise RequestError(f"The variable {name} is not yours to set.", "Leave it out.")
    if name in _CODE and not settings.allow.trust_remote_code:
        raise RequestError(
            f"The variable {name} would load code from outside the engine, which this site does not allow.",
            "Leave it out, or ask the site to set allow.trust_remote_code.",
        )


def _bind(bind: str) -> str:
    source, *inside = bind.split(":")
    found = ":".join((_place(source, "bind"), *inside))
    if len(inside) > 2 or any(not part for part in inside):
        raise RequestError(f"The bind {bind[:60]!r} has too many parts.", "Write /folder:/inside:ro.")
    if inside and not inside[0].startswith("/"):
        raise RequestError(f"The bind {bind[:60]!r} must name a full path inside.", "Begin it with /.")
    if len(inside) == 2 and inside[1] not in ("ro", "rw"):
        raise RequestError(f"The bind {bind[:60]!r} must end with ro or rw.", "Or leave that out.")
    return found


def _place(text: str, what: str) -> str:
    path = expanded(text) if text.isprintable() and len(text) <= 4000 else ""
    if (variable := unset(path)) is not None:
        raise RequestError(f"The {what} names {variable[:60]}, which is not set.", "Write the path out.")
    if not path.startswith(("/", "./", "../")) and path not in (".", ".."):
        raise RequestError(
            f"The {what} must be an absolute path, not {text[:60]!r}.", "Begin it with / or ~."
        )
    if what == "bind" and set(path) & set(",:"):
        raise RequestError(f"A container cannot be given the folder {path}.", "No comma, no colon.")
    return os.path.abspath(path)

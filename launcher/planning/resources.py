"""What Slurm is asked for: a profile, and what of it a request changes."""

from __future__ import annotations

import re
from typing import Any

from launcher.errors import RequestError
from launcher.planning.limits import account_of, check_gpus, qos_of
from launcher.planning.request import Request
from launcher.sessions.plan import Resources
from launcher.settings.schema import GPU_TYPE, HOSTS, TOKEN, Profile, Settings

_WORDS = ("partition", "account", "qos", "constraint", "reservation", "gpu_type")
# Which nodes; a profile says nothing of these.
_NODES = ("exclude", "nodelist")
_SIZES = {"nodes": 1, "gpus": 0, "cpus": 1, "memory_gb": 0.1}
_CALLED = {
    "nodes": "The number of nodes", "gpus": "The number of GPUs", "cpus": "The number of cores",
    "memory_gb": "The memory in GB",
}  # fmt: skip
_MOST = 1_000_000


def check_values(request: Request) -> None:
    """Raise RequestError for a word or number that no profile could take."""
    for field in _WORDS:
        asked = getattr(request, field)
        pattern = GPU_TYPE if field == "gpu_type" else TOKEN
        if asked is not None and not re.fullmatch(pattern, asked):
            raise RequestError(
                f"The {field} must be one plain word, not {asked[:60]!r}.", "Look it up with sinfo."
            )
    for field in _NODES:
        asked = getattr(request, field)
        if asked is not None and not re.fullmatch(HOSTS, asked):
            raise RequestError(
                f"The {field} must be names of nodes such as gpu[01-04],gpu09, not {asked[:60]!r}.",
                "Look them up with sinfo.",
            )
    for field, least in _SIZES.items():
        asked = getattr(request, field)
        if asked is None:
            continue
        if asked >= _MOST:
            raise RequestError(f"{_CALLED[field]} is too large.", f"Ask for less than {_MOST}.")
        if not asked >= least:  # also not a number
            raise RequestError(f"{_CALLED[field]} must be at least {least}, not {max(asked, -_MOST):g}.")


def check_gpu_type(request: Request, profile: Profile) -> None:
    """Raise RequestError for a kind of GPU on a profile that has none: a job without any would come of it."""
    if request.gpu_type is not None and not (profile.gpus or profile.gpus_max or request.gpus):
        raise RequestError(
            f'Profile "{profile.name}" has no GPU, and {request.gpu_type} was asked for.',
            "Choose another profile.",
        )


def resources_of(
    request: Request, profile: Profile, gpus: int | None, settings: Settings, origins: dict[str, str]
) -> Resources:
    """What Slurm is asked for: the profile, changed by the request where the site allows it.

    `gpus` is the number that was chosen to fit, if one was.
    """
    values: dict[str, Any] = {}
    for field in (*_WORDS, *_SIZES):
        asked = getattr(request, field)
        key = f"profiles.{profile.name}.{field}"
        values[field] = getattr(profile, field) if asked is None else asked
        if asked is None:
            if key in settings.origins:
                origins.setdefault(field, settings.origin(key))
            continue
        origins[field] = "request"
        if settings.locked(key):
            raise RequestError(
                f'This site does not let you choose {field} on profile "{profile.name}".', "Leave it out."
            )
    if gpus is not None and request.gpus is None:
        values["gpus"] = gpus
    check_gpus(values["nodes"], values["gpus"], profile, settings, asked=request.gpus is not None)
    values["account"] = account_of(request.account, profile)
    values["qos"] = qos_of(request.qos, profile)
    nodes = {field: getattr(request, field) for field in _NODES}
    return Resources(profile=profile.name, sbatch_args=profile.sbatch_args, **values, **nodes)

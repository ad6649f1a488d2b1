"""Which profiles a request may run on, the one to try first in front.

Owns the order, and the refusal where no profile can give what was asked for; whether a model fits is `choice`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.errors import RequestError
from launcher.models.fit.gpus import gpus_of
from launcher.models.fit.rules import needs_own_build
from launcher.models.resolve import ResolvedModel
from launcher.planning.limits import check_gpus, check_nodes, gpus_max
from launcher.planning.request import Request, unknown
from launcher.planning.resources import check_gpu_type, resources_of
from launcher.planning.times import TOO_MANY, hours_of, hours_words
from launcher.sessions.plan import FIRST_ABLE
from launcher.settings.schema import Profile, Settings

_GPUS, _PROCESSOR, _OLD_GPUS = range(3)


def candidates(
    request: Request, model: ResolvedModel, engine: str, settings: Settings, origins: dict[str, str]
) -> list[str]:
    """Names of the profiles that can give what `request` asks for, the first to try first; never none.

    Raises RequestError for a profile that is not there, and where none allows the hours, GPUs, account and so on.
    """
    names = _meant(request, _names(request, model, engine, settings, origins), settings, origins)
    troubles = {name: refusal(request, settings.profiles[name], engine, settings) for name in names}
    able = [name for name in names if troubles[name] is None]
    if not able:
        raise nobody(request, {n: error for n, error in troubles.items() if error is not None}, settings)
    if able[0] != names[0]:
        origins["profile"] = FIRST_ABLE
    return able


def refusal(request: Request, profile: Profile, engine: str, settings: Settings) -> RequestError | None:
    """Why `profile` cannot give what `request` asks for, memory aside; None where it can."""
    try:
        resources_of(request, profile, None, settings, {})
        check_nodes(request.nodes, profile, engine, settings)
        check_gpu_type(request, profile)
        hours_of(request, profile, settings, {})
    except RequestError as error:
        return error
    return None


def size_refusal(request: Request, profile: Profile, engine: str, settings: Settings) -> RequestError | None:
    """Why `profile` has not the nodes and GPUs that `request` asks for, or may not give its own; None where it has."""
    nodes = profile.nodes if request.nodes is None else request.nodes
    try:
        check_nodes(request.nodes, profile, engine, settings)
        gpus = profile.gpus if request.gpus is None else request.gpus
        check_gpus(nodes, gpus, profile, settings, asked=request.gpus is not None)
    except RequestError as error:
        return error
    return None


def check_allowed(profile: str, model: str, allowed: Sequence[str]) -> None:
    """Raise RequestError where the catalog lets `model` run on other profiles only; empty `allowed`: on any."""
    if allowed and profile not in allowed:
        raise RequestError(
            f'Model "{model}" does not run on profile "{profile}".', f"Choose one of: {', '.join(allowed)}."
        )


def last_resort(profile: Profile, settings: Settings) -> bool:
    """Whether `profile` is a processor, or has GPUs for which vLLM must be built anew, beside newer ones."""
    return _rank(profile, settings) > _GPUS


def _names(
    request: Request, model: ResolvedModel, engine: str, settings: Settings, origins: dict[str, str]
) -> list[str]:
    allowed = model.entry.profiles if model.entry else ()
    if request.profile is not None:
        if request.profile not in settings.profiles:
            raise unknown("profile", request.profile, settings.profiles)
        check_here(request.profile, settings)
        check_allowed(request.profile, request.model, allowed)
        origins["profile"] = "request"
        return [request.profile]
    names = list(settings.planned_here)
    if allowed:
        origins["profile"] = "catalog"
        if not (here := [name for name in allowed if name in names]):
            check_here(allowed[0], settings)
        return here
    own = settings.session.profile
    if own is not None or not names:
        check_here(own or next(iter(settings.profiles)), settings)
    origins["profile"] = settings.origin("session.profile") if own is not None else "the first profile"
    if engine == "simulated":
        return list(dict.fromkeys([own or names[0], *names]))
    if engine == "whisper":  # which GPUs vLLM runs on is no matter here
        first = own or names[0]
        return [first, *sorted((n for n in names if n != first), key=lambda n: not settings.profiles[n].gpus)]
    # What the site put first stays first, a processor too; GPUs that vLLM may not run on only where it said so.
    first = own or next((n for n in names if _rank(settings.profiles[n], settings) < _OLD_GPUS), names[0])
    rest = [n for n in names if n != first]
    return [first, *sorted(rest, key=lambda n: _rank(settings.profiles[n], settings))]


def _meant(request: Request, names: list[str], settings: Settings, origins: dict[str, str]) -> list[str]:
    """Those of `names` that describe the partition and kind of GPU asked for, if any does.

    Who names hardware in Slurm's words means the profile that knows its memory, not the first with another partition.
    """
    asked = {f: value for f in ("partition", "gpu_type") if (value := getattr(request, f)) is not None}
    if request.profile is not None or not asked:
        return names
    for fields in (tuple(asked), *((field,) for field in asked)):
        meant = [n for n in names if all(getattr(settings.profiles[n], f) == asked[f] for f in fields)]
        if meant:
            origins["profile"] = f"the first with {' and '.join(f'{f} {asked[f]}' for f in fields)}"
            return meant
    return names


def check_here(name: str, settings: Settings) -> None:
    """Raise RequestError for a profile that the launcher of another cluster plans for."""
    cluster = settings.clusters[settings.profiles[name].cluster]
    if cluster.remote:
        raise RequestError(
            f'Profile "{name}" is on cluster {cluster.name}, which is planned for by its own launcher.',
            f'Use launcher --cluster {cluster.name}, or Launcher(cluster="{cluster.name}").',
        )


def _rank(profile: Profile, settings: Settings) -> int:
    if profile.gpus == 0:
        return _PROCESSOR
    if not _old(profile):
        return _GPUS
    # Where all GPUs are so old, the site will have a build for them.
    newer = any(other.gpus and not _old(other) for other in settings.profiles.values())
    return _OLD_GPUS if newer else _GPUS


def _old(profile: Profile) -> bool:
    kinds = gpus_of(profile)
    return bool(kinds) and all(map(needs_own_build, kinds))


def nobody(request: Request, troubles: Mapping[str, RequestError], settings: Settings) -> RequestError:
    """The error where each profile that may be taken has its trouble: what the most is that there is."""
    first = next(iter(troubles.values()))
    if len({error.message for error in troubles.values()}) == 1:
        return first
    profiles = [settings.profiles[name] for name in troubles]
    longest = max(profiles, key=lambda p: _hours_max(p, settings))
    if request.hours is not None and request.hours > (hours := _hours_max(longest, settings)):
        asked = hours_words(request.hours) if request.hours < TOO_MANY else "so many hours"
        return RequestError(
            f"No profile here allows {asked}.",
            f'The longest is "{longest.name}", up to {hours_words(hours)}.',
        )
    most = max(profiles, key=lambda p: gpus_max(p, settings))
    if request.gpus is not None and request.gpus > (gpus := gpus_max(most, settings)):
        return RequestError(
            f"No profile here has {request.gpus} GPUs on a node.",
            f'The most are {gpus}, on "{most.name}".' if gpus else "There are none here.",
        )
    return RequestError("No profile here gives all that was asked for.", _sentences(list(troubles.values())))


def _hours_max(profile: Profile, settings: Settings) -> float:
    return min(profile.hours_max, settings.limits.hours or profile.hours_max)


def _sentences(errors: Sequence[RequestError]) -> str:
    return " ".join(dict.fromkeys(error.message for error in errors[:3]))

"""Where the request leaves it open: which profile, how many GPUs, how they are split, how long a context.

Owns the order in which things are tried, and the refusal of what cannot fit; the sum is `launcher.models.fit`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.fit.options import read_options
from launcher.models.fit.verdict import FITS_IF, UNKNOWN, Fit, Hardware, fit, hardware
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import known
from launcher.models.resolve import ResolvedModel
from launcher.models.siblings import siblings
from launcher.planning.request import Request, unknown
from launcher.settings.schema import Profile, Settings

CHOSEN = "chosen to fit"
# A context to be content with where nobody says one and nothing is known of the model: long enough for a document.
_SENSIBLE = 16384


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a session runs; `gpus` is None where the profile's own number holds, `fit` where nothing was weighed."""

    profile: Profile
    gpus: int | None = None
    engine_args: tuple[str, ...] = ()
    fit: Fit | None = None


def choose(
    request: Request,
    model: ResolvedModel,
    engine: str,
    arguments: Sequence[str],
    settings: Settings,
    origins: dict[str, str],
) -> Choice:
    """The first profile in the site's order on which the model fits, with as few GPUs as it needs.

    A profile that was asked for is kept. Raises RequestError for one that is not there, ModelError with the
    arithmetic where the model fits on none.
    """
    candidates = _candidates(request, model, settings, origins)
    found = None
    what = facts_if_known(model) if engine == "vllm" and request.fit_check else None
    if what is not None:
        tried = list(_tried(request, model, what, arguments, candidates, settings))
        found = _first(tried, _worth_having(model, what, arguments))
        if found is None:
            raise _refused(request, model, what, arguments, tried, settings)
        if found.gpus is not None:
            origins["gpus"] = CHOSEN
        origins.update((word, CHOSEN) for word in found.engine_args if word.startswith("--"))
        if request.profile is None and found.profile.name != candidates[0]:
            origins["profile"] = CHOSEN
    return found or Choice(settings.profiles[candidates[0]])


def fit_on(
    model: ResolvedModel,
    what: Facts,
    profile: Profile,
    arguments: Sequence[str],
    settings: Settings,
    *,
    gpus: int | None = None,
    context: int | None = None,
    requests: float = 1,
    others: Sequence[tuple[str, Facts]] = (),
) -> Fit:
    """The fit of a model on a profile, as a plan would weigh it."""
    return fit(
        what,
        _hardware(profile, gpus, settings),
        context=context,
        requests=requests,
        engine_args=arguments,
        siblings=others,
        environment=_variables(model, profile, settings),
    )


def best_on(
    model: ResolvedModel,
    what: Facts,
    profile: Profile,
    arguments: Sequence[str],
    settings: Settings,
    request: Request,
    *,
    requests: float = 1,
) -> tuple[int, Fit]:
    """How many GPUs of `profile` a plan would take, and the fit on them; the most there are where it fits on none."""
    tried = []
    for count in _counts(profile, request, settings):
        found = fit_on(model, what, profile, arguments, settings, gpus=count, requests=requests)
        tried.append((count, found))
        if found.starts and (found.context is None or found.context >= _worth_having(model, what, arguments)):
            return count, found
    return next((pair for pair in tried if pair[1].starts), tried[-1])


def smaller_copies(model: str, settings: Settings) -> list[tuple[str, Facts]]:
    """The quantised copies of `model` on this disk, each with its facts; looks through all folders."""
    try:
        copies = siblings(model, settings)
    except LauncherError:
        return []
    return [(copy.id, what) for copy in copies if (what := facts_if_known(copy)) is not None]


def _candidates(
    request: Request, model: ResolvedModel, settings: Settings, origins: dict[str, str]
) -> list[str]:
    """Names of the profiles to try, the default first."""
    allowed = model.entry.profiles if model.entry else ()
    if request.profile is not None:
        if request.profile not in settings.profiles:
            raise unknown("profile", request.profile, settings.profiles)
        if allowed and request.profile not in allowed:
            raise RequestError(
                f'Model "{request.model}" does not run on profile "{request.profile}".',
                f"Choose one of: {', '.join(allowed)}.",
            )
        origins["profile"] = "request"
        return [request.profile]
    if allowed:
        origins["profile"] = "catalog"
        return list(allowed)
    own = settings.session.profile
    names = list(settings.profiles)
    first = own if own is not None else names[0]
    origins["profile"] = settings.origin("session.profile") if own is not None else "the first profile"
    # A processor is the last resort, unless the site's own first choice is one.
    rest = sorted((n for n in names if n != first), key=lambda n: settings.profiles[n].gpus == 0)
    return [first, *rest]


def _tried(
    request: Request,
    model: ResolvedModel,
    what: Facts,
    arguments: Sequence[str],
    candidates: Sequence[str],
    settings: Settings,
) -> Iterator[Choice]:
    for name in candidates:
        profile = changed(settings.profiles[name], request)
        for count in _counts(profile, request, settings):
            found = fit_on(model, what, profile, arguments, settings, gpus=count)
            gpus = count if count != profile.gpus and request.gpus is None else None
            yield Choice(settings.profiles[name], gpus, found.engine_args, found)


def changed(profile: Profile, request: Request) -> Profile:
    """`profile` with what the request asks for instead, as far as a fit is concerned."""
    if request.gpu_type is not None and request.gpu_type != profile.gpu_type:
        profile = dataclasses.replace(
            profile, gpu_type=request.gpu_type, gpu_memory_gb=None, compute_capability=None
        )
    if request.memory_gb is not None:
        profile = dataclasses.replace(profile, memory_gb=request.memory_gb)
    return profile


def _counts(profile: Profile, request: Request, settings: Settings) -> list[int]:
    if request.gpus is not None:
        return [request.gpus]
    most = profile.gpus_max or profile.gpus
    if settings.limits.gpus is not None:
        most = min(most, settings.limits.gpus // profile.nodes)
    if settings.locked(f"profiles.{profile.name}.gpus"):
        most = profile.gpus
    return list(range(profile.gpus, max(most, profile.gpus) + 1))


def _first(tried: Sequence[Choice], least: int) -> Choice | None:
    """The first that starts with a context worth having, else the first that starts at all."""
    starting = [(choice, choice.fit) for choice in tried if choice.fit is not None and choice.fit.starts]
    for choice, found in starting:
        if found.context is None or found.context >= least:
            return choice
    return starting[0][0] if starting else None


def _worth_having(model: ResolvedModel, what: Facts, arguments: Sequence[str]) -> int:
    """The shortest context, in tokens, that is no reason to look for larger hardware."""
    if read_options(arguments).context is not None:
        return 0
    about = known(model.id)
    return min(what.context or _SENSIBLE, (about.context if about else None) or _SENSIBLE)


def _refused(
    request: Request,
    model: ResolvedModel,
    what: Facts,
    arguments: Sequence[str],
    tried: Sequence[Choice],
    settings: Settings,
) -> ModelError:
    best = max(tried, key=_nearness)  # the one that comes closest speaks for all
    profile = changed(best.profile, request)
    count = best.gpus if best.gpus is not None else request.gpus
    copies = smaller_copies(request.model, settings)
    found = fit_on(model, what, profile, arguments, settings, gpus=count, others=copies)
    elsewhere = []
    if request.profile is not None:
        free = dataclasses.replace(request, profile=None, gpus=None, gpu_type=None, memory_gb=None)
        names = [n for n in _candidates(free, model, settings, {}) if n != request.profile]
        others = _tried(free, model, what, arguments, names, settings)
        sure = [c for c in others if c.fit is not None and c.fit.starts and c.fit.verdict != UNKNOWN]
        elsewhere = list(dict.fromkeys(choice.profile.name for choice in sure))
    ways = [f"Choose one of: {', '.join(elsewhere)}."] if elsewhere else []
    if found.remedies:
        ways.append(f"{'Or take' if ways else 'Take'} {', or '.join(r.text for r in found.remedies[:3])}.")
    if not ways:
        ways.append(
            "No profile here is large enough; to try it all the same, switch the fit check off (--no-fit-check)."
        )
    return ModelError(
        shortfall(request.model, found, best.profile, read_options(arguments).context), " ".join(ways)
    )


def _nearness(choice: Choice) -> tuple[bool, bool, float]:
    found = choice.fit
    return (
        bool(found and found.gpus),
        bool(found and found.verdict == FITS_IF),
        (found and found.has_gb) or 0,
    )


def shortfall(model: str, found: Fit, profile: Profile, context: int | None = None) -> str:
    """Why a model does not fit on a profile, in one sentence."""
    short = found.needs_gb is not None and found.has_gb is not None and found.needs_gb > found.has_gb
    if not short:
        why = found.reasons[0] if found.reasons else "its parts do not fit."
        return f'Model "{model[:200]}" cannot run so on profile "{profile.name}": {why}'
    kind = "GPU memory" if found.gpus else "memory"
    with_ = f" with a context of {context} tokens" if context is not None else ""
    of = f" ({found.gpus} GPUs)" if found.gpus > 1 else ""
    return (
        f'Model "{model[:200]}"{with_} needs about {_gb(found.needs_gb)} GB of {kind}; '
        f'profile "{profile.name}" has {_gb(found.has_gb)} GB{of}.'
    )


def _gb(size: float | None) -> str:
    size = size or 0
    return f"{size:.0f}" if size >= 10 else f"{size:.1f}"


def _hardware(profile: Profile, gpus: int | None, settings: Settings) -> Hardware:
    made = hardware(profile, gpus)
    most = made.gpus_max
    if most is not None and settings.limits.gpus is not None:
        most = min(most, settings.limits.gpus)
    if settings.locked(f"profiles.{profile.name}.gpus"):
        most = None
    return dataclasses.replace(made, gpus_max=most)


def facts_if_known(model: ResolvedModel) -> Facts | None:
    """The facts of a resolved model; None where they cannot be told, which is no reason to refuse it."""
    if model.snapshot is None:
        return None
    try:
        return facts(Path(model.snapshot))
    except ModelError:
        return None


def _variables(model: ResolvedModel, profile: Profile, settings: Settings) -> Mapping[str, str]:
    entry = model.entry
    name = (
        (entry.environment if entry else None) or profile.environment or next(iter(settings.environments), "")
    )
    environment = settings.environments.get(name)
    return {**(environment.env if environment else {}), **(entry.env if entry else {})}

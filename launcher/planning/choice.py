"""Where the request leaves it open: which profile, how many GPUs, how they are split, how long a context.

Owns the order in which things are tried, and the refusal of what cannot fit; the sum is `launcher.models.fit`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.fit.arithmetic import whole
from launcher.models.fit.options import read_options
from launcher.models.fit.speech import fit_speech
from launcher.models.fit.verdict import FITS, FITS_IF, UNKNOWN, Fit, Hardware, fit, hardware
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import known
from launcher.models.resolve import ResolvedModel
from launcher.models.siblings import siblings
from launcher.planning.candidates import candidates, last_resort
from launcher.planning.limits import gpus_max, nodes_weighed
from launcher.planning.request import Request
from launcher.sessions.plan import CHOSEN
from launcher.settings.schema import Profile, Settings

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

    A profile that was asked for is kept. Raises RequestError for one that is not there or cannot give what was asked
    for, ModelError with the arithmetic where the model fits on none. What was chosen is told to `origins`.
    """
    names = candidates(request, model, engine, settings, origins)
    found = None
    what = facts_if_known(model) if engine != "simulated" and request.fit_check else None
    if what is not None:
        found = pick(request, model, what, arguments, names, settings)
        if found.gpus is not None:
            origins["gpus"] = CHOSEN
        origins.update((word, CHOSEN) for word in found.engine_args if word.startswith("--"))
        if request.profile is None and found.profile.name != names[0]:
            origins["profile"] = CHOSEN
        if context := shortened(found, request, model, what, arguments, settings):
            origins["context"] = context
    return found or Choice(settings.profiles[names[0]])


def pick(
    request: Request,
    model: ResolvedModel,
    what: Facts,
    arguments: Sequence[str],
    names: Sequence[str],
    settings: Settings,
) -> Choice:
    """What a plan takes of the profiles `names`; raises ModelError where the model fits on none."""
    tried = list(_tried(request, model, what, arguments, names, settings))
    found = _first(tried, _worth_having(model, what, arguments), names[0], settings)
    if found is None:
        raise _refused(request, model, what, arguments, tried, settings)
    return found


def shortened(
    choice: Choice,
    request: Request,
    model: ResolvedModel,
    what: Facts,
    arguments: Sequence[str],
    settings: Settings,
) -> str | None:
    """`26944 of 131072 tokens (chosen to fit; gpu-large has room for all)`, where the context was shortened."""
    if choice.fit is None or choice.fit.context is None or "--max-model-len" not in choice.engine_args:
        return None
    room = ""
    names = [
        choice.profile.name,
        *(n for n in _elsewhere(request, model, settings) if n != choice.profile.name),
    ]
    slow = last_resort(choice.profile, settings)
    for other in _tried(_free(request), model, what, arguments, names, settings):
        slower = last_resort(other.profile, settings) and not slow
        if other.fit is None or other.fit.verdict != FITS or slower:
            continue
        gpus = f"{other.gpus} GPUs of " if other.gpus is not None else ""
        room = f"; {gpus}{other.profile.name} ha{'ve' if gpus else 's'} room for all"
        break
    return f"{choice.fit.context} of {what.context} tokens ({CHOSEN}{room})"


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
    if what.engine == "whisper":
        return fit_speech(what, _hardware(profile, gpus, settings), arguments)
    return fit(
        what,
        _hardware(profile, gpus, settings),
        context=context,
        requests=requests,
        engine_args=arguments,
        siblings=others,
        environment=_variables(model, profile, settings),
    )


def reach(model: ResolvedModel, what: Facts, profile: Profile, settings: Settings) -> Fit | None:
    """The fit on the fewest GPUs of `profile`, on the most where it does not start with those; None: no plan takes it.

    What fits on neither number fits on none in between, so that a list of models costs two sums for each.
    """
    if profile.nodes > 1 and (model.engine == "whisper" or nodes_weighed(profile, settings) == 1):
        return None
    arguments = model.entry.engine_args if model.entry else ()
    found = None
    for count in sorted({profile.gpus, max(profile.gpus_max or 0, profile.gpus)}):
        found = fit_on(model, what, profile, arguments, settings, gpus=count)
        if found.starts:
            break
    return found


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
    return [(copy.id, what) for copy in copies if (what := facts_if_known(copy, listed=True)) is not None]


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
    if request.nodes is not None:
        profile = dataclasses.replace(profile, nodes=request.nodes)
    return profile


def _counts(profile: Profile, request: Request, settings: Settings) -> list[int]:
    if request.gpus is not None:
        return [request.gpus]
    return list(range(profile.gpus, gpus_max(profile, settings) + 1))


def _first(tried: Sequence[Choice], least: int, first: str, settings: Settings) -> Choice | None:
    """The first that starts with a context worth having, else the first that starts at all.

    A last resort comes after all others, unless the site or the user put it `first`.
    """
    starting = [(choice, choice.fit) for choice in tried if choice.fit is not None and choice.fit.starts]
    last = [
        pair for pair in starting if pair[0].profile.name != first and last_resort(pair[0].profile, settings)
    ]
    for group in ([pair for pair in starting if pair not in last], last):
        for choice, found in group:
            if found.context is None or found.context >= least:
                return choice
        if group:
            return group[0][0]
    return None


def _worth_having(model: ResolvedModel, what: Facts, arguments: Sequence[str]) -> int:
    """The shortest context, in tokens, that is no reason to look for larger hardware."""
    if what.engine == "whisper" or read_options(arguments).context is not None:
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
    elsewhere: list[str] = []
    if request.profile is not None:
        names = [n for n in _elsewhere(request, model, settings) if n != request.profile]
        others = _tried(_free(request), model, what, arguments, names, settings)
        sure = [c for c in others if c.fit is not None and c.fit.starts and c.fit.verdict != UNKNOWN]
        if not found.memory_short:  # a processor that takes no notice of the argument is no way out
            sure = [c for c in sure if c.profile.gpus or not found.gpus]
        elsewhere = list(dict.fromkeys(choice.profile.name for choice in sure))
    ways = [f"Choose one of: {', '.join(elsewhere)}."] if elsewhere else []
    if found.remedies:
        ways.append(f"{'Or take' if ways else 'Take'} {', or '.join(r.text for r in found.remedies[:3])}.")
    if not ways:
        ways.append(
            f"No profile here {'is large enough' if found.memory_short else 'can run it'}; to try it all the same, "
            "switch the fit check off (--no-fit-check)."
        )
    return ModelError(shortfall(request.model, found, best.profile), " ".join(ways))


def _free(request: Request) -> Request:
    return dataclasses.replace(request, profile=None, gpus=None, gpu_type=None, memory_gb=None)


def _elsewhere(request: Request, model: ResolvedModel, settings: Settings) -> list[str]:
    """The profiles that the same request could have, were no hardware named."""
    try:
        return candidates(_free(request), model, model.engine, settings, {})
    except RequestError:
        return []


def _nearness(choice: Choice) -> tuple[bool, bool, float]:
    found = choice.fit
    return (
        bool(found and found.gpus),
        bool(found and found.verdict == FITS_IF),
        (found and found.has_gb) or 0,
    )


def shortfall(model: str, found: Fit, profile: Profile) -> str:
    """Why a model does not fit on a profile, in one sentence."""
    if not found.memory_short:
        why = found.reasons[0] if found.reasons else "its parts do not fit."
        return f'Model "{model[:200]}" cannot run so on profile "{profile.name}": {why}'
    kind = "GPU memory" if found.gpus else "memory"
    for_ = f" for a context of {found.needs_context} tokens" if found.needs_context else ""
    of = f" ({found.gpus} GPUs)" if found.gpus > 1 else ""
    if found.nodes > 1 and found.gpus:
        of = f" ({found.nodes} × {found.gpus} GPUs)"
    return (
        f'Model "{model[:200]}" needs about {whole(found.needs_gb or 0)} GB of {kind}{for_}; '
        f'profile "{profile.name}" has {whole(found.has_gb or 0)} GB{of}.'
    )


def _hardware(profile: Profile, gpus: int | None, settings: Settings) -> Hardware:
    most, nodes = gpus_max(profile, settings), nodes_weighed(profile, settings)
    return dataclasses.replace(hardware(profile, gpus), gpus_max=most, nodes=nodes)


def facts_if_known(model: ResolvedModel, *, listed: bool = False) -> Facts | None:
    """The facts of a resolved model, which may be `listed` among many; None where they cannot be told.

    That is no reason to refuse it.
    """
    if model.snapshot is None:
        return None
    try:
        return facts(Path(model.snapshot), listed=listed)
    except ModelError:
        return None


def _variables(model: ResolvedModel, profile: Profile, settings: Settings) -> Mapping[str, str]:
    entry = model.entry
    name = (
        (entry.environment if entry else None) or profile.environment or next(iter(settings.environments), "")
    )
    environment = settings.environments.get(name)
    return {**(environment.env if environment else {}), **(entry.env if entry else {})}

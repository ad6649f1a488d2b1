"""Where a model would fit, when a job would start there, and what a launch would take: `launcher fit`'s answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from launcher.errors import LauncherError, ModelError
from launcher.models.fit.verdict import DOES_NOT_FIT, FITS, Fit
from launcher.models.inspect.facts import Facts
from launcher.models.resolve import ResolvedModel
from launcher.planning.arguments import arguments_of
from launcher.planning.candidates import candidates, check_allowed, check_here, nobody, size_refusal
from launcher.planning.choice import best_on, changed, fit_on, pick, shortened, smaller_copies
from launcher.planning.request import Request, unknown
from launcher.planning.soonest import Start, soonest
from launcher.settings.schema import Profile, Settings


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fit of a model on `gpus` GPUs of `profile`; `start` is None where it would not start."""

    profile: Profile
    gpus: int
    fit: Fit
    start: Start | None = None


def verdicts(
    request: Request,
    model: ResolvedModel,
    what: Facts,
    settings: Settings,
    *,
    profiles: Sequence[str] = (),
    requests: int = 1,
) -> list[Verdict]:
    """The verdict on each of `profiles`, without any on those that the model may run on.

    `requests` of the longest context are to fit at once. Raises RequestError for an unknown profile or argument and
    where none has the GPUs that are asked for, ModelError for a model without weights.
    """
    if model.engine == "simulated":
        raise ModelError(f'Model "{model.id}" needs no weights.', "It runs anywhere.")
    own = model.entry.profiles if model.entry else ()
    for name in profiles:
        if name not in settings.profiles:
            raise unknown("profile", name, settings.profiles)
        check_here(name, settings)
        check_allowed(name, request.model, own)
    here = settings.planned_here
    if not (asked := [here[name] for name in dict.fromkeys(profiles or own or here) if name in here]):
        check_here(next(iter(own or settings.profiles)), settings)
    given = arguments_of(request, model, model.engine, settings)
    errors = {profile.name: size_refusal(request, profile, model.engine, settings) for profile in asked}
    refused = {name: error for name, error in errors.items() if error is not None}
    if len(refused) == len(asked):
        raise nobody(request, refused, settings)
    found = []
    for profile in asked:
        if (error := refused.get(profile.name)) is not None:
            gpus = profile.gpus if request.gpus is None else request.gpus
            found.append(Verdict(profile, gpus, Fit(DOES_NOT_FIT, gpus=gpus, reasons=(error.message,))))
            continue
        profile = changed(profile, request)
        gpus, fit = best_on(model, what, profile, given, settings, request, requests=requests)
        if fit.verdict != FITS and fit.gpus and len(asked) == 1:
            others = smaller_copies(request.model, settings)
            fit = fit_on(
                model, what, profile, given, settings, gpus=gpus, requests=requests, others=others
            )  # fmt: skip
        found.append(Verdict(profile, gpus, fit))
    return _with_starts(found, settings)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a launch would take; `context` in tokens, and in `shortened` what to say where it is not the model's own."""

    profile: str
    gpus: int
    gpu_type: str | None
    context: int | None
    shortened: str | None = None
    nodes: int = 1


def taken(request: Request, model: ResolvedModel, what: Facts, settings: Settings) -> Taken | None:
    """What a launch of the same request would take; None where it would be refused."""
    try:
        given = arguments_of(request, model, model.engine, settings)
        names = candidates(request, model, model.engine, settings, {})
        choice = pick(request, model, what, given, names, settings)
    except LauncherError:
        return None
    profile, found = choice.profile, choice.fit
    gpus = choice.gpus if choice.gpus is not None else request.gpus
    return Taken(
        profile.name,
        profile.gpus if gpus is None else gpus,
        request.gpu_type or profile.gpu_type,
        found.context if found else None,
        shortened(choice, request, model, what, given, settings),
        profile.nodes if request.nodes is None else request.nodes,
    )


def _with_starts(found: list[Verdict], settings: Settings) -> list[Verdict]:
    fitting = [verdict for verdict in found if verdict.fit.starts]
    if not fitting:
        return found
    asked = [replace(verdict.profile, gpus=verdict.gpus) for verdict in fitting]
    starts = dict(zip((v.profile.name for v in fitting), soonest(settings, asked), strict=True))
    return [replace(verdict, start=starts.get(verdict.profile.name)) for verdict in found]

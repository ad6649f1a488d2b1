"""Each model that the catalog offers: is it on disk at its revision, can others read it, is there hardware for it?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from launcher.doctor.checks import OK, Check, fail, ok, warn
from launcher.doctor.readable import check_readable
from launcher.errors import LauncherError
from launcher.models.fit.verdict import UNKNOWN
from launcher.models.resolve import ResolvedModel, resolve
from launcher.models.speech import check_format, is_chosen_for_vllm
from launcher.planning import Request
from launcher.planning.choice import best_on, facts_if_known, shortfall
from launcher.planning.environment import choose_environment
from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import CatalogModel, Settings


def check_catalog(settings: Settings) -> Iterator[Check]:
    """The site's own entries; what comes with the launcher is whole."""
    for entry in settings.catalog.values():
        if entry.engine != "simulated" and settings.origin(f"catalog.{entry.name}") != DEFAULTS:
            yield _entry(entry, settings)


def _entry(entry: CatalogModel, settings: Settings) -> Check:
    at = f"catalog.{entry.name}"
    try:
        model = resolve(entry.name, settings)
        if model.engine == "vllm" and model.snapshot and not is_chosen_for_vllm(entry, settings):
            check_format(model.id, model.snapshot, settings)
    except LauncherError as error:
        fix = error.hint or ""
        if not fix or fix.startswith("Ask the site"):  # that is who reads this
            fix = f"Put it there, or correct {at}."
        elif fix.startswith("To download") and settings.models.folders:  # not into the admin's own cache
            fix += f" --to {shlex.quote(settings.models.folders[0])}"
        return fail(at, error.message.removeprefix(f'Model "{entry.name}": '), fix)
    assert model.snapshot is not None
    if entry.path is None and model.snapshot.is_relative_to(settings.models.cache):
        return warn(
            at, f"is in {settings.models.cache} alone, your own.", "Put it into a folder of models.folders."
        )
    readable = check_readable(at, model.snapshot)
    if readable.verdict != OK:
        return readable
    return _fits(at, entry, model, settings)


def _fits(at: str, entry: CatalogModel, model: ResolvedModel, settings: Settings) -> Check:
    what = facts_if_known(model)
    if what is None:
        says = f"is in {model.snapshot}, but what it is cannot be told, so whether it fits is not known."
        return warn(at, says, f"See launcher resolve {entry.name}.")
    here = settings.planned_here
    if not (profiles := [here[name] for name in entry.profiles or here if name in here]):
        return ok(at, f"is in {model.snapshot}; its profiles are of clusters with a launcher of their own.")
    if model.engine == "whisper":
        try:
            choose_environment(Request(entry.name), model, profiles[0], model.engine, settings, {})
        except LauncherError as error:
            return fail(at, f"cannot run: {error.message}", error.hint or "Correct the environment.")
    fitting, short = [], []
    for profile in profiles:
        _, found = best_on(model, what, profile, entry.engine_args, settings, Request(entry.name))
        if found.starts or found.verdict == UNKNOWN:
            fitting.append(profile.name)
        else:
            short.append((found.has_gb or 0, shortfall(entry.name, found, profile), found.remedies))
    if fitting:
        of = f" at {model.revision[:12]}" if model.revision else ""
        return ok(at, f"is in {model.snapshot}{of}, and runs on {', '.join(fitting)}.")
    _, why, remedies = max(short, key=lambda one: one[0])
    where = "its profiles" if entry.profiles else "the profiles"
    advice = f" Or {', or '.join(remedy.text for remedy in remedies[:2])}." if remedies else ""
    return fail(at, f"fits none of {where}. {why}", f"Name a larger profile in {at}.profiles.{advice}")

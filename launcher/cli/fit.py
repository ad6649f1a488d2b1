"""`launcher fit`: whether a model fits on the site's hardware, and the arithmetic."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, ModelError, RequestError

if TYPE_CHECKING:
    from launcher.models.fit.verdict import Fit
    from launcher.models.inspect.facts import Facts
    from launcher.models.resolve import ResolvedModel
    from launcher.planning.soonest import Start
    from launcher.settings.schema import Profile, Settings

_EXAMPLES = """\
examples:
  launcher fit org/name                             each profile here, and when a job would start
  launcher fit org/name --profile gpu-large         one profile, with the arithmetic
  launcher fit org/name --max-model-len 32768 --concurrency 8
  launcher fit ./my-model -- --kv-cache-dtype fp8   arguments after -- as for launcher launch

MODEL may be one that is not here yet: its config.json and the headers of its files are then asked of the hub.
The exit code is 0 when it fits somewhere, else 4.
"""
_DOES_NOT_FIT = 4
_WORDS = {"fits": "fits", "fits-if": "fits if", "does-not-fit": "does not fit", "unknown": "cannot say"}


@dataclass(frozen=True, slots=True)
class _Row:
    profile: Profile
    gpus: int
    fit: Fit
    start: Start | None = None


def options(parser: ArgumentParser) -> None:
    """Add the arguments of `launcher fit`."""
    parser.usage = "%(prog)s [OPTION ...] MODEL [-- ENGINE_ARGUMENT ...]"
    parser.epilog = _EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a catalog name, an id such as org/name, or a path")
    parser.add_argument(
        "--profile", action="append", metavar="NAME", help="only this hardware; may be given more than once"
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the model")
    parser.add_argument(
        "--max-model-len", type=_whole, metavar="N", help="tokens of the longest request, answer included"
    )
    parser.add_argument(
        "--concurrency",
        type=_whole,
        metavar="C",
        default=1,
        help="so many such requests at once (default: 1)",
    )
    parser.add_argument(
        "--gpus", type=_whole, metavar="N", help="GPUs on each node, instead of the profile's"
    )


def run(arguments: Namespace) -> int:
    """Print the verdicts; 0 when the model fits on one of the profiles."""
    from launcher.planning import Request
    from launcher.planning.arguments import arguments_of
    from launcher.planning.choice import best_on, fit_on, smaller_copies
    from launcher.settings.layers import load

    settings = load()
    profiles = _profiles(arguments.profile, settings)
    model, what = _found(arguments.model, arguments.revision, settings)
    request = Request(
        arguments.model,
        gpus=arguments.gpus,
        max_model_len=arguments.max_model_len,
        engine_args=tuple(arguments.engine_args),
    )
    engine = model.entry.engine if model.entry else "vllm"
    if engine != "vllm":
        raise ModelError(f'Model "{model.id}" needs no weights.', "It runs anywhere.")
    given = arguments_of(request, model, engine, settings)
    if arguments.profile is None and model.entry and model.entry.profiles:
        profiles = [settings.profiles[name] for name in model.entry.profiles]
    rows = []
    for profile in profiles:
        gpus, found = best_on(model, what, profile, given, settings, request, requests=arguments.concurrency)
        if found.verdict != "fits" and found.gpus and len(profiles) == 1:
            others = smaller_copies(arguments.model, settings)
            found = fit_on(
                model,
                what,
                profile,
                given,
                settings,
                gpus=gpus,
                requests=arguments.concurrency,
                others=others,
            )
        rows.append(_Row(profile, gpus, found))
    rows = _with_starts(rows, settings)
    if arguments.json:
        print(json.dumps({"model": _described(model, what), "profiles": [_of_row(row) for row in rows]}))
    elif len(rows) == 1:
        _print_one(model, what, rows[0])
    else:
        _print_all(model, what, rows)
    return 0 if any(row.fit.starts for row in rows) else _DOES_NOT_FIT


def _whole(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:12]) < 1_000_000_000:
        raise ArgumentTypeError(f'must be a whole number above 0, not "{text[:80]}"')
    return int(text)


def _profiles(names: list[str] | None, settings: Settings) -> list[Profile]:
    from launcher.planning import unknown

    for name in names or ():
        if name not in settings.profiles:
            raise unknown("profile", name, settings.profiles)
    return [settings.profiles[name] for name in dict.fromkeys(names or settings.profiles)]


def _found(name: str, revision: str | None, settings: Settings) -> tuple[ResolvedModel, Facts]:
    """The model and its facts: from this disk, else from a folder that only describes it, else from the hub."""
    from launcher.models.inspect.facts import facts
    from launcher.models.resolve import ResolvedModel, resolve

    try:
        model = resolve(name, settings, revision)
        if model.snapshot is None:
            raise ModelError(f'Model "{model.id}" needs no weights.', "It runs anywhere.")
        return model, facts(model.snapshot)
    except ModelError as error:
        folder = Path(name).expanduser()
        if name.startswith(("/", "./", "../", "~")) or name in (".", ".."):
            if settings.allow.models == "any" and (folder / "config.json").is_file():
                return ResolvedModel(
                    folder.resolve().name, folder, None, f"the description in {folder}", None
                ), facts(folder)
            raise
        if "/" not in name or settings.allow.models != "any" or not settings.allow.downloads:
            raise
        from launcher.models.hub.client import facts_from_hub

        try:
            return ResolvedModel(name, None, revision, "the hub", None), facts_from_hub(
                name, revision, settings
            )
        except RequestError:
            raise
        except LauncherError as away:
            raise ModelError(error.message, str(away)) from away


def _with_starts(rows: list[_Row], settings: Settings) -> list[_Row]:
    from launcher.planning.soonest import soonest

    fitting = [row for row in rows if row.fit.starts]
    if not fitting:
        return rows
    asked = [replace(row.profile, gpus=row.gpus) for row in fitting]
    starts = dict(zip((row.profile.name for row in fitting), soonest(settings, asked), strict=True))
    return [replace(row, start=starts.get(row.profile.name)) for row in rows]


def _print_all(model: ResolvedModel, what: Facts, rows: list[_Row]) -> None:
    print(f"{one_line(model.id)}: {_words(what)}; from {one_line(model.found)}")
    head = ["Profile", "Verdict", "GPUs", "Context", "At once", "Would start", ""]
    print(table([_cells(row) for row in rows], head=head))
    print("The arithmetic: launcher fit MODEL --profile NAME")


def _cells(row: _Row) -> list[str]:
    fit = row.fit
    why = next(iter(fit.reasons or fit.notes), "")
    if fit.verdict == "fits-if" and fit.remedies:
        why = fit.remedies[0].text
    gpus = f"{row.gpus} × {row.profile.gpu_type or 'GPU'}" if row.gpus else ""
    at_once = f"{fit.requests:.1f}" if fit.requests is not None and fit.starts else ""
    context = str(fit.context) if fit.context and fit.starts else ""
    return [row.profile.name, _WORDS[fit.verdict], gpus, context, at_once, _starts(row.start), why]


def _print_one(model: ResolvedModel, what: Facts, row: _Row) -> None:
    fit = row.fit
    gpus = f" ({row.gpus} × {row.profile.gpu_type or 'GPU'})" if row.gpus else ""
    print(f"{one_line(model.id)}: {_words(what)}; from {one_line(model.found)}")
    print(f"On {row.profile.name}{one_line(gpus)}: {_verdict(fit)}.")
    for text in (*fit.reasons, *fit.notes):
        print(f"  {one_line(text)}")
    if fit.remedies:
        print("\nWhat would help:" if not fit.starts else "\nWhat would give more:")
        for remedy in fit.remedies:
            print(f"  {one_line(remedy.text)}")
    if fit.arithmetic:
        print("\nThe arithmetic:")
        for text in fit.arithmetic:
            print(f"  {one_line(text)}")
    if fit.starts and fit.engine_args:
        print(f"\nA launch adds: {one_line(' '.join(fit.engine_args))}")
    if row.start is not None:
        for sentence in filter(
            None, (row.start.idle, _would(row.start), row.start.advice, row.start.trouble)
        ):
            print(one_line(sentence))


def _verdict(fit: Fit) -> str:
    if fit.verdict != "fits-if":
        return _WORDS[fit.verdict]
    if not fit.starts:
        return "fits if one thing changes"
    return "fits with a shorter context" if "--max-model-len" in fit.engine_args else "fits, but only just"


def _words(what: Facts) -> str:
    from launcher.models.fit.arithmetic import size

    kind = f", {what.quantization}" if what.quantization else ""
    counted = "" if what.counted else " (computed, not counted)"
    return (
        f"{what.task}, {what.parameters / 1e9:.3g} billion parameters, weights {size(what.weights_bytes)}{counted} "
        f"in {what.dtype}{kind}, context {what.context}"
    )


def _starts(start: Start | None) -> str:
    from launcher.planning.soonest import when

    return when(start.starts_at) if start is not None and start.starts_at is not None else ""


def _would(start: Start) -> str | None:
    return f"A job would start {_starts(start)}." if start.starts_at is not None else None


def _described(model: ResolvedModel, what: Facts) -> dict[str, Any]:
    told = {name: value for name, value in what.to_dict().items() if name not in ("weights", "caches")}
    return {"id": model.id, "revision": model.revision, "found": model.found, **told}


def _of_row(row: _Row) -> dict[str, Any]:
    start = row.start.to_dict() if row.start is not None else None
    return {"profile": row.profile.name, **row.fit.to_dict(), "start": start}

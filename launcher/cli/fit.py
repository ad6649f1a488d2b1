"""`launcher fit`: whether a model fits on the site's hardware, and the arithmetic."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from launcher.cli.tables import one_line, table
from launcher.errors import ModelError

if TYPE_CHECKING:
    from launcher.models.fit.verdict import Fit
    from launcher.models.inspect.facts import Facts
    from launcher.models.resolve import ResolvedModel
    from launcher.planning.soonest import Start
    from launcher.planning.verdicts import Taken, Verdict
    from launcher.settings.schema import Settings

_EXAMPLES = """\
examples:
  launcher fit org/name                             each profile here, and when a job would start
  launcher fit org/name --profile gpu-large         one profile, with the arithmetic
  launcher fit org/name --max-model-len 32768 --concurrency 8
  launcher fit ./my-model -- --kv-cache-dtype fp8   arguments after -- as for launcher launch

MODEL may be one that is not here yet: its config.json and the headers of its files are then asked of the hub.
The exit code is 0 when it fits somewhere, else 4.
"""
_WORDS = {"fits": "fits", "fits-if": "fits if", "does-not-fit": "does not fit", "unknown": "cannot say"}
_WHOLE_MAX = 1_000_000_000
_DIFFERS = 0.02  # a smaller difference between the files and what is loaded of them is no news


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
    parser.add_argument("--nodes", type=_whole, metavar="N", help="nodes, where the site allows several")


def run(arguments: Namespace) -> int:
    """Print the verdicts; 0 when the model fits on one of the profiles."""
    from launcher.models.described import described
    from launcher.planning import Request
    from launcher.planning.verdicts import taken, verdicts
    from launcher.settings.layers import load

    settings = load()
    if (name := _without_weights(arguments.model, settings)) is not None:
        described_ = {"id": name, "weights_bytes": 0}
        said = json.dumps({"model": described_, "profiles": [], "launch": None})
        print(said if arguments.json else f"{one_line(name)} has no weights: it runs anywhere.")
        return 0
    model, what = described(arguments.model, settings, arguments.revision)
    request = Request(
        arguments.model,
        gpus=arguments.gpus,
        nodes=arguments.nodes,
        max_model_len=arguments.max_model_len,
        engine_args=tuple(arguments.engine_args),
    )
    rows = verdicts(
        request, model, what, settings, profiles=arguments.profile or (), requests=arguments.concurrency
    )
    only = rows[0].profile.name if len(rows) == 1 else None
    launch = taken(replace(request, profile=only), model, what, settings)
    if arguments.json:
        found = {"model": _described(model, what), "profiles": [_of_row(row) for row in rows]}
        print(json.dumps({**found, "launch": asdict(launch) if launch else None}))
    elif len(rows) == 1:
        _print_one(model, what, rows[0], launch)
    else:
        _print_all(model, what, rows, launch)
    return 0 if any(row.fit.starts for row in rows) else ModelError.exit_code


def _whole(text: str) -> int:
    if text.isdecimal() and (len(text) > 12 or int(text) >= _WHOLE_MAX):
        raise ArgumentTypeError(f'is too large: "{text[:40]}"')
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f'must be a whole number above 0, not "{text[:80]}"')
    return int(text)


def _without_weights(name: str, settings: Settings) -> str | None:
    from launcher.models.resolve import catalog_entry

    entry = catalog_entry(name, settings)
    return entry.name if entry is not None and entry.engine == "simulated" else None


def _print_all(model: ResolvedModel, what: Facts, rows: list[Verdict], launch: Taken | None) -> None:
    print(one_line(f"{model.id}: {_words(what)}; from {model.found}"))
    head = ["Profile", "Verdict", "GPUs", "Context", "At once", "Would start", "Note"]
    print(table([_cells(row) for row in rows], head=head))
    if launch is not None:
        print(one_line(_launched(launch)))
    print("The arithmetic: launcher fit MODEL --profile NAME")


def _cells(row: Verdict) -> list[str]:
    fit = row.fit
    why = next(iter(fit.reasons or fit.notes), "")
    if fit.verdict == "fits-if" and fit.remedies:
        # Where it starts with less, the first thing is what would do for all.
        why = f"{'shortened; for all: ' if fit.starts else 'with '}{fit.remedies[0].text}"
        if fit.starts and "max_model_len" in fit.remedies[0].request_changes:
            why = "shortened"
    gpus = _gpus(row.gpus, row.profile.gpu_type, fit.nodes)
    at_once = f"{fit.requests:.1f}" if fit.requests is not None and fit.starts else ""
    context = str(fit.context) if fit.context and fit.starts else ""
    verdict = _verdict(fit) if fit.own_build and fit.verdict == "fits" else _WORDS[fit.verdict]
    return [row.profile.name, verdict, gpus, context, at_once, _starts(row.start), why]


def _gpus(count: int, kind: str | None, nodes: int) -> str:
    """`8 × h100`, `2 nodes, each 8 × h100`; nothing where there is none."""
    each = f"{nodes} nodes, each " if nodes > 1 else ""
    return f"{each}{count} × {kind or 'GPU'}" if count else ""


def _launched(launch: Taken) -> str:
    """`A launch takes large: 2 × a100, a context of 26944 of 131072 tokens (…).`"""
    gpus = _gpus(launch.gpus, launch.gpu_type, launch.nodes)
    context = launch.shortened or (f"{launch.context} tokens" if launch.context else "")
    parts = ", ".join(filter(None, (gpus, context and f"a context of {context}")))
    return f"A launch takes {launch.profile}{f': {parts}' if parts else ''}."


def _print_one(model: ResolvedModel, what: Facts, row: Verdict, launch: Taken | None) -> None:
    fit = row.fit
    gpus = f" ({_gpus(row.gpus, row.profile.gpu_type, fit.nodes)})" if row.gpus else ""
    print(one_line(f"{model.id}: {_words(what)}; from {model.found}"))
    print(one_line(f"On {row.profile.name}{gpus}: {_verdict(fit)}."))
    for text in (*fit.reasons, *fit.notes):
        print(f"  {one_line(text)}")
    if fit.remedies:
        print("\nWhat would help:" if not fit.starts else "\nWhat would give more:")
        for remedy in fit.remedies:
            print(f"  {one_line(remedy.text)}")
    if fit.arithmetic:
        print("\nThe arithmetic (1 GB is 2**30 bytes here, as for Slurm):")
        for text in fit.arithmetic:
            print(f"  {one_line(text)}")
    if launch is not None:
        print(f"\n{one_line(_launched(launch))}")
    if fit.starts and fit.engine_args:
        print(f"{'It' if launch else 'A launch'} adds: {one_line(' '.join(fit.engine_args))}")
    if row.start is not None:
        for sentence in filter(
            None, (row.start.idle, _would(row.start), row.start.advice, row.start.trouble)
        ):
            print(one_line(sentence))


def _verdict(fit: Fit) -> str:
    if fit.verdict != "fits-if":
        return _WORDS[fit.verdict] + (
            ", with a vLLM build of your own" if fit.own_build and fit.starts else ""
        )
    if not fit.starts:
        return "fits if one thing changes"
    return "fits with a shorter context" if "--max-model-len" in fit.engine_args else "fits, but only just"


def _words(what: Facts) -> str:
    from launcher.models.fit.arithmetic import size

    kind = f", {what.quantization}" if what.quantization else ""
    counted = "" if what.counted else " (computed, not counted)"
    weights = f"{size(what.weights_bytes)}{counted} in {what.dtype}{kind}"
    if what.stored_bytes and abs(what.stored_bytes - what.weights_bytes) > _DIFFERS * what.weights_bytes:
        weights = (
            f"{size(what.stored_bytes)} on disk, {size(what.weights_bytes)} loaded as {what.dtype}{kind}"
        )
    many = what.parameters >= 0.9995e9
    parameters = f"{what.parameters / (1e9 if many else 1e6):.3g} {'b' if many else 'm'}illion parameters"
    context = f", context {what.context}" if what.engine == "vllm" else ""
    return f"{what.task}, {parameters}, weights {weights}{context}"


def _starts(start: Start | None) -> str:
    from launcher.planning.soonest import when

    return when(start.starts_at) if start is not None and start.starts_at is not None else ""


def _would(start: Start) -> str | None:
    return f"A job would start {_starts(start)}." if start.starts_at is not None else None


def _described(model: ResolvedModel, what: Facts) -> dict[str, Any]:
    told = {name: value for name, value in what.to_dict().items() if name not in ("weights", "caches")}
    return {"id": model.id, "revision": model.revision, "found": model.found, **told}


def _of_row(row: Verdict) -> dict[str, Any]:
    start = row.start.to_dict() if row.start is not None else None
    return {"profile": row.profile.name, **row.fit.to_dict(), "start": start}

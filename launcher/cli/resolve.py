"""`launcher resolve`: which copy of a model a launch would take, and why."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace
from typing import Any

from launcher.cli.tables import one_line
from launcher.models.known import Known, known
from launcher.models.resolve import ResolvedModel, resolve
from launcher.models.snapshot import no_tokenizer
from launcher.settings.layers import load

_EXAMPLES = """\
examples:
  launcher resolve org/name                     the folder and the commit that a launch would take
  launcher resolve org/name --revision v1.0     a branch, a tag, or a commit of at least seven digits
  launcher resolve /shared/models/my-model --json
"""
_SHOWN = 10


def options(parser: ArgumentParser) -> None:
    """Add the arguments of `launcher resolve`."""
    parser.epilog = _EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a catalog name, an id such as org/name, or a path")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the model")


def run(arguments: Namespace) -> int:
    """Print the copy, or raise what is wrong with it."""
    found = resolve(arguments.model, load(), arguments.revision, everywhere=True)
    if arguments.json:
        print(json.dumps(_described(found)))
        return 0
    rows = [("Model", found.id), ("Found", found.found)]
    if found.revision is not None:
        rows.append(("Commit", found.revision + (f" ({', '.join(found.refs)})" if found.refs else "")))
    rows.append(("Folder", str(found.snapshot or "none: this engine needs no weights")))
    if found.format is not None:
        rows.append(("Weights", found.format))
    for label, text in rows:
        print(f"{label:<9}{one_line(text)}")
    if found.engine != "vllm":
        print(f"{'Engine':<9}{found.engine}")
    if (advice := known(found.id)) is not None:
        print(f"{'Known':<9}{one_line(_advice(advice))}")
    for other in found.passed_over[:_SHOWN]:
        print(f"{'Not':<9}{one_line(f'{other.path}: {other.why}')}")
    if len(found.passed_over) > _SHOWN:
        print(f"{'':<9}and {len(found.passed_over) - _SHOWN} more: launcher resolve --json")
    for note in _notes(found):
        print(f"{'Note':<9}{one_line(note)}")
    return 0


def _notes(found: ResolvedModel) -> list[str]:
    return [] if found.tokenizer or found.snapshot is None else [str(no_tokenizer(found.snapshot, found.id))]


def _advice(about: Known) -> str:
    """What the packaged list says of the model, as words; a launch adds the parsers where nobody names others."""
    size = f"{about.parameters_b:g} billion parameters"
    size += f", {about.active_b:g} of them for each token" if about.active_b else ""
    parts = [
        about.task,
        size,
        f"a context of {about.context} tokens to begin with" if about.context else "",
        f"tool parser {about.tool_parser}" if about.tool_parser else "",
        f"reasoning parser {about.reasoning_parser}" if about.reasoning_parser else "",
        f"licence {about.licence}" if about.licence else "",
        "gated: its licence must be accepted on the hub" if about.gated else "",
    ]
    told = "; ".join(part for part in parts if part)
    return f"{told}. {about.note}" if about.note else told


def _described(found: ResolvedModel) -> dict[str, Any]:
    return {
        "id": found.id,
        "snapshot": str(found.snapshot) if found.snapshot else None,
        "revision": found.revision,
        "refs": list(found.refs),
        "found": found.found,
        "catalog": found.entry.name if found.entry else None,
        "layout": found.layout,
        "format": found.format,
        "engine": found.engine,
        "passed_over": [{"path": str(other.path), "why": other.why} for other in found.passed_over],
        "notes": _notes(found),
        "known": dataclasses.asdict(about) if (about := known(found.id)) is not None else None,
    }

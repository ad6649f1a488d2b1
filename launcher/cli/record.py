"""`launcher record`: what a session ran on, as a table, as JSON or in words for a paper."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from launcher.api import Launcher
from launcher.cli.parser import SESSION
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import SessionError
from launcher.sessions.clock import moment

if TYPE_CHECKING:
    from launcher.api.record import Record

EXAMPLES = """\
examples:
  launcher record                               that of your latest session
  launcher record tiny-chat-3f9a --methods      a paragraph for a paper
  launcher record old/record.json --json
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "record",
        nargs="?",
        metavar="ID|FILE",
        help=f"{SESSION}, or a record.json (default: the latest session)",
    )
    parser.add_argument(
        "--methods", action="store_true", help="print a paragraph for the methods section of a paper"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the record."""
    launcher = Launcher()
    found = launcher.record(arguments.record if arguments.record is not None else _latest(launcher))
    if found.preliminary:
        over = found.data.get("end") is not None
        why = "was killed before it wrote its last word" if over else "still runs or waits"
        print(f"launcher: The record is preliminary: the session {why}.", file=sys.stderr)
    if arguments.methods:
        from launcher.api.methods import methods

        text = methods(found)
        return print_json({"methods": text}) if arguments.json else _say(text)
    if arguments.json:
        return print_json({**found.data, "preliminary": found.preliminary})
    return _say(table(_rows(found), head=["Record", "Value"]), lines=True)


def _latest(launcher: Launcher) -> str:
    sessions = launcher.sessions()
    if not sessions:
        raise SessionError("You have no sessions, so there is no record.", "Give the path of a record.json.")
    return sessions[-1].id


def _say(text: str, *, lines: bool = False) -> int:
    print(text if lines else one_line(text))
    return 0


def _rows(record: Record) -> list[tuple[str, str]]:
    plan, versions, model = record.plan, record.part("versions"), record.part("model")
    hardware, times = record.part("hardware"), record.part("times")
    usage, end = record.part("usage"), record.part("end")
    image = record.image
    wanted = plan.resources
    hashed = sum(1 for entry in record.weights if entry.get("sha256"))
    rows = [
        ("Session", plan.id), ("File", record.source), ("Model", plan.model.id), ("Revision", plan.model.revision),
        ("Model Weights Directory", plan.model.snapshot),
        ("Files", f"{len(record.weights)}, {hashed} with SHA-256" if record.weights else None),
        ("Architecture", model.get("architecture")), ("Quantization", model.get("quantization")),
        ("Inference Engine", f"{plan.engine} {record.engine_version or ''}".strip()),
        ("Environment", f"{plan.environment.name} ({plan.environment.kind})"), ("Image", image.get("path")),
        ("Image id", image.get("id")), ("Engine arguments", " ".join(plan.engine_args)),
        ("Cluster", plan.cluster.name), ("Profile", wanted.profile), ("Partition", wanted.partition),
        ("Node", hardware.get("host")),
        ("GPUs", f"{wanted.gpus} {wanted.gpu_type or ''}".strip() if wanted.gpus else None),
        *(("", gpu) for gpu in record.gpus), ("Driver", hardware.get("driver")),
        ("Launcher", versions.get("launcher")), ("Python", versions.get("python")),
        ("Started", moment(times.get("started_at"))), ("Ended", moment(times.get("ended_at"))),
        ("Requests", usage.get("requests")), ("Prompt tokens", usage.get("prompt_tokens")),
        ("Completion tokens", usage.get("completion_tokens")), ("End", end.get("message")),
    ]  # fmt: skip
    return [(label, str(value)) for label, value in rows if value not in (None, "")]

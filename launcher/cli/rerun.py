"""`launcher rerun`: the same session again from its record, and what differs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.launch import show_script
from launcher.cli.launch_options import add_some
from launcher.cli.parser import SESSION
from launcher.cli.status import described, print_json
from launcher.cli.tables import one_line, table

if TYPE_CHECKING:
    from launcher.api.rerun import Rerun
    from launcher.api.session import Session

EXAMPLES = """\
examples:
  launcher rerun tiny-chat-3f9a --dry-run       only say what would differ
  launcher rerun paper/record.json --wait
  launcher rerun paper/record.json --strict     start it only if nothing differs
  launcher rerun paper/record.json --profile gpu-large --hours 8
"""
_CHANGED = ("profile", "account", "qos", "partition", "hours", "idle_minutes", "name", "environment")


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("record", metavar="ID|FILE", help=f"a record.json, or {SESSION}")
    parser.add_argument("--dry-run", action="store_true", help="say what differs, and submit nothing")
    parser.add_argument("--strict", action="store_true", help="refuse when anything differs")
    parser.add_argument("--wait", action="store_true", help="wait until it is ready")
    add_some(parser.add_argument_group("instead of what the record says"), _CHANGED)


def run(arguments: argparse.Namespace) -> int:
    """Say what differs, and start it."""
    from launcher.api.rerun import prepared

    launcher = Launcher()
    changed = {name: value for name in _CHANGED if (value := getattr(arguments, name)) is not None}
    record = launcher.record(arguments.record)
    found = prepared(launcher, record, door="shell", strict=arguments.strict, **changed)
    if not arguments.json:
        _print(found, record.plan.id)
    if arguments.dry_run:
        return show_script(found.plan, arguments.json, **_described(found))
    session = launcher.submit(found.plan)
    if arguments.wait:
        from launcher.cli.wait import until_ready

        return until_ready(session, None, arguments.json)
    return _submitted(found, session, arguments.json)


def _submitted(found: Rerun, session: Session, as_json: bool) -> int:
    if as_json:
        return print_json({**described(session, session.status()), **_described(found)})
    print(f"Session {session.id}, job {session.job_id}.")
    print(f"\nFollow it:  launcher wait {session.id}\nStop it:    launcher stop {session.id}")
    return 0


def _print(found: Rerun, was: str) -> None:
    # On standard error where the script goes to standard output.
    if found.differences:
        rows = [[one.what, one.then, one.now] for one in found.differences]
        print(table(rows, head=[f"Not as in {was}", "Then", "Now"]), file=sys.stderr)
    else:
        print(f"Nothing that could be compared differs from {one_line(was)}.", file=sys.stderr)
    for sentence in found.not_compared:
        print(one_line(sentence), file=sys.stderr)


def _described(found: Rerun) -> dict[str, Any]:
    return {
        "differences": [dataclasses.asdict(one) for one in found.differences],
        "not_compared": list(found.not_compared),
    }

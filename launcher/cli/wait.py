"""`launcher wait`: until a session is ready."""

from __future__ import annotations

import argparse
import sys
import time

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION, number
from launcher.cli.status import described, how_long, print_json
from launcher.cli.tables import one_line
from launcher.sessions.status import Status

EXAMPLES = "example:\n  launcher wait tiny-chat-3f9a --timeout 600"


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", metavar="ID", help=SESSION)
    parser.add_argument(
        "--timeout", type=number, metavar="S", help="seconds to wait once the job runs; the queue is free"
    )


def run(arguments: argparse.Namespace) -> int:
    """Wait for the session that was named."""
    return until_ready(Launcher().session(arguments.session), arguments.timeout, arguments.json)


def until_ready(session: Session, timeout_s: float | None, as_json: bool) -> int:
    """Wait, telling each step; the exit code."""
    started = time.monotonic()

    def progress(status: Status) -> None:
        where = f"{status.state} {status.phase}" if status.phase else status.state
        usual = f" ({spent})" if (spent := how_long(status)) else ""
        print(
            f"{time.monotonic() - started:6.1f} s  {where:<18} {one_line(status.message)}{usual}", flush=True
        )

    try:
        connection = session.wait(timeout_s, None if as_json else progress)
    except KeyboardInterrupt:
        print(f"\nThe session goes on. Stop it with: launcher stop {session.id}", file=sys.stderr)
        raise
    if as_json:
        return print_json(described(session, session.status()))
    print()
    for label, value in (
        ("Base URL", connection.base_url),
        ("Page", connection.page_url),
        ("Model", connection.model),
    ):
        if value is not None:
            print(f"{label:<9} {one_line(value)}")
    print(f"API key   in {session.paths.key} (only you can read it)")
    return 0

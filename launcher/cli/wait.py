"""`launcher wait`: until sessions are ready."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION, from_zero, number
from launcher.cli.status import described, how_long, print_json
from launcher.cli.tables import one_line
from launcher.errors import RequestError
from launcher.sessions.connection import Connection
from launcher.sessions.status import Status

EXAMPLES = """\
examples:
  launcher wait tiny-chat-3f9a --timeout 600
  launcher wait 4711                            all members of a batch
  launcher wait --all --json

The first session that fails ends the waiting, with the exit code of its reason.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("sessions", nargs="*", metavar="ID", help=SESSION)
    parser.add_argument("--all", action="store_true", help="wait for all your sessions that are not over")
    parser.add_argument(
        "--timeout",
        type=from_zero(number),
        metavar="S",
        help="seconds to wait once the job runs; the queue is free",
    )


def run(arguments: argparse.Namespace) -> int:
    """Wait for the sessions that were named."""
    if bool(arguments.sessions) == arguments.all:
        raise RequestError("Whom to wait for is not clear.", "Name sessions, or write --all, not both.")
    launcher = Launcher()
    if arguments.all:
        sessions = launcher.sessions()
        statuses = launcher.statuses(sessions)
        sessions = [session for session, now in zip(sessions, statuses, strict=True) if not now.ended]
    else:
        named = [session for wanted in arguments.sessions for session in launcher.members(wanted)]
        sessions = [*{session.id: session for session in named}.values()]
    if len(sessions) == 1 and not arguments.all:
        return until_ready(sessions[0], arguments.timeout, arguments.json)
    return all_ready(launcher, sessions, arguments.timeout, arguments.json)


def until_ready(session: Session, timeout_s: float | None, as_json: bool) -> int:
    """Wait, telling each step; the exit code."""
    tell = _Told()
    try:
        connection = session.wait(timeout_s, None if as_json else tell.one)
    except KeyboardInterrupt:
        print(f"\nThe session goes on. Stop it with: launcher stop {session.id}", file=sys.stderr)
        raise
    if as_json:
        return print_json(described(session, session.status()))
    _print_ready(session, connection)
    return 0


def all_ready(launcher: Launcher, sessions: Sequence[Session], timeout_s: float | None, as_json: bool) -> int:
    """Wait for several with one question to the scheduler at a time; the exit code."""
    tell = _Told(max((len(session.id) for session in sessions), default=0))
    try:
        connections = launcher.wait_all(sessions, timeout_s, None if as_json else tell.several)
    except KeyboardInterrupt:
        print("\nThe sessions go on. See them with: launcher status", file=sys.stderr)
        raise
    if as_json:
        statuses = launcher.statuses(list(sessions))
        return print_json({"sessions": [described(s, t) for s, t in zip(sessions, statuses, strict=True)]})
    for session, connection in zip(sessions, connections, strict=True):
        _print_ready(session, connection)
    if not sessions:
        print("You have no session to wait for.")
    return 0


class _Told:
    def __init__(self, width: int = 0) -> None:
        self._started, self._width = time.monotonic(), width

    def one(self, status: Status) -> None:
        where = f"{status.state} {status.phase}" if status.phase else status.state
        usual = f" ({spent})" if (spent := how_long(status)) else ""
        name = f"{status.id:<{self._width}}  " if self._width else ""
        elapsed = f"{time.monotonic() - self._started:6.1f} s"
        print(f"{elapsed}  {name}{where:<18} {one_line(status.message)}{usual}", flush=True)

    def several(self, _: Session, status: Status) -> None:
        self.one(status)


def _print_ready(session: Session, connection: Connection) -> None:
    print()
    for label, value in (
        ("Session", session.id),
        ("Base URL", connection.base_url),
        ("Page", connection.page_url),
        ("Model", connection.model),
    ):
        if value is not None:
            print(f"{label:<9} {one_line(value)}")
    print(f"API key   in {session.paths.key} (only you can read it)")

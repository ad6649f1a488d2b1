"""`launcher stop`: end a session."""

from __future__ import annotations

import argparse
import sys

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION
from launcher.cli.status import described, print_json
from launcher.cli.tables import one_line
from launcher.sessions.status import Status

EXAMPLES = """\
examples:
  launcher stop tiny-chat-3f9a
  launcher stop 4711+1                          one member of a batch; with 4711 all of it
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", metavar="ID", help=SESSION)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")


def run(arguments: argparse.Namespace) -> int:
    """Ask for the end, and wait for it."""
    sessions = Launcher().members(arguments.session)
    try:
        statuses = _stopped(sessions, wait=not arguments.no_wait)
    except KeyboardInterrupt:
        said = f"\nIts end may have been asked for already: launcher status {one_line(arguments.session)}"
        print(said, file=sys.stderr)
        raise
    ends = list(zip(sessions, statuses, strict=True))
    if arguments.json:
        found = [described(session, status) for session, status in ends]
        return print_json(found[0] if len(found) == 1 else {"sessions": found})
    for session, status in ends:
        if status.ended:
            print(f"{session.id}: {status.state}. {one_line(status.message)}")
        else:
            print(f"{session.id}: its end was asked for. Follow it: launcher status {session.id}")
    return 0


def _stopped(sessions: list[Session], *, wait: bool) -> list[Status]:
    if len(sessions) == 1:
        return [sessions[0].stop(wait=wait)]
    from launcher.api.batch_launch import stop

    return stop(sessions, wait=wait)

"""`launcher stop`: end a session."""

from __future__ import annotations

import argparse

from launcher.api import Launcher
from launcher.cli.parser import SESSION
from launcher.cli.status import described, print_json
from launcher.cli.tables import one_line

EXAMPLES = "example:\n  launcher stop tiny-chat-3f9a"


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", metavar="ID", help=SESSION)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")


def run(arguments: argparse.Namespace) -> int:
    """Ask for the end, and wait for it."""
    session = Launcher().session(arguments.session)
    status = session.stop(wait=not arguments.no_wait)
    if arguments.json:
        return print_json(described(session, status))
    if status.ended:
        print(f"{session.id}: {status.state}. {one_line(status.message)}")
    else:
        print(f"{session.id}: its end was asked for. Follow it: launcher status {session.id}")
    return 0

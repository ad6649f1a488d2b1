"""`launcher connection`: what `launcher connect` on a laptop asks of the cluster; nobody types it.

It prints a session's connection, key included, for the other end of an ssh connection and nobody else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from launcher.api import Launcher
from launcher.cli.parser import SESSION
from launcher.errors import RequestError


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("session", metavar="ID", help=SESSION)
    parser.add_argument(
        "--follow", action="store_true", help="answer each order on standard input, until it ends"
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer orders, or print the connection once."""
    if sys.stdout.isatty():
        raise RequestError("This prints a key, and is not for a terminal.", "Use: launcher connect ID")
    from launcher.api.tunnel.whereabouts import Near, answered

    near = Near(Launcher().session(arguments.session))
    if not arguments.follow:
        print(json.dumps(dataclasses.asdict(near.look())))
        return 0
    # sshd ends our input with the connection: nothing is left behind when the laptop is gone.
    for line in sys.stdin:
        print(answered(near, line), flush=True)
    return 0

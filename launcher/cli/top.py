"""`launcher top`: all sessions on the whole screen, or once as a table or JSON for scripts."""

from __future__ import annotations

import argparse
import os
import sys

from launcher.api import Launcher
from launcher.api.watch import Watch
from launcher.cli.columns import HEAD, cells
from launcher.cli.metrics import figures
from launcher.cli.status import NONE, described, print_json
from launcher.cli.tables import one_line, table
from launcher.errors import RequestError

EXAMPLES = """\
examples:
  launcher top
  launcher top --once                           a table, for scripts and terminals without a cursor

keys: up/down or j/k choose, Enter details, l logs, s stop, c the command that connects, q leave

Left: the time until its limit. If idle: until it stops, if nobody uses it."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("--once", action="store_true", help="print one table; so it is where no terminal is")


def run(arguments: argparse.Namespace) -> int:
    """Show all sessions until q, or once."""
    launcher = Launcher()
    if arguments.json or arguments.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(launcher, arguments.json)
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise RequestError(
            f'top needs a terminal with a cursor, and TERM is "{os.environ.get("TERM", "")[:40]}".',
            "See once what is there: launcher top --once",
        )
    try:
        from launcher.cli.screen import show
    except ImportError:  # a Python that was built without ncurses
        raise RequestError(
            "This Python has no curses.", "See once what is there: launcher top --once"
        ) from None
    return show(launcher)


def _once(launcher: Launcher, as_json: bool) -> int:
    def say(text: str) -> None:
        print(f"launcher: {one_line(text)}", file=sys.stderr)

    seen = Watch(launcher, say).once()
    if as_json:
        return print_json({
            "sessions": [
                {**described(s.session, s.status), "metrics": figures(s.metrics) if s.metrics else None}
                for s in seen
            ]
        })  # fmt: skip
    if not seen:
        print(NONE)
        return 0
    print(table([cells(one) for one in seen], head=HEAD, yielding=("Wait", "Run", "GPUs", "Model", "Phase")))
    return 0

"""`launcher logs`: the end of a log, and what comes after it."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time

from launcher.api import Launcher, Session
from launcher.api.log import LOGS, after, end_of, log_of
from launcher.cli.parser import SESSION, from_zero, whole
from launcher.errors import SessionError

# Control characters but for tab, line break and "ESC [ … m"; and those that turn the direction of writing.
_STEERING = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = "example:\n  launcher logs tiny-chat-3f9a -f"
    parser.add_argument("session", metavar="ID", help=SESSION)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the session ends")
    parser.add_argument(
        "-n", "--lines", type=from_zero(whole), default=100, metavar="N", help="how many lines (default: 100)"
    )
    parser.add_argument(
        "--of",
        choices=LOGS,
        default="engine",
        help="which log; nodes and engine-1, engine-2, … are a model's on several nodes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the log that was asked for."""
    session = Launcher().session(arguments.session)
    return show(session, arguments.of, arguments.lines, arguments.follow, arguments.json)


def show(session: Session, which: str, lines: int, follow: bool, as_json: bool) -> int:
    """Print the last `lines` of a log of `session`; with `follow`, go on until the session ends."""
    paths = session.paths
    path = log_of(paths, which)
    if not path.exists() and not follow:
        # A job that dies before its session could speak leaves its own log, and only that.
        other = paths.job_log.exists() and which != "job"
        look = f"launcher logs {session.id} --of job" if other else f"launcher status {session.id}"
        raise SessionError(f"Session {session.id} has no {which} log yet.", f"Look at: {look}")
    last, place = end_of(path, lines)
    text = last.decode("utf-8", "replace")
    if as_json:
        print(json.dumps({"id": session.id, "log": str(path), "lines": text.splitlines()}))
        return 0
    try:
        sys.stdout.write(shown(text))
        while follow:
            sys.stdout.flush()
            over = session.status().ended
            more, place = after(path, place)
            sys.stdout.write(shown(more.decode("utf-8", "replace")))
            if over and not more:
                break
            if not more:  # each look asks the scheduler
                time.sleep(2.0)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the shell goes on below the ^C, not behind it
        raise
    return 0


def shown(text: str) -> str:
    """`text` without what would steer a terminal; colours stay, since engines write them."""
    return _STEERING.sub("?", text)

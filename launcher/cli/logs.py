"""The end of a log, and what comes after it; costs what is shown, not what is there."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION, from_zero, whole
from launcher.errors import SessionError

_BLOCK = 64 * 1024
_LINE_MAX_BYTES = 1 << 20
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
        "--of", choices=("engine", "gateway", "page", "job"), default="engine", help="which log"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the log that was asked for."""
    session = Launcher().session(arguments.session)
    return show(session, arguments.of, arguments.lines, arguments.follow, arguments.json)


def show(session: Session, which: str, lines: int, follow: bool, as_json: bool) -> int:
    """Print the last `lines` of a log of `session`; with `follow`, go on until the session ends."""
    paths = session.paths
    path = {
        "engine": paths.engine_log,
        "gateway": paths.gateway_log,
        "page": paths.page_log,
        "job": paths.job_log,
    }[which]
    if not path.exists() and not follow:
        # A job that dies before its session could speak leaves its own log, and only that.
        other = paths.job_log.exists() and which != "job"
        look = f"launcher logs {session.id} --of job" if other else f"launcher status {session.id}"
        raise SessionError(f"Session {session.id} has no {which} log yet.", f"Look at: {look}")
    text, offset = tail(path, lines)
    if as_json:
        print(json.dumps({"id": session.id, "log": str(path), "lines": text.splitlines()}))
        return 0
    sys.stdout.write(shown(text))
    while follow:
        sys.stdout.flush()
        over = session.status().ended
        more, offset = _rest(path, offset)
        sys.stdout.write(shown(more))
        if over and not more:
            break
        time.sleep(0 if more else 2.0)
    return 0


def shown(text: str) -> str:
    """`text` without what would steer a terminal; colours stay, since engines write them."""
    return _STEERING.sub("?", text)


def tail(path: Path, lines: int) -> tuple[str, int]:
    """The last `lines` lines of `path` and the offset of its end; reads from the end, block by block."""
    if lines <= 0 or not path.exists():
        return "", path.stat().st_size if path.exists() else 0
    with path.open("rb") as file:
        end = position = file.seek(0, 2)
        blocks: list[bytes] = []
        breaks = unbroken = 0
        # Of a line without end, as a progress bar writes one, the end is enough.
        while position and breaks <= lines and unbroken < _LINE_MAX_BYTES:
            step = min(_BLOCK, position)
            position -= step
            file.seek(position)
            blocks.append(block := file.read(step))
            found = block.count(b"\n")
            breaks, unbroken = breaks + found, 0 if found else unbroken + step
    kept = b"".join(reversed(blocks)).splitlines(keepends=True)[-lines:]
    return b"".join(kept).decode("utf-8", "replace"), end


def _rest(path: Path, offset: int) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < offset:  # started again: the log was made new
                offset = 0
            file.seek(offset)
            data = file.read(_BLOCK)
    except FileNotFoundError:
        return "", 0
    return data.decode("utf-8", "replace"), offset + len(data)

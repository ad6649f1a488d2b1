"""`launcher files`: the files of a cluster that is used over ssh, through the connection that is open already."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from launcher.cli.parser import add_command
from launcher.cli.tables import one_line, table
from launcher.errors import RequestError
from launcher.models.disk import size
from launcher.sessions.clock import moment

_EXAMPLES = """\
examples:
  launcher files ls della:/scratch/me
  launcher files get della:results/out.jsonl .
  launcher files put interview.mp3 della:/scratch/me/
  launcher files cat della:.local/state/launcher/sessions/tiny-chat-3f9a2c1b/engine.log

A path without / in front begins in your home there. What is there with the same size is left as it is; a transfer
that broke off goes on where it was.
"""
_PLACE = "CLUSTER:PATH"
_PROGRESS_S = 0.2


def options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the commands `ls`, `get`, `put` and `cat`."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="files_command", metavar="COMMAND", required=True)
    listed = add_command(commands, "ls", "list a folder", "example:\n  launcher files ls della:/scratch/me")
    listed.add_argument("place", metavar=_PLACE, help="a folder or a file there")
    get = add_command(
        commands, "get", "fetch a file or a folder", "example:\n  launcher files get della:out.txt ."
    )
    get.add_argument("place", metavar=_PLACE, help="a file or a folder there")
    get.add_argument(
        "to", nargs="?", default=".", metavar="HERE", help="a folder or a name here (default: .)"
    )
    put = add_command(
        commands, "put", "send files or folders", "example:\n  launcher files put a.mp3 della:audio/"
    )
    put.add_argument("file", nargs="+", metavar="HERE", help="files or folders here")
    put.add_argument("place", metavar=_PLACE, help="a folder or a name there")
    for moves in (get, put):
        moves.add_argument("--force", action="store_true", help="overwrite what is there")
        moves.add_argument(
            "-r",
            "--recursive",
            action="store_true",
            help="a folder with all that is in it, but links to folders",
        )
    shown = add_command(commands, "cat", "print a file", "example:\n  launcher files cat della:notes.txt")
    shown.add_argument("place", metavar=_PLACE, help="a file there")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    from launcher.api.remote.far import far_of
    from launcher.settings.layers import load

    name, path = _place(arguments.place)
    far = far_of(name, load())
    if arguments.files_command == "ls":
        return _list(far, path, arguments)
    if arguments.files_command == "cat":
        return _show(far, path, arguments)
    return _move(far, path, arguments)


def _place(text: str) -> tuple[str, str]:
    own = os.environ.get("LAUNCHER_CLUSTER")
    name, colon, path = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        return name, path
    if own:  # launcher --cluster della files ls /scratch
        return own, text
    raise RequestError(f'"{text[:80]}" names no cluster.', "Write CLUSTER:PATH, such as della:/scratch/me.")


def _list(far: Any, path: str, arguments: argparse.Namespace) -> int:
    import dataclasses

    from launcher.api.remote.files import listed

    found, entries = listed(far, path)
    shown = [found] if entries is None else entries
    if arguments.json:
        print(json.dumps({"path": found.path, "files": [dataclasses.asdict(entry) for entry in shown]}))
        return 0
    rows = [
        [
            entry.name + ("/" if entry.kind == "folder" else ""),
            "" if entry.kind == "folder" else size(entry.size),
            moment(entry.changed_at, seconds=False),
        ]
        for entry in shown
    ]
    print(table(rows, head=["Name", "Size", "Changed"]))
    return 0


def _show(far: Any, path: str, arguments: argparse.Namespace) -> int:
    from launcher.api.remote.files import content

    for data in content(far, path):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def _move(far: Any, path: str, arguments: argparse.Namespace) -> int:
    import dataclasses

    from launcher.api.remote.files import fetched, sent

    given = {"force": arguments.force, "recursive": arguments.recursive, "progress": _progress()}
    if arguments.files_command == "get":
        moved = fetched(far, path, Path(arguments.to), **given)
    else:
        moved = [one for file in arguments.file for one in sent(far, Path(file), path, **given)]
    if arguments.json:
        print(json.dumps({"files": [dataclasses.asdict(one) for one in moved]}))
        return 0
    for one in moved:
        told = "is there already, with the same size" if one.kept else size(one.size)
        print(f"{one_line(one.path)}: {told}")
    return 0


def _progress() -> Any:
    """Shows how far a file is, on a terminal."""
    if not sys.stderr.isatty():
        return None
    last = 0.0

    def shown(path: str, done: int, whole: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < whole and now - last < _PROGRESS_S:
            return
        last = now
        text = f"{one_line(Path(path).name)[:50]}: {size(done)} of {size(whole)}"
        end = "\r" + " " * len(text) + "\r" if done >= whole else ""
        print(f"\r{text}{end}", end="", file=sys.stderr, flush=True)

    return shown

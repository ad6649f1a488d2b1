"""Where the sessions are, remembered between commands: `launcher status` need not read all of the settings for that.

Owns one small file (0600) in the user's cache and when it is believed: while each file of settings, each variable of
the launcher's and the launcher itself are as they were. To read and check settings takes a third of the time of
`launcher status`. What is kept is the value as it was written; `~` and variables are replaced anew each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import launcher
from launcher.sessions.paths import write_private
from launcher.settings.pathnames import expanded, is_absolute, unset
from launcher.settings.sources import site_file, user_file

_SCHEMA = 1
_FILE = "~/.cache/launcher/sessions.json"
_FILE_MAX_BYTES = 65_536
# A file that has just been changed may be changed again within the same tick of its file system's clock.
_SETTLED_S = 2.0
_PACKAGED = Path(launcher.__file__).parent / "settings" / "defaults.yml"


def recall(variables: Mapping[str, str]) -> Path | None:
    """The folder of the sessions, None where nothing is remembered that holds now."""
    try:
        known = json.loads(_read(os.path.expanduser(_FILE)))
        if known["schema"] != _SCHEMA or known["of"] != _witnesses(variables):
            return None
        folder = expanded(known["sessions"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = isinstance(folder, str) and is_absolute(folder) and unset(folder) is None
    return Path(folder) if sound else None


def keep(variables: Mapping[str, str], written: str) -> None:
    """Remember `written`, which sound settings say; where that cannot be, the next command reads them again."""
    path = Path(os.path.expanduser(_FILE))
    with contextlib.suppress(OSError):
        witnesses = _witnesses(variables)
        if any(
            mark is not None and time.time() - mark[0] / 1e9 < _SETTLED_S for _, mark in witnesses["files"]
        ):
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = {"schema": _SCHEMA, "of": witnesses, "sessions": written}
        write_private(path, json.dumps(known) + "\n", durable=False)


def _witnesses(variables: Mapping[str, str]) -> dict[str, Any]:
    """What the settings depend on, in JSON's own types."""
    own = {
        name: variables[name] for name in sorted(variables) if name.startswith("LAUNCHER_") and "__" in name
    }
    files = [_PACKAGED, site_file(variables), user_file(variables)]
    return {"launcher": launcher.__version__, "variables": own, "files": [_mark(path) for path in files]}


def _mark(path: Path | None) -> list[Any]:
    if path is None:
        return [None, None]
    found = os.stat(path)
    # The time of the last change of any kind, which nobody can set back.
    return [str(path), [found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino]]


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ValueError("not a file of ours")
        return file.read(_FILE_MAX_BYTES)

"""The facts of many models in one private file, each kind once: a hundred fine-tunes of one model are of one shape.

Read when the first of them is asked for; a damaged file, or one of facts with other fields, is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path

from launcher.models.inspect.facts import Facts

_SHAPE = zlib.crc32(" ".join(Facts.__dataclass_fields__).encode())
_FILE_MAX = 200_000_000


class Remembered:
    """Facts by a short name, in the file `path`; without one, only until the end of this process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._texts: dict[str, str] | None = None
        self._made: dict[str, Facts | None] = {}
        self._new = False

    def __contains__(self, name: str) -> bool:
        return name in self._known()

    def get(self, name: str) -> Facts | None:
        """The facts of this name; None where they are not remembered any more."""
        if name not in self._made:
            try:
                self._made[name] = Facts.from_dict(json.loads(self._known()[name]))
            except (ValueError, TypeError, LookupError):
                self._made[name] = None
        return self._made[name]

    def add(self, facts: Facts) -> str:
        """Remember `facts`; their name."""
        text = json.dumps(facts.to_dict())
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        if name not in self._known():
            self._known()[name], self._new = text, True
        self._made[name] = facts
        return name

    def write(self, used: Collection[str]) -> None:
        """Write what is new, without the names that are not in `used`."""
        if not self._new:
            return
        body = "".join(f"{name}\t{text}\n" for name, text in self._known().items() if name in used).encode()
        write_checked(self._path, body, _SHAPE)
        self._new = False

    def stamp(self) -> str:
        """What changes whenever the file does."""
        try:
            status = os.stat(self._path or "")
        except OSError:
            return "none"
        return f"{status.st_mtime_ns} {status.st_ino} {status.st_size}"

    def _known(self) -> dict[str, str]:
        if self._texts is None:
            lines = [line.partition("\t") for line in read_checked(self._path, _SHAPE).splitlines()]
            self._texts = {name: text for name, _, text in lines}
        return self._texts


def read_checked(path: Path | None, shape: int | str) -> str:
    """The text that `write_checked` wrote; empty for anything else, and for what somebody else could have written."""
    if path is None:
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            ours = about.st_uid == os.geteuid() and not about.st_mode & 0o022
            if not stat.S_ISREG(about.st_mode) or not ours or about.st_size > _FILE_MAX:
                return ""
            head, body = file.readline(1000), file.read(_FILE_MAX)
        if json.loads(head) == [shape, zlib.crc32(body)]:
            return body.decode("utf-8", "surrogateescape")
    except (OSError, ValueError, RecursionError):
        pass
    return ""


def write_checked(path: Path | None, body: bytes, shape: int | str) -> None:
    """Replace `path` in one step, private; a full home makes the next listing slower, and nothing else."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")  # mkstemp makes it 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps([shape, zlib.crc32(body)]).encode() + b"\n" + body)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise

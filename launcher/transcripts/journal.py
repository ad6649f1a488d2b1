"""What is finished of one recording, kept beside its transcripts until they are written: a line for each piece.

Owns the file's form, its lock and its repair. Each line is on the disk before the next piece is waited for, so that a
kill at any moment costs at most the piece that was on its way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from launcher.transcripts.asked import Asked
from launcher.whisper.segments import Segment, believe

_SCHEMA = 1
_LINE_MAX_BYTES = 64 * 2**20  # a piece is some kilobytes; a file of another kind is not read into memory


@dataclass(frozen=True, slots=True)
class Source:
    """Which file it was: `path`, bytes and time of its last change; the latter two tell whether it is the same."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file `path` as it is now; raises OSError."""
        status = os.stat(path)
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def same(self, other: Source) -> bool:
        """Whether its content is the other's, as far as size and time tell."""
        return (self.size, self.modified_ns) == (other.size, other.modified_ns)


@dataclass(frozen=True, slots=True)
class Header:
    """What the pieces belong to: the file, what was asked, and who does it (model, its commit, the engine's ways)."""

    source: Source
    asked: Asked
    made_by: Mapping[str, Any]

    def difference(self, other: Header) -> str | None:
        """Why pieces of `other` are of no use here, in words; None where they are."""
        if not self.source.same(other.source):
            return "the file has changed"
        if self.asked != other.asked:
            return "other options"
        if self.made_by.get("model") != other.made_by.get("model"):
            return "another model"
        if dict(self.made_by) != dict(other.made_by):
            return "another version of the model or of the engine"
        return None


@dataclass(frozen=True, slots=True)
class Piece:
    """What is finished with one stretch: all before `done_s` is. `cursor` is the session's word for where to go on."""

    cursor: str
    done_s: float
    duration_s: float | None
    language: str | None
    segments: tuple[Segment, ...]

    def to_dict(self) -> dict[str, Any]:
        """A line of the journal."""
        return {name: getattr(self, name) for name in ("cursor", "done_s", "duration_s", "language")} | {
            "segments": [segment.to_dict() for segment in self.segments]
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The piece of a line; raises TypeError or KeyError for anything else."""
        made = cls(**{**data, "segments": tuple(map(Segment.from_dict, data["segments"]))})
        believe((made.done_s, made.duration_s or 0.0), (made.cursor, made.language or ""))
        return made


@dataclass(slots=True)
class Content:
    """What a journal holds: the `pieces` of `header` (None: nothing was begun), and whether they are all."""

    header: Header | None = None
    pieces: list[Piece] = field(default_factory=list)
    ended: bool = False

    @property
    def done_s(self) -> float:
        """So much of the recording is finished."""
        return self.pieces[-1].done_s if self.pieces else 0.0


class Journal:
    """One open journal, locked: while it is open no other command writes it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self._descriptor = descriptor
        self._removed = False
        with os.fdopen(os.dup(descriptor), "rb") as file:
            self.content, whole = _read(file)
        os.ftruncate(descriptor, whole)  # a line that a kill or a power cut has torn

    def begin(self, header: Header) -> None:
        """Start anew: what was in it is gone."""
        os.ftruncate(self._descriptor, 0)
        self.content = Content(header)
        self._append(
            {
                "schema": _SCHEMA, "source": asdict(header.source), "asked": header.asked.to_dict(),
                "made_by": dict(header.made_by),
            }
        )  # fmt: skip

    def add(self, piece: Piece) -> None:
        """Keep one more finished piece, safe from a power cut."""
        self._append(piece.to_dict())
        self.content.pieces.append(piece)

    def end(self) -> None:
        """The recording is finished; what is left is to write its transcripts."""
        self._append({"end": True})
        self.content.ended = True

    def remove(self) -> None:
        """Take it away; its transcripts are on the disk."""
        self.path.unlink(missing_ok=True)
        self._removed = True

    def close(self) -> None:
        """Give the lock back; a journal that holds nothing does not stay."""
        if self._descriptor >= 0:
            if not self.content.pieces and not self.content.ended and not self._removed:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, data: dict[str, Any]) -> None:
        append(self._descriptor, json.dumps(data, allow_nan=False).encode() + b"\n")


def append(descriptor: int, text: bytes) -> None:
    """Put `text` at the end of an open file and onto the disk; raises OSError, and leaves no part of it then."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while text:
            text = text[os.write(descriptor, text) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):  # half a line would only be repaired later
            os.ftruncate(descriptor, end)
        raise


def mode_of(source: Path) -> int:
    """The mode for what is made of `source`: for nobody who may not read the recording; the umask takes more."""
    try:
        readers = os.stat(source).st_mode & 0o444
    except OSError:
        readers = 0
    return 0o600 | readers | readers >> 1


def open_journal(path: Path, mode: int = 0o666) -> Journal | None:
    """The journal at `path`, made where there is none; None while another command has it. Raises OSError."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, mode)
        try:
            found = os.fstat(descriptor)
            # A second name of another file would have that file cut off and written.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise FileExistsError(errno.EEXIST, "It is in the way and no file", str(path))
            if not _lock(descriptor):
                os.close(descriptor)
                return None
            if _is(path, found):
                return Journal(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had it has finished and taken it away meanwhile


def glance(path: Path) -> Content:
    """What the journal at `path` holds, without its lock and without repairing it."""
    try:
        with open_regular(path) as file:
            return _read(file)[0]
    except OSError:
        return Content()


def open_regular(path: Path, *, links: bool = False) -> BinaryIO:
    """The regular file `path` for reading; raises OSError for anything else, and for a link without `links`."""
    follow = 0 if links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | follow | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "It is no file", str(path))
    return os.fdopen(descriptor, "rb")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: there nothing keeps two commands apart
    return True


def _is(path: Path, found: os.stat_result) -> bool:
    try:
        now = os.lstat(path)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _read(file: BinaryIO) -> tuple[Content, int]:
    """All whole lines, and where they end; what follows the first broken one is not believed."""
    content, whole = Content(), 0
    file.seek(0)
    for line in iter(lambda: file.readline(_LINE_MAX_BYTES), b""):
        try:
            if not line.endswith(b"\n"):
                break
            _take(content, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            break
        whole += len(line)
    return content, whole


def _take(content: Content, data: dict[str, Any]) -> None:
    if content.header is None:
        if data["schema"] != _SCHEMA:
            raise ValueError("another schema")
        content.header = Header(
            Source(**data["source"]), Asked.from_dict(data["asked"]), dict(data["made_by"])
        )
    elif "end" in data:
        content.ended = True
    else:
        content.pieces.append(Piece.from_dict(data))

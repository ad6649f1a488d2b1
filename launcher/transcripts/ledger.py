"""What was finished in one folder of transcripts: which file became which transcripts, with which options.

One hidden file (JSON lines) in the folder, only ever added to. It tells a finished recording from a changed one, and a
transcript of ours from one that a person wrote or corrected: those are never replaced unasked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Source, append, mode_of, open_regular
from launcher.whisper.segments import believe

NAME = ".launcher-transcripts.jsonl"
_MAX_BYTES = 512 * 2**20
_LOCK_TRIES, _LOCK_RETRY_S = 50, 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """A passage for a person to listen to again; times in seconds."""

    start: float
    end: float
    marks: tuple[str, ...]
    text: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The passage as the ledger has it; raises TypeError or KeyError for anything else."""
        made = cls(**{**data, "marks": tuple(data["marks"])})
        believe((made.start, made.end), (made.text, *made.marks))
        return made


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a finished recording: its length, language, words (by white space) and marked passages."""

    duration_s: float
    language: str | None
    words: int
    marks: tuple[Mark, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The facts as the ledger has them; raises TypeError or KeyError for anything else."""
        made = cls(**{**data, "marks": tuple(map(Mark.from_dict, data["marks"]))})
        believe((made.duration_s, made.words), (made.language or "",))
        return made


@dataclass(frozen=True, slots=True)
class Output:
    """One transcript as it was written."""

    name: str
    size: int
    modified_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, content: bytes) -> Self:
        """The file `path`, into which `content` was just written."""
        status = os.lstat(path)
        return cls(path.name, len(content), status.st_mtime_ns, hashlib.sha256(content).hexdigest())

    def untouched(self, folder: Path) -> bool:
        """Whether the file still is what was written; read only where its time differs."""
        path = folder / self.name
        try:
            status = os.lstat(path)
            if status.st_size != self.size or not stat.S_ISREG(status.st_mode):
                return False
            if status.st_mtime_ns == self.modified_ns:
                return True
            with open_regular(path) as file:
                return hashlib.sha256(file.read()).hexdigest() == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Entry:
    """One finishing: of `source`, as `asked`, by `made_by`; `outputs` are the formats that were written then."""

    source: Source
    asked: Asked
    made_by: Mapping[str, Any]
    facts: Facts
    outputs: Mapping[str, Output]


@dataclass(slots=True)
class Kept:
    """All that the ledger says of one name: the last entry that wrote each format; `again`: they may be replaced."""

    entries: dict[str, Entry] = field(default_factory=dict)
    again: bool = False

    @property
    def latest(self) -> Entry | None:
        return list(self.entries.values())[-1] if self.entries else None


class Ledgers:
    """The ledgers of some folders; asked again, only what was added since is read. Used by several threads."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, int, dict[str, Kept]]] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path) -> dict[str, Kept]:
        """What is finished in `folder`, by the recordings' names; lines that are not ours are passed over."""
        with self._lock:
            known, end, found = self._read.get(folder, (0, 0, {}))
            try:
                with open_regular(folder / NAME) as file:
                    status = os.fstat(file.fileno())
                    if status.st_ino != known or status.st_size < end:
                        known, end, found = status.st_ino, 0, {}
                    file.seek(end)
                    text = file.read(_MAX_BYTES)
            except OSError:
                return {}
            # A line that is being written is read when it is whole; a torn one is ended by the next command.
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    _take(found, json.loads(line))
            self._read[folder] = (known, end + len(whole), found)
            return found


def read(folder: Path) -> dict[str, Kept]:
    """What is finished in `folder`, by the recordings' names."""
    return Ledgers().of(folder)


def add(folder: Path, name: str, entry: Entry) -> None:
    """Note that the recording `name` is finished; raises OSError."""
    mode = kept = mode_of(Path(entry.source.path))
    with contextlib.suppress(FileNotFoundError):
        kept = os.lstat(folder / NAME).st_mode
    if kept & 0o044 & ~mode:  # some may read it who may not read the recording
        marks = tuple(replace(mark, text="") for mark in entry.facts.marks)
        entry = replace(entry, facts=replace(entry.facts, marks=marks))
    _append(folder, [{"name": name, **asdict(entry), "asked": entry.asked.to_dict()}], mode)


def again(folder: Path, names: list[str]) -> None:
    """Note that the transcripts of these recordings are to be made anew and may be replaced; raises OSError."""
    _append(folder, [{"name": name, "again": True} for name in names])


def _take(found: dict[str, Kept], data: dict[str, Any]) -> None:
    name = data["name"]
    if not isinstance(name, str):
        raise TypeError("a name is a text")
    kept = found.setdefault(name, Kept())
    if "again" in data:
        kept.again = True
        return
    entry = Entry(
        Source(**data["source"]), Asked.from_dict(data["asked"]), dict(data["made_by"]), Facts.from_dict(data["facts"]),
        {ending: Output(**output) for ending, output in data["outputs"].items()},
    )  # fmt: skip
    believe((), (entry.source.path, *(output.name for output in entry.outputs.values())))
    if kept.again:
        kept.entries, kept.again = {}, False
    for ending in entry.outputs:
        kept.entries.pop(ending, None)  # so that the latest comes last
        kept.entries[ending] = entry


def _append(folder: Path, lines: list[dict[str, Any]], mode: int = 0o666) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(folder / NAME, flags, mode)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a second name of another file
            raise FileExistsError(errno.EEXIST, "It is in the way and no file", str(folder / NAME))
        _lock(descriptor)
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        append(descriptor, b"\n" * torn + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Wait for another command's lines, though not for ever: whoever may read the file may lock it."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_RETRY_S)
            continue
        except OSError:
            pass  # a file system without locks: two lines within a millisecond are rare
        return

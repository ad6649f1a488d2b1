"""A file of answers that is its own journal: one line a write, only ever added to, locked by the one who adds.

Owns lock, repair and durability. What is in the lines is the reader's business; a line that stands is never changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from launcher.errors import SessionError, StorageError

_LINE_MAX_BYTES = 512 * 2**20
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.1  # who only looks whether somebody has it holds it for a moment


class Journal:
    """The file `path`, made where there is none.

    Raises SessionError while another has it, and StorageError where it cannot be.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, mode)
        except OSError as error:
            raise _storage(path, error) from error
        try:
            found = os.fstat(self._descriptor)
            # A second name of another file would have that file cut off and written.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise StorageError(
                    f"{path} is in the way: it is no file of its own.", "Name another one with -o."
                )
            if not _locked(self._descriptor):
                raise SessionError(
                    f"Another run writes {path}.", "Wait for it, or cancel it: launcher batch ls"
                )
        except BaseException:
            os.close(self._descriptor)
            raise
        self._dirty = False

    def entries(self) -> Iterator[dict[str, Any]]:
        """All lines; what a kill or a power cut has torn at the end is taken away once they were read.

        Raises StorageError for a file in whose middle something else stands: nothing is changed then.
        """
        at, torn = 0, None
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            while text := file.readline(_LINE_MAX_BYTES):
                entry = _entry(text)
                if entry is None:
                    torn = at if torn is None else torn
                elif torn is not None:
                    raise StorageError(
                        f"{self.path} holds something that is no answer (byte {torn}).",
                        "Move it away, or name another output with -o.",
                    )
                else:
                    yield entry
                at += len(text)
        if torn is not None:
            os.ftruncate(self._descriptor, torn)

    def add(self, line: bytes) -> None:
        """Put one line at the end in one write; raises StorageError, and leaves no part of it then."""
        end = -1
        try:
            written = os.write(self._descriptor, line)
            self._dirty = True
            if written < len(line):  # a full disk takes what fits
                end = os.fstat(self._descriptor).st_size - written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if end >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, end)
            raise _storage(self.path, error) from error

    def empty(self) -> None:
        """Take all lines away: they are of no more use."""
        os.ftruncate(self._descriptor, 0)

    def sync(self) -> None:
        """Put all lines onto the disk, safe from a power cut."""
        if self._dirty:
            self._dirty = False
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                raise _storage(self.path, error) from error

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self, *, keep_empty: bool = True) -> None:
        """Give the lock back; without `keep_empty` a file that holds nothing does not stay."""
        if self._descriptor >= 0:
            if not keep_empty and not self.size:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def busy(path: Path) -> bool:
    """Whether somebody writes the journal `path` now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(descriptor)
    return False


def _locked(descriptor: int) -> bool:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
            continue
        except OSError:
            pass  # a file system without locks: there nothing keeps two runs apart
        return True
    return False


def _entry(text: bytes) -> dict[str, Any] | None:
    if not text.endswith(b"\n"):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _storage(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}.",
        "What is finished is kept; mend that, then resume the run.",
    )

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
_BLOCK_BYTES = 2**16
_HEAD = b'{"id": "batch_req_'  # so begins every line that a run writes (launcher.batch.lines)
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
            if error.errno == errno.ELOOP:  # another user might lay one there
                raise StorageError(f"{path} is a symbolic link.", "Name a file itself with -o.") from error
            raise _storage(path, error) from error
        try:
            found = os.fstat(self._descriptor)
            # A second name of another file would have that file cut off and written.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise StorageError(
                    f"{path} is in the way: it is no file of its own.", "Name another one with -o."
                )
            lock(self._descriptor, path)
            self._least = self.size  # all that stands there stays
            self._there()  # who had the lock before may have taken it away
        except BaseException:
            os.close(self._descriptor)
            raise
        self._dirty = False

    def entries(self) -> Iterator[dict[str, Any]]:
        """All lines; what a kill or a power cut has torn at the end is taken away once they were read.

        Raises StorageError for a file that holds something else; nothing is changed then.
        """
        at, torn = 0, None
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            while text := file.readline(_LINE_MAX_BYTES):
                entry = _entry(text)
                if entry is None:
                    # What never was a line of ours is somebody's, who named the wrong file.
                    if torn is None and not _torn(text, at):
                        raise self._strange(at)
                    torn = at if torn is None else torn
                elif torn is not None:
                    raise self._strange(torn)
                else:
                    yield entry
                at += len(text)
        if torn is not None:
            os.ftruncate(self._descriptor, torn)
            self._least = torn

    def add(self, line: bytes) -> None:
        """Put one line at the end, in one write where there is room; raises StorageError, and leaves no part of it."""
        rest = memoryview(line)
        try:
            while rest:  # a full disk takes what fits
                rest = rest[os.write(self._descriptor, rest) :]
                self._dirty = True
        except OSError as error:
            if len(rest) < len(line):
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self.size - len(line) + len(rest))
            raise _storage(self.path, error) from error
        self._least += len(line)

    def empty(self) -> None:
        """Take all lines away: they are of no more use."""
        os.ftruncate(self._descriptor, 0)
        self._least = 0

    def sync(self) -> None:
        """Put all lines onto the disk, safe from a power cut; raises StorageError where somebody took them away."""
        if self._dirty:
            self._dirty = False
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._dirty = True  # not on the disk, whatever the next try says
                raise _storage(self.path, error) from error
        self._there()

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self, *, keep_empty: bool = True) -> None:
        """Give the lock back; without `keep_empty` a file that holds nothing does not stay."""
        if self._descriptor >= 0:
            if not keep_empty and not self.size:
                with contextlib.suppress(OSError, StorageError):
                    self._there()  # not what somebody put in its place
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def _there(self) -> None:
        least = self._least  # lines may be added meanwhile
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            raise _storage(self.path, error) from error
        own = os.fstat(self._descriptor)
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino) or own.st_size < least:
            raise StorageError(
                f"{self.path} was changed by somebody else.",
                "Put it back if you can, then resume the run: what is missing is asked again.",
            )

    def _strange(self, at: int) -> StorageError:
        return StorageError(
            f"{self.path} holds something that is no answer (byte {at}).",
            "Move it away, or name another output with -o.",
        )

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


def cut(path: Path) -> None:
    """Take away a last line without an end, of a file that nobody will go on with; raises OSError."""
    with path.open("r+b") as file:
        end = at = file.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - _BLOCK_BYTES)
            file.seek(start)
            if (found := file.read(at - start).rfind(b"\n")) >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            file.truncate(at)


def lock(descriptor: int, output: Path) -> None:
    """Lock an open file for the one who writes `output`; raises SessionError while another does."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
            continue
        except OSError:
            pass  # a file system without locks: there only the run's folder keeps two of them apart
        return
    raise SessionError(f"Another run writes {output}.", "Wait for it, or cancel it: launcher batch ls")


def _entry(text: bytes) -> dict[str, Any] | None:
    if not text.endswith(b"\n"):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _torn(text: bytes, at: int) -> bool:
    """Whether a line of ours may have left `text`: its beginning, or blocks of it that never came to the disk."""
    if text.startswith(b"\0"):
        return at > 0 or not text.strip(b"\0\n")
    begun = text.startswith(_HEAD) or _HEAD.startswith(text)
    return begun and (not text.endswith(b"\n") or b"\0" in text)


def _storage(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}.",
        "What is finished is kept; mend that, then resume the run.",
    )

"""Lines that must not be lost, on their way into the database: a file on a local disk and a thread that empties it.

A line is in the file when `add` returns, so that a kill loses none; the thread brings them into the database many at a
time. Where nothing waits it has time for `tidy`. What a process that died has left is brought in by the next one that
uses the folder: on the same host as soon as nobody locks it, from another host (the folder may lie in a home that many
see, whose locks may not be) when its process has not touched it for minutes. A line may be brought in twice: whoever
takes it must know it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.errors import LauncherError, StorageError
from launcher.sessions.ownership import require_own

_LOG = logging.getLogger("launcher.gateway")
_ENDING = ".lines"
# A file of this host's begins so; a dot ends it, or one host's name could begin another's.
_HERE = re.sub(r"[^A-Za-z0-9-]", "_", os.uname().nodename)[:64] + "."
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_AT_ONCE_BYTES = 512 * 1024
_EMPTY_ABOVE_BYTES = 4 * 2**20
_GATHER_S, _OTHERS_S = 0.5, 30.0
# A process touches its file at least every _OTHERS_S; one of another host that is so much older than ours is dead.
_DEAD_S = 600.0
_TIDY_S = 3600.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
# Where the disk is full, so many lines are kept in memory.
_KEPT = 100_000


class Spool:
    """The lines of this process in `folder`; `take` gets them, in a thread of ours, and raises where it cannot.

    In the same thread `tidy` does a little, once an hour and again as long as it says that there is more.
    """

    def __init__(
        self,
        folder: Path,
        take: Callable[[Sequence[bytes]], None],
        tidy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self._take, self._tidy = folder, take, tidy
        self._tidy_at = 0.0
        self._path, self._file = _made(folder)
        self._lock = threading.Lock()  # who writes against who empties
        self._size = self._begin = 0
        self._torn = False
        self._kept: deque[bytes] = deque(maxlen=_KEPT)
        self._some, self._stop = threading.Event(), threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Write one line, which has no end of its own; never raises: what the disk does not take stays in memory."""
        data = line + b"\n"
        with self._lock:
            if self._torn:
                data = b"\n" + data
            try:
                written = os.write(self._file, data)
            except OSError as error:
                self._keep(line, error.strerror)
            else:
                self._size += written
                self._torn = written < len(data)
                if self._torn:
                    self._keep(line, "the disk is full")
        if not self._some.is_set():  # else the thread comes anyway
            self._some.set()

    @property
    def waiting_bytes(self) -> int:
        """How much has not been brought in yet."""
        return self._size - self._begin + sum(map(len, self._kept))

    def close(self) -> None:
        """Bring in what is there; what the database does not take stays for the next start."""
        self._stop.set()
        self._some.set()
        self._thread.join()
        with self._lock:
            if not self.waiting_bytes:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(self._file)

    def _keep(self, line: bytes, why: str | None) -> None:
        if not self._kept:
            _LOG.error("%s: %s; what is used is kept in memory", self._path, why)
        self._kept.append(line)

    # -- the thread

    def _run(self) -> None:
        wait_s = 0.0
        others_due = True
        while True:
            stopping = self._stop.is_set()
            try:
                os.utime(self._file)
                self._bring_own()
                if others_due:
                    self._bring_others()
                    others_due = False
                wait_s, self._told = 0.0, False
            except Exception as error:  # the thread must live: everything that is used goes through it
                if not self._told:
                    why = error if isinstance(error, LauncherError) else repr(error)
                    _LOG.warning("what was used waits on the disk: %s", why)
                self._told = True
                wait_s = min(max(2 * wait_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
            if stopping:
                return
            if wait_s:
                self._stop.wait(wait_s)
            elif time.monotonic() >= self._tidy_at:
                self._tidied()
            elif not self._some.wait(_OTHERS_S):
                others_due = True
            self._stop.wait(_GATHER_S)
            self._some.clear()

    def _tidied(self) -> None:
        # Only after all that was left has been brought in: what comes later than it was tidied away is counted anew.
        try:
            more = self._tidy()
        except LauncherError as error:
            _LOG.warning("what is old is kept for now: %s", error)
            more = False
        self._tidy_at = time.monotonic() + (0.0 if more else _TIDY_S)

    def _bring_own(self) -> None:
        with self._lock:
            kept = list(self._kept)
            self._kept.clear()
        try:
            if kept:
                self._take(kept)
        except BaseException:
            with self._lock:
                self._kept.extendleft(reversed(kept))
            raise
        while self._begin < self._size:
            self._begin += _bring(self._file, self._begin, self._take)
        with self._lock:
            if self._begin == self._size and self._size > _EMPTY_ABOVE_BYTES:
                os.ftruncate(self._file, 0)
                self._size = self._begin = 0

    def _bring_others(self) -> None:
        now = os.fstat(self._file).st_mtime  # by the clock of whoever keeps the files
        for path in sorted(self._folder.glob(f"*{_ENDING}")):
            if path != self._path:
                _bring_left(path, now, self._take)


def _made(folder: Path) -> tuple[Path, int]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own(folder, "endpoint.state")
        while True:
            path = folder / f"{_HERE}{secrets.token_hex(8)}{_ENDING}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(path, flags, 0o600)
            with contextlib.suppress(BlockingIOError):
                _lock(file)
                if os.fstat(file).st_nlink:
                    return path, file
            os.close(file)  # another took it for one that was left, before it was locked
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder} cannot be written: {error.strerror}.",
            "It keeps what was used until the database has it.",
        ) from error


def _lock(file: int) -> bool:
    """Take it, if nobody has it, else raise BlockingIOError; False where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _bring_left(path: Path, now: float, take: Callable[[Sequence[bytes]], None]) -> None:
    """Bring in the lines of a process that is gone, and remove its file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = os.fstat(file)
        locked = _lock(file)
        if now - found.st_mtime > _DEAD_S or (locked and path.name.startswith(_HERE)):
            begin = 0
            while begin < found.st_size:
                begin += _bring(file, begin, take)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # it lives
    finally:
        os.close(file)


def _bring(file: int, begin: int, take: Callable[[Sequence[bytes]], None]) -> int:
    """Hand over whole lines from `begin` on; how many bytes they are. A torn last one was never said to be there."""
    data = os.pread(file, _AT_ONCE_BYTES, begin)
    whole = data[: data.rfind(b"\n") + 1] or data
    if lines := [line for line in whole.split(b"\n") if line]:
        take(lines)
    return len(whole)

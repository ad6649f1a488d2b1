"""Transfers of files, several at a time: written where they belong, counted and hashed on the way."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from launcher.models.hub.client import HubFile
from launcher.models.hub.sharing import adopt, file_mode

_AT_ONCE = 4
_PIECE = 1 << 20


class Report(Protocol):
    """Whoever shows how it goes; called from several threads, one at a time."""

    def notice(self, text: str) -> None:
        """A sentence that the user should read."""

    def progress(self, done: int, total: int) -> None:
        """So many bytes of all are on the disk and checked or on their way."""


class Partial:
    """A file that is being transferred: counts and hashes what goes through, and what a former run left in it."""

    def __init__(self, path: Path, file: HubFile, watch: Watch) -> None:
        self._path, self._file, self._watch = path, file, watch
        self._descriptor = _open(path)
        self.position = 0
        self._hash = self._fresh()

    def __enter__(self) -> Partial:
        if os.fstat(self._descriptor).st_size > self._file.size:
            os.ftruncate(self._descriptor, 0)
        while piece := os.pread(self._descriptor, _PIECE, self.position):
            self._count(piece)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> int:
        self._watch.check()
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self.position)
            self._count(view[:written], transferred=True)
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        # Only back to the beginning, when a server sends the whole file instead of a range of it.
        if position not in (0, self.position):
            raise ValueError("a transfer begins at its start or goes on")
        if position != self.position:
            self._watch.add(-self.position)
            self.position, self._hash = 0, self._fresh()
        return position

    def truncate(self, size: int | None = None) -> int:
        if size == 0:
            self.seek(0)
        os.ftruncate(self._descriptor, self.position)
        return self.position

    def is_right(self) -> bool:
        """Whether all bytes are there, with the hash that the hub names."""
        return self.position == self._file.size and self._hash.hexdigest() == self._file.hash

    def keep(self, path: Path) -> None:
        """Give the file its name."""
        os.fsync(self._descriptor)
        try:
            if os.fstat(self._descriptor).st_uid == os.geteuid():
                adopt(self._path, file_mode(path.parent))
            os.replace(self._path, path)
        except FileNotFoundError:
            if (
                not path.is_file()
            ):  # a second process, which no lock held back, has done it with the same bytes
                raise

    def _count(self, data: Any, *, transferred: bool = False) -> None:
        self._hash.update(data)
        self.position += len(data)
        self._watch.add(len(data), transferred=transferred)

    def _fresh(self) -> Any:
        if self._file.large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)  # git's


class Watch:
    """What all transfers of one model share: how far they are, and whether they should stop."""

    def __init__(self, report: Report, total: int, done: int) -> None:
        self._report, self._total, self._done = report, total, done
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.transferred = 0

    def add(self, count: int, *, transferred: bool = False) -> None:
        with self._lock:
            self._done += count
            self.transferred += count if transferred else 0
            self._report.progress(self._done, self._total)

    def check(self) -> None:
        if self.stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Another transfer has failed, or the user does not want any more."""


def side_by_side(files: Iterable[HubFile], bring: Callable[[HubFile], None], watch: Watch) -> None:
    """Call `bring` for each of `files`, some at a time; raises what the first one that failed has raised."""
    waiting: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
    troubles: list[BaseException] = []
    for file in files:
        waiting.put(file)

    def work() -> None:
        try:
            while not watch.stopped.is_set():
                bring(waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:
            troubles.append(error)
            watch.stopped.set()

    # Daemons: after Ctrl-C nobody waits for a connection that is silent.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, waiting.qsize()))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        watch.stopped.set()
        raise
    if real := [error for error in troubles if not isinstance(error, _StoppedError)]:
        raise real[0]


def _open(path: Path) -> int:
    # Not O_APPEND: a second process without a working lock must write its bytes where they belong.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    except PermissionError:
        os.unlink(path)  # somebody began it and did not share it; the folder is shared
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    adopt(path, file_mode(path.parent, shared=True))
    return descriptor

"""Transfers of files, several at a time: written where they belong, counted and hashed on the way."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from launcher.errors import StorageError
from launcher.models.folders import hash_of
from launcher.models.hub.client import HubFile, TooMuchError
from launcher.models.hub.sharing import Folder

_AT_ONCE = 4
_PIECE = 1 << 20
_TRIES = 5


class Report(Protocol):
    """Whoever shows how it goes; called from several threads, one at a time."""

    def notice(self, text: str) -> None:
        """A sentence that the user should read."""

    def progress(self, done: int, total: int) -> None:
        """So many bytes of all are on the disk and checked or on their way."""


class Partial:
    """A file that is being transferred: counts and hashes what goes through, and what a former run left in it.

    It is ours alone to write. What somebody else began is read once into it, and not believed any further.
    """

    def __init__(self, folder: Folder, name: str, file: HubFile, watch: Watch) -> None:
        self._folder, self._name, self._file, self._watch = folder, name, file, watch
        self._descriptor, self._others = _begun(folder, name)
        self._kept = False
        self.position = 0
        self._hash = hash_of(file.hash, file.size)

    def __enter__(self) -> Partial:
        if os.fstat(self._descriptor).st_size > self._file.size:
            os.ftruncate(self._descriptor, 0)
        source = self._descriptor if self._others is None else self._others
        while piece := os.pread(source, min(_PIECE, self._file.size - self.position), self.position):
            self._watch.check()
            self._put(piece) if self._others is not None else self._count(piece)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if self._others is not None:
            os.close(self._others)
        if not self._kept:
            self._watch.add(-self.position)  # counted again by the next attempt

    def write(self, data: bytes) -> int:
        self._watch.check()
        if self.position + len(data) > self._file.size:
            raise TooMuchError(self._file)
        self._put(data, transferred=True)
        return len(data)

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        # Only back to the beginning, when a server sends the whole file instead of a range of it.
        if position not in (0, self.position):
            raise ValueError("a transfer begins at its start or goes on")
        if position != self.position:
            self._watch.add(-self.position)
            self.position, self._hash = 0, hash_of(self._file.hash, self._file.size)
        return position

    def truncate(self, size: int | None = None) -> int:
        if size == 0:
            self.seek(0)
        os.ftruncate(self._descriptor, self.position)
        return self.position

    def is_right(self) -> bool:
        """Whether all bytes are there, with the hash that the hub names."""
        return self.position == self._file.size and self._hash.hexdigest() == self._file.hash

    def keep(self, name: str) -> bool:
        """Call the file `name`; False where somebody has put something else in its place meanwhile."""
        os.fsync(self._descriptor)
        if not self._folder.holds(self._name, self._descriptor):
            return False
        self._folder.rename(self._name, name)
        self._kept = self._folder.holds(name, self._descriptor)
        return self._kept

    def _put(self, data: bytes, *, transferred: bool = False) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self.position)
            self._count(view[:written], transferred=transferred)
            view = view[written:]

    def _count(self, data: bytes | memoryview, *, transferred: bool = False) -> None:
        self._hash.update(data)
        self.position += len(data)
        self._watch.add(len(data), transferred=transferred)


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


def _begun(folder: Folder, name: str) -> tuple[int, int | None]:
    # Our own file to write, and somebody else's beginning of it to read.
    others = None
    for _ in range(_TRIES):
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                found = folder.open(name, flags)
            except FileNotFoundError:
                break
            except (PermissionError, StorageError):
                continue  # closed, a link or no file
            # Not O_APPEND: a second process without a working lock must write its bytes where they belong.
            if flags == os.O_RDWR and _is_ours_alone(found):
                if others is not None:
                    os.close(others)
                return found, None
            if others is not None:
                os.close(others)
            others = found
            break
        try:
            folder.unlink(name)
            return folder.new(name), others
        except FileExistsError:
            continue
    raise folder.refused(name, "ours to write")


def _is_ours_alone(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and status.st_nlink == 1 and not status.st_mode & 0o022

"""One process at a time in one model's folder, also where it is shared by several users and hosts.

It keeps two downloads from doing the same work twice. It is no safety of its own: some cluster file systems have no
locks, or only pretend to, so what is written under it must be right without it too (launcher.models.hub.download).
Nothing is written into the lock's file: whom it names is its owner, as the system knows him.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.errors import StorageError
from launcher.models.disk import user_name
from launcher.models.hub.sharing import LOCK, Folder

PATIENCE_S = 600.0
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_PAUSE_S = 0.3


@contextlib.contextmanager
def locked(
    path: Path,
    waiting: Callable[[str], None] = lambda _: None,
    *,
    make: bool = False,
    patience_s: float = PATIENCE_S,
) -> Iterator[tuple[Folder, bool]]:
    """Hold the lock of the folder `path`, open; `waiting` is called once with a sentence that says on whom.

    With it comes False where the file system has no locks, so that somebody else may be at it too. Raises OSError
    where the lock's file cannot be written, and StorageError when it is held for longer than `patience_s`.
    """
    until = time.monotonic() + patience_s
    with Folder.at(path.parent) as above:
        while True:
            with above.folder(path.name, make=make) as folder:
                try:
                    descriptor = _open(folder)
                except FileNotFoundError:
                    if make and time.monotonic() < until:
                        continue  # taken away just now
                    raise
                try:
                    alone = _acquire(descriptor, path / LOCK, waiting, until)
                    # Whoever held it before may have taken the folder away, and somebody else made it anew.
                    if above.holds(path.name, folder.descriptor) and folder.holds(LOCK, descriptor):
                        yield folder, alone
                        return
                    _check_time(descriptor, path / LOCK, until)
                finally:
                    os.close(descriptor)


def _open(folder: Folder) -> int:
    # For writing, because NFS locks nothing else; first without O_CREAT, which a sticky folder forbids for another's.
    try:
        return folder.open(LOCK, os.O_RDWR)
    except FileNotFoundError:
        pass
    try:
        return folder.new(LOCK, shared=True)
    except FileExistsError:
        return folder.open(LOCK, os.O_RDWR)


def _acquire(descriptor: int, path: Path, waiting: Callable[[str], None], until: float) -> bool:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno != errno.EAGAIN:
                raise
        if not told:
            told = True
            waiting(f"Another download or removal holds {path}, a file of {_owner(descriptor)}; waiting.")
        _check_time(descriptor, path, until)
        time.sleep(_PAUSE_S)


def _check_time(descriptor: int, path: Path, until: float) -> None:
    if time.monotonic() >= until:
        raise StorageError(
            f"{path}, a file of {_owner(descriptor)}, is still held by another download or removal.",
            f"Run the same command again later, or ask {_owner(descriptor)}.",
        )


def _owner(descriptor: int) -> str:
    return user_name(os.fstat(descriptor).st_uid)

"""One process at a time in one model's folder, also where it is shared by several users and hosts.

It keeps two downloads from doing the same work twice. It is no safety of its own: some cluster file systems have no
locks, or only pretend to, so what is written under it must be right without it too (launcher.models.hub.download).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.models.hub.sharing import adopt, file_mode, make_folder

NAME = ".launcher.lock"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_PAUSE_S = 0.3


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold the lock of `folder`, which is made where it is missing; `waiting` is called once with who holds it.

    Gives False where the file system has no locks, so that somebody else may be at it too. Raises OSError where the
    lock's file cannot be written.
    """
    path = folder / NAME
    while True:
        make_folder(folder)
        descriptor = _open(path)
        try:
            alone = _acquire(descriptor, waiting)
            # Whoever held it before may have taken the folder away, and somebody else made it anew.
            if _same(descriptor, path):
                _sign(descriptor)
                yield alone
                return
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    # For writing, because NFS locks nothing else; first without O_CREAT, which a sticky folder forbids for another's.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        adopt(path, file_mode(path.parent, shared=True))
        return descriptor


def _acquire(descriptor: int, waiting: Callable[[str], None] | None) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno != errno.EAGAIN:
                raise
        if waiting is not None:
            waiting(_holder(descriptor))
            waiting = None
        time.sleep(_PAUSE_S)


def _sign(descriptor: int) -> None:
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    text = json.dumps({"user": name, "host": socket.gethostname(), "pid": os.getpid()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, 1000, 0))
        return f"{said['user']} on {said['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def _same(descriptor: int, path: Path) -> bool:
    try:
        there, here = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

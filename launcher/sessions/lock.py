"""One at a time: a lock file for what is read, changed and written again; also where a file system has no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else is inside with the file `path`, which is made (0600) and stays; raises OSError.

    Never lock a file that a change replaces; and NFS locks only what is open for writing. Where there are no locks it
    does without.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(lock)

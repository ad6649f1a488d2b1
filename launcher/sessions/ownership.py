"""Whose a folder is: nothing is believed, run or written in one that somebody else could change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from launcher.errors import StorageError

_HINT = "Choose a folder of your own: set {key} in the settings."


def require_own(folder: Path, key: str) -> None:
    """Raise StorageError unless `folder` is mine alone to write and nobody can put another in its place.

    Its owner must be this user, and no folder above it may be writable by everybody without the sticky bit. A folder
    above that belongs to a project is accepted: that is where centres put their users' scratch space.
    """
    me = os.geteuid()
    here = os.stat(folder)
    if here.st_uid != me or here.st_mode & stat.S_IWOTH:
        raise StorageError(f"{folder} can be changed by somebody else.", _HINT.format(key=key))
    for above in Path(os.path.realpath(folder)).parents:
        status = os.stat(above)
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX and status.st_uid != me:
            raise StorageError(
                f"{above}, above {folder}, can be changed by everybody.", _HINT.format(key=key)
            )

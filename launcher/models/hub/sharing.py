"""Whom new files in a folder of models are for: they get the folder's group and permissions, whatever the umask is.

A shared folder that a group may write stays one, also for what one member makes in it; others never may write.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def folder_mode(above: Path) -> int:
    """The mode of a new folder in `above`."""
    mode = os.stat(above).st_mode
    return 0o700 | (mode & (stat.S_ISGID | 0o070)) | (mode & 0o005)


def file_mode(folder: Path, *, shared: bool = False) -> int:
    """The mode of a new file in `folder`; the group may write it only when it is `shared` work."""
    mode = os.stat(folder).st_mode
    return 0o600 | (mode & (0o060 if shared else 0o040)) | (mode & 0o004)


def make_folder(path: Path) -> None:
    """Make `path`, whose parent must exist, like its parent; one that is there is left alone."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    adopt(path, folder_mode(path.parent))


def adopt(path: Path, mode: int) -> None:
    """Give a new file or folder the group of the folder it is in, and `mode`."""
    group = os.stat(path.parent).st_gid
    if os.stat(path).st_gid != group:
        with contextlib.suppress(PermissionError):  # not a member: then the group gets nothing by it either
            os.chown(path, -1, group)
    os.chmod(path, mode)

"""Reading files of a model's folder, which anybody may have filled; and sizes as people write them.

Only regular files are opened, without waiting, and no more is read than a model needs.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import ModelError

_JSON_MAX_MB = 64
_UNITS = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "kB"))


class NotAFileError(ValueError):
    """The file is a FIFO, a device, a folder or a socket."""


class TooLargeError(ValueError):
    """The file holds more than any model's file of its kind."""


def open_file(path: Path) -> BinaryIO:
    """The regular file `path`, open for reading; raises OSError, or NotAFileError for anything else."""
    # Not blocking: a FIFO in a model's folder would hold up whoever looks at it, the portal too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(f"{path} is not a file")
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> Any:
    """What the JSON in `path` says, at most 64 MB of it; raises OSError, NotAFileError, TooLargeError or ValueError."""
    with open_file(path) as file:
        text = file.read(_JSON_MAX_MB * 1_000_000 + 1)
    if len(text) > _JSON_MAX_MB * 1_000_000:
        raise TooLargeError(f"{path} is larger than {_JSON_MAX_MB} MB")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(path: Path, model: str, again: str) -> dict[str, Any]:
    """The JSON object in `path`, at most 64 MB of it; raises ModelError, with the hint `again` for a broken one."""
    try:
        data = read_json(path)
    except TooLargeError as error:
        raise ModelError(f'Model "{model}": {error}.', "Do not use this copy.") from None
    except NotAFileError:
        raise ModelError(f'Model "{model}": {path} is not a file.', again) from None
    except OSError as error:
        raise cannot_be_read(path, model, error) from error
    except ValueError as error:
        raise ModelError(f'Model "{model}": {path} is not JSON.', again) from error
    if not isinstance(data, dict):
        raise ModelError(f'Model "{model}": {path} does not hold a JSON object.', again)
    return data


def cannot_be_read(path: Path, model: str, error: OSError) -> ModelError:
    """The error for a file or folder that the system refused to open; names who can change that."""
    if isinstance(error, PermissionError):
        owner = _owner(path)
        return ModelError(
            f'Model "{model}": you may not read {path}{f", which belongs to {owner}" if owner else ""}.',
            f"Ask {owner or 'whoever keeps the folder'} to let you read it, or use another copy.",
        )
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        target = os.readlink(path)
        return ModelError(
            f'Model "{model}": {path} is a link to {target}, which is not there.', "Download the model again."
        )
    return ModelError(
        f'Model "{model}": {path} cannot be read ({error.strerror}).', "Check it, or use another copy."
    )


def size(count: float) -> str:
    """Bytes as people write them; GB is 2**30, as Slurm counts."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def part(have: int, whole: int) -> str:
    """`1.0 of 4.0 GB`; in bytes where the two would look alike."""
    for unit, name in _UNITS:
        if whole >= unit and f"{have / unit:.1f}" != f"{whole / unit:.1f}":
            return f"{have / unit:.1f} of {whole / unit:.1f} {name}"
    return f"{have} of {whole} bytes"


def is_own(folder: Path) -> bool:
    """Whether `folder` is mine alone to write and nobody can put another in its place.

    As launcher.sessions.ownership.require_own, whose folders are below a project's, says it.
    """
    me = os.geteuid()
    try:
        here = os.stat(folder)
        if not stat.S_ISDIR(here.st_mode) or here.st_uid != me or here.st_mode & stat.S_IWOTH:
            return False
        above = [os.stat(parent) for parent in Path(os.path.realpath(folder)).parents]
    except OSError:
        return False
    return not any(
        s.st_mode & stat.S_IWOTH and not s.st_mode & stat.S_ISVTX and s.st_uid != me for s in above
    )


def user_name(user: int) -> str:
    """What the user with this number is called on this machine."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _owner(path: Path) -> str | None:
    for look in (os.stat, os.lstat):
        try:
            return user_name(look(path).st_uid)
        except OSError:
            continue
    return None

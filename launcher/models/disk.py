"""Reading files of a model's folder, which anybody may have filled.

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


class NotAFileError(ValueError):
    """The file is a FIFO, a device, a folder or a socket."""


def open_file(path: Path) -> BinaryIO:
    """The regular file `path`, open for reading; raises OSError, or NotAFileError for anything else."""
    # Not blocking: a FIFO in a model's folder would hold up whoever looks at it, the portal too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(f"{path} is not a file")
    return os.fdopen(descriptor, "rb")


def read_object(path: Path, model: str, again: str) -> dict[str, Any]:
    """The JSON object in `path`, at most 64 MB of it; raises ModelError, with the hint `again` for a broken one."""
    try:
        with open_file(path) as file:
            text = file.read(_JSON_MAX_MB * 1_000_000 + 1)
        if len(text) > _JSON_MAX_MB * 1_000_000:
            raise ModelError(
                f'Model "{model}": {path} is larger than {_JSON_MAX_MB} MB.', "Do not use this copy."
            )
        data = json.loads(text)
    except NotAFileError:
        raise ModelError(f'Model "{model}": {path} is not a file.', again) from None
    except OSError as error:
        raise cannot_be_read(path, model, error) from error
    except (ValueError, RecursionError) as error:
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


def _owner(path: Path) -> str | None:
    for look in (os.stat, os.lstat):
        try:
            user = look(path).st_uid
        except OSError:
            continue
        try:
            return pwd.getpwuid(user).pw_name
        except KeyError:
            return f"user {user}"
    return None

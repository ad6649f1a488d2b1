"""Audio that lies on the cluster already: a request names it, and the session reads it where it is.

Owns which files may be read so. Whether the request comes from the session's own user is for the caller to know.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from launcher.whisper.refusal import Refusal


def opened(path: str, folders: Sequence[Path], version: str | None = None) -> BinaryIO:
    """The file at `path`, open for reading; with `folders`, only a file that really lies in one of them.

    `version` is the file's `SIZE-MODIFIED_NS` as the client sees it: /tmp is another one on each node. Raises Refusal:
    409 for another version, 400 for what is no absolute path or no ordinary file, 403 where it may not be read, 404
    where nothing is.
    """
    full = "" if "\0" in path else os.path.expanduser(path)
    if not os.path.isabs(full) or not _is_name(full):
        raise _refused(
            400, "path must be an absolute path on the cluster, such as /home/me/talk.mp3.", "invalid_value"
        )
    real = os.path.realpath(full)
    _check_folder(real, folders)
    try:
        _check_kind(os.stat(real))
        # Without O_NONBLOCK, a pipe put there meanwhile would wait for its writer.
        file = os.fdopen(os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        message = "There is no such file where the session runs. Check the path, or upload the file."
        raise _refused(404, message, "file_not_found") from None
    except PermissionError:
        raise _refused(
            403, "The session may not read this file. Check its permissions.", "permission_denied"
        ) from None
    except OSError as error:  # too long a name, a loop of links, a mount that does not answer
        raise _refused(400, f"The file could not be opened: {error.strerror}.", "not_readable") from None
    try:
        # What was opened counts, not what the path meant a moment before.
        now = os.fstat(file.fileno())
        _check_kind(now)
        _check_folder(os.readlink(f"/proc/self/fd/{file.fileno()}"), folders)
        if version not in (None, f"{now.st_size}-{now.st_mtime_ns}"):
            raise _refused(
                409, "The file of that name is another one where the session runs. Upload it.", "file_differs"
            )
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refused(400, "path names no file. Name one audio or video file.", "not_a_file")


def _is_name(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half of a character, as JSON can have
        return False
    return True


def _check_folder(real: str, folders: Sequence[Path]) -> None:
    if folders and not any(Path(real).is_relative_to(os.path.realpath(folder)) for folder in folders):
        places = ", ".join(str(folder) for folder in folders)
        raise _refused(
            403,
            f"The site lets sessions read audio in these folders only: {places}. Upload the file.",
            "path_not_allowed",
        )


def _refused(status: int, message: str, code: str) -> Refusal:
    return Refusal(status, message, code, param="path")

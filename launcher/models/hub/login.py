"""The token of the hub: only from the file that `hf auth login` writes, and only when nobody else can read it."""

from __future__ import annotations

import os
import re
import stat

from launcher.errors import SettingsError


def token_in(path: str) -> str | None:
    """The token in `path`, None without such a file; raises SettingsError for one that others could read or change."""
    # Opened once, and judged by what was opened: nobody can put another file in its place in between.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}.", "Check its permissions.") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise SettingsError(f"{path} is not a file of yours, so its token is not used.", "Remove it.")
        if status.st_mode & 0o077:
            raise SettingsError(
                f"{path} can be read by others, so its token is not used.",
                f"Run: chmod 600 {path}  and make a new token if others may have seen it.",
            )
        text = file.read(1000).decode("ascii", "replace").strip()
    if text and not re.fullmatch(r"[A-Za-z0-9_.-]{1,400}", text):
        raise SettingsError(f"{path} does not hold a token.", "Log in again with: hf auth login")
    return text or None

"""What the node gives a session: a private folder for its sockets, and its logs."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from launcher.errors import StorageError
from launcher.sessions.plan import Plan

_SOCKET_PATH_MAX = 100  # a Unix socket's path ends at 107 bytes (unix(7))


def runtime_directory(plan: Plan) -> Path:
    """A new private folder for the session's sockets; raises StorageError where none can be made."""
    candidates = [plan.places.runtime, os.environ.get("SLURM_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]  # noqa: S108
    for folder in candidates:
        if (
            folder
            and os.path.isdir(folder)
            and os.access(folder, os.W_OK)
            and len(folder) < _SOCKET_PATH_MAX - 30
        ):
            return Path(tempfile.mkdtemp(prefix="launcher-", dir=folder))  # mkdtemp makes it 0700
    raise StorageError(
        "No folder on this node can hold the session's sockets.", "Set places.runtime in the settings."
    )


def tail(path: Path, size: int = 64 * 1024) -> str:
    """The last `size` bytes of a log as text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def log_to(path: Path) -> None:
    """Send the launcher's own log lines to `path` (0600)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    handler = logging.StreamHandler(os.fdopen(descriptor, "w", encoding="utf-8", buffering=1))
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logger = logging.getLogger("launcher")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False

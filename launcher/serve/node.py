"""What the node gives a session: a private folder for its sockets, its logs, its name and its limits."""

from __future__ import annotations

import logging.handlers
import os
import resource
import socket
import stat
import tempfile
from pathlib import Path

from launcher.errors import StorageError
from launcher.schedulers import local, slurm
from launcher.sessions.plan import Plan
from launcher.settings.schema import Network

ANY = "0.0.0.0"  # noqa: S104 - compared with, not bound
_FILES_MAX = 65536
_LOG_MAX_BYTES = 10_000_000
_SOCKET_PATH_MAX = 100  # a Unix socket's path ends at 107 bytes (unix(7))


def runtime_directory(plan: Plan) -> Path:
    """A new private folder for the session's sockets; raises StorageError where none can be made."""
    # /tmp last: mkdtemp makes a private folder in it.
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
    path.unlink(missing_ok=True)
    # The umask makes it 0600. Its size is bounded: whoever reaches the port can write lines into it.
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_LOG_MAX_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logger = logging.getLogger("launcher")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _FILES_MAX), most))


def public_host(network: Network) -> str:
    """The name that clients are told for this node."""
    node = socket.gethostname()
    if network.host is not None:
        return network.host.replace("{node}", node.partition(".")[0])
    return node if network.bind == ANY else network.bind


def job_id(plan: Plan) -> str:
    """The id of the job that this process is."""
    return (slurm.own_job_id() if plan.cluster.scheduler == "slurm" else None) or local.own_job_id()


def _trusted(folder: str) -> bool:
    # Where everybody may write, only the sticky bit keeps others from renaming what is ours.
    try:
        mode = os.stat(folder).st_mode
    except OSError:
        return False
    return not mode & stat.S_IWOTH or bool(mode & stat.S_ISVTX)

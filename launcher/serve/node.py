"""What the node gives a session: a private folder for its sockets, its logs, its name and its limits."""

from __future__ import annotations

import contextlib
import fcntl
import logging.handlers
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import StorageError
from launcher.schedulers import local, slurm
from launcher.sessions.job import member_of
from launcher.sessions.plan import Plan
from launcher.settings.schema import Network

MEMBER_ID = "LAUNCHER_JOB_ID"  # in the environment of a batch's member
ANY = "0.0.0.0"  # noqa: S104 - compared with, not bound
_FILES_MAX = 65536
_LOG_MAX_BYTES = 10_000_000
ENGINE_SOCKET, PAGE_SOCKET = "engine.sock", "page.sock"
_PREFIX = "launcher-"
_SWEPT_AFTER_S = 60.0
_SOCKET_PATH_MAX = 100  # a Unix socket's path ends at 107 bytes (unix(7))


@contextlib.contextmanager
def runtime_directory(plan: Plan) -> Iterator[Path]:
    """A new private folder for the session's sockets, gone at the end; raises StorageError where none can be made."""
    parent = _runtime_parent(plan)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # mkdtemp makes it 0700
    # The lock says that the session lives; it ends with this process, however that ends. systemd-tmpfiles heeds it too.
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _runtime_parent(plan: Plan) -> str:
    # /tmp last: mkdtemp makes a private folder in it.
    candidates = [plan.places.runtime, os.environ.get("SLURM_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]  # noqa: S108
    for folder in candidates:
        if (
            folder
            and os.path.isdir(folder)
            and os.access(folder, os.W_OK)
            and len(folder) < _SOCKET_PATH_MAX - 30
        ):
            return folder
    raise StorageError(
        "No folder on this node can hold the session's sockets.", "Set places.runtime in the settings."
    )


def _sweep(parent: str) -> None:
    """Take away what sessions whose supervisor was killed have left in `parent`: empty folders and dead sockets."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_dead(entry.path)


def _remove_if_dead(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _SWEPT_AFTER_S:
            return  # a young one may not have its lock yet
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in (ENGINE_SOCKET, PAGE_SOCKET):  # and nothing else: the folder may be somebody's own
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        os.rmdir(path)  # refused unless it is empty
    finally:
        os.close(folder)


def tail(path: Path, size: int = 64 * 1024, *, since: int = 0) -> str:
    """The last `size` bytes of a log as text, and nothing that was there before byte `since`."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - size))
            return file.read(size).decode("utf-8", "replace")
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
        return named(network.host, node)
    return node if network.bind == ANY else network.bind


def named(host: str, node: str) -> str:
    """The `host` of the settings on that node: {node} in it is the node's short name."""
    return host.replace("{node}", node.partition(".")[0])


def job_id(plan: Plan) -> str:
    """The id of the job that this process is; a member of a batch was told its own by the batch's process.

    To be asked once: what this process starts is not that member, and shall not take itself for it.
    """
    if (member := os.environ.pop(MEMBER_ID, None)) is not None and member_of(member) is not None:
        return member
    return batch_id(plan)


def batch_id(plan: Plan) -> str:
    """The id of the job that this process runs in, without any place in a batch."""
    return (slurm.own_job_id() if plan.cluster.scheduler == "slurm" else None) or local.own_job_id()

"""The Python API, which the command line uses as well: launch a session, watch it, talk to it, stop it."""

from __future__ import annotations

from launcher.api.launcher import Launcher, write_session
from launcher.api.session import Session
from launcher.errors import LauncherError
from launcher.sessions.connection import Connection
from launcher.sessions.status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.api.asynchronous import AsyncLauncher, AsyncSession

__all__ = [
    "AsyncLauncher", "AsyncSession", "Connection", "Launcher", "LauncherError", "Session", "Status", "write_session",
]  # fmt: skip


def __getattr__(name: str) -> object:
    # asyncio takes as long to load as the whole of `launcher status`.
    if name in ("AsyncLauncher", "AsyncSession"):
        from launcher.api import asynchronous

        return getattr(asynchronous, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

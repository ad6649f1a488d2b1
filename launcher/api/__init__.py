"""The Python API, which the command line uses as well: launch a session, watch it, talk to it, stop it."""

from __future__ import annotations

from launcher.api.launcher import Launcher, write_session
from launcher.api.session import Session
from launcher.errors import LauncherError
from launcher.sessions.connection import Connection

__all__ = ["Connection", "Launcher", "LauncherError", "Session", "write_session"]

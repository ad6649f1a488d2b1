"""Inference OnDemand: a model as a Slurm job, with a chat page and an OpenAI-compatible endpoint."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import would cost `launcher --help` a quarter of its time
if TYPE_CHECKING:
    from launcher.api import AsyncLauncher, AsyncSession, Connection, Launcher, LauncherError, Session, Status
    from launcher.fleet.client import openai_client

__all__ = [
    "AsyncLauncher", "AsyncSession", "Connection", "Launcher", "LauncherError", "Session", "Status", "__version__",
    "openai_client",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Loaded on first use: `launcher --help` must not pay for what it does not need.
    if name == "openai_client":
        from launcher.fleet.client import openai_client

        return openai_client
    if name in __all__:
        import launcher.api

        return getattr(launcher.api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

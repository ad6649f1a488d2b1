"""Looks after requests while they are sent: the wish to end, the clock, the session, the state on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from launcher.batch.report import CANCELLING, RUNNING, Show, Status
from launcher.batch.window import Window

if TYPE_CHECKING:
    from launcher.batch.work import Work

_TICK_S = 0.25
_KEEP_EVERY_S = 2.0  # status.json and the disk
_QUIET_S, _ASK_EVERY_S = 5.0, 5.0
_SILENT_S = (
    300.0  # as for a scheduler that restarts: an address that is away for less is no reason to give up
)
_CANCEL_S = 10.0
_LAST_S, _LAST_MOST_S, _LAST_SHARE = 30.0, 300.0, 0.1


class Watch:
    """Of one `Work.send`, whose parameters it has."""

    def __init__(
        self, work: Work, window: Window, stop: asyncio.Event, drain_s: float,
        gone: Callable[[], str | None] | None, ends_at: Callable[[], float | None] | None, progress: Show | None,
    ) -> None:  # fmt: skip
        self._work, self._window, self._stop, self._drain_s = work, window, stop, drain_s
        self._gone, self._ends_at, self._progress = gone, ends_at, progress
        self._began = time.time()
        self._asked = 0.0
        self.cancelled = False
        self.why, self.code = "It was stopped.", "stopped"

    async def until_done(self, sending: asyncio.Task[None]) -> None:
        """Until all is answered or it has to end; what is still in flight then is dropped."""
        kept = time.monotonic()
        deadline: float | None = None
        while not sending.done():
            await asyncio.wait({sending}, timeout=_TICK_S)
            now = time.monotonic()
            self._work.pace.in_flight = self._window.in_flight
            self._look()
            if self._stop.is_set() and deadline is None:
                deadline = now + self._drain_s
            # Whoever stopped it is not told that the session is over, and nobody tries again then.
            why = None if self._stop.is_set() else await self._lost(now)
            if why:
                self.why, self.code = why, "session-over"
                deadline = now
                self._stop.set()
            if deadline is not None and now >= deadline:
                sending.cancel()
                await asyncio.wait({sending}, timeout=5.0)
                return
            if self._progress is not None:
                self._progress(self._status())
            if now - kept >= _KEEP_EVERY_S:
                kept = now
                await asyncio.to_thread(self._work.sync)
                self._work.keep(CANCELLING if self.cancelled else RUNNING, self._trouble())

    def _look(self) -> None:
        if not self.cancelled and self._work.run.cancel_path.exists():
            self.cancelled, self._drain_s = True, min(self._drain_s, _CANCEL_S)
            self._stop.set()
        ends_at = self._ends_at() if self._ends_at is not None else None
        if ends_at is None or self._stop.is_set():
            return
        margin = min(
            max(2 * self._window.slowest_s, _LAST_S), _LAST_MOST_S, _LAST_SHARE * (ends_at - self._began)
        )
        if time.time() >= ends_at - margin:
            self.why, self.code = "The session reaches its time limit.", "time-limit"
            self._drain_s = max(1.0, ends_at - time.time() - min(5.0, margin / 4))
            self._stop.set()

    async def _lost(self, now: float) -> str | None:
        quiet_s = now - self._work.pace.last
        if quiet_s < _QUIET_S or now - self._asked < _ASK_EVERY_S:
            return None
        self._asked = now
        if self._gone is not None:
            return await asyncio.to_thread(self._gone)
        silent_s = min(quiet_s, now - self._window.heard)  # a model may start for hours, and says so
        if silent_s > _SILENT_S and self._window.trouble:
            return f"Nothing came back for {silent_s / 60:.0f} minutes. {self._window.trouble}"
        return None

    def _trouble(self) -> str:
        quiet_s = time.monotonic() - self._work.pace.last
        return f"Waiting: {self._window.trouble}" if self._window.trouble and quiet_s > _QUIET_S else ""

    def _status(self) -> Status:
        return self._work.pace.status(RUNNING, self._trouble(), "")

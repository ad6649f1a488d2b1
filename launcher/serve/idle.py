"""Since when nobody has used the session; the clock stands still while its engine is being started again."""

from __future__ import annotations

from launcher.gateway.usage import Usage
from launcher.sessions.status import Idle


class IdleClock:
    """Counts up to `limit_s` (0: never stop) while the model answers; starts when it first does.

    It stands still during a restart, and does not begin anew after one: an engine that crashes again and again must not
    keep an unused session alive.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._from = 0.0
        self._spent_s = 0.0
        self._runs = False

    def go(self, now: float) -> None:
        """The model answers."""
        self._from, self._runs = now - self._spent_s, True

    def pause(self, usage: Usage, now: float) -> None:
        """The engine has ended."""
        if self._runs:
            self._spent_s = now - self._since(usage, now)
            self._runs = False

    def reading(self, usage: Usage, now: float) -> Idle | None:
        """The countdown; None where nothing is counted."""
        if not self._limit_s or not self._runs:
            return None
        since = self._since(usage, now)
        return Idle(self._limit_s, since, since + self._limit_s)

    def _since(self, usage: Usage, now: float) -> float:
        return now if usage.in_flight else min(now, max(self._from, usage.last_activity))

"""All sessions at a glance, kept fresh in the background: what `launcher top` shows.

Owns when the scheduler and the sessions are asked: one question to each scheduler for all sessions, never sooner than
two seconds after the last, and each session in a thread of its own. Whoever looks never waits for any of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from launcher.api.launcher import Launcher
from launcher.api.metrics import EVERY_S, Metrics, Reading, figures, read
from launcher.api.session import Session
from launcher.errors import LauncherError
from launcher.sessions.status import READY, UNHEALTHY, Status

_DAY_S = 86400.0
_SHARE = 10  # a look at a thousand sessions on a slow file system may take one part in so many of the time
_TIMEOUT_S = 2.0
_STALE_S = 10.0
_APART_S = 1.0


@dataclass(frozen=True, slots=True)
class Glance:
    """One session as it was last seen; `metrics` are None where it reports none, or did not answer lately."""

    session: Session
    status: Status
    metrics: Metrics | None = None


@dataclass(frozen=True, slots=True)
class _Last:
    reading: Reading
    metrics: Metrics


class Watch:
    """The sessions that live or ended within a day, the newest first and the living before the others.

    `say` is told in one sentence what went wrong on the way; it is called from other threads.
    """

    def __init__(self, launcher: Launcher, say: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._say = say
        self._seen: list[tuple[Session, Status]] = []
        self._last: dict[str, _Last] = {}
        self._asking: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.looked_at: float | None = None  # a Unix time; None before the first look

    def start(self) -> None:
        """Look every two seconds from now on."""
        threading.Thread(target=self._go_on, name="watch", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    @property
    def seen(self) -> list[Glance]:
        """All that is known now."""
        with self._lock:
            return [Glance(session, status, self._metrics(session.id)) for session, status in self._seen]

    def once(self) -> list[Glance]:
        """One look; takes about a second where a session is ready, since throughputs need two readings."""
        self.look()
        self._answered()
        if self._last:
            time.sleep(_APART_S)
            self._ask_ready(set(self._last))  # who was silent is not waited for again
            self._answered()
        return self.seen

    def look(self) -> None:
        """Read the sessions' files, ask the schedulers, and begin to ask each session that is ready."""
        since = time.time() - _DAY_S
        sessions = [session for session in self._launcher.sessions() if not session.ended_before(since)]
        found = list(zip(sessions, self._launcher.statuses(sessions), strict=True))
        found.sort(key=lambda pair: (pair[1].ended, -pair[0].plan.created_at))
        known = {session.id for session in sessions}
        with self._lock:
            self._seen = found
            self._last = {name: last for name, last in self._last.items() if name in known}
        self.looked_at = time.time()
        self._ask_ready()

    def stop(self, session: Session) -> None:
        """Ask for a session's end in the background."""
        threading.Thread(target=self._stop, args=(session,), name=f"stop {session.id}", daemon=True).start()

    def _stop(self, session: Session) -> None:
        try:
            session.stop(wait=False)
        except (LauncherError, OSError) as error:
            self._say(str(error))
        else:
            self._say(f"The end of {session.id} was asked for.")

    def _go_on(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self.look()
            except (LauncherError, OSError) as error:
                self._say(str(error))
            took_s = time.monotonic() - began
            self._over.wait(max(EVERY_S, took_s * _SHARE) - took_s)

    def _ask_ready(self, only: set[str] | None = None) -> None:
        with self._lock:
            asked = {
                session.id: threading.Thread(target=self._ask, args=(session,), name=session.id, daemon=True)
                for session, status in self._seen
                if status.state in (READY, UNHEALTHY)
                and session.id not in self._asking
                and (only is None or session.id in only)
            }
            self._asking.update(asked)
            for thread in asked.values():
                thread.start()

    def _ask(self, session: Session) -> None:
        try:
            connection = session.connection
            if connection is None:
                return
            reading = read(connection, _TIMEOUT_S)
            with self._lock:
                former = self._last.get(session.id)
                metrics = figures(reading, former.reading if former else None)
                self._last[session.id] = _Last(reading, metrics)
        except (LauncherError, OSError):
            pass  # what is too old is not shown
        finally:
            with self._lock:
                del self._asking[session.id]

    def _metrics(self, name: str) -> Metrics | None:
        last = self._last.get(name)
        return last.metrics if last is not None and time.monotonic() - last.reading.at < _STALE_S else None

    def _answered(self) -> None:
        """Wait for the sessions that were asked, a moment longer than each may take."""
        until = time.monotonic() + _TIMEOUT_S + _APART_S
        with self._lock:
            asked = list(self._asking.values())
        for thread in asked:
            thread.join(max(0.0, until - time.monotonic()))

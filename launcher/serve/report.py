"""What the session says of itself while it runs: the one writer of `status.json`."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from launcher.engines import Diagnosis
from launcher.sessions.paths import SessionPaths
from launcher.sessions.starts import Start
from launcher.sessions.status import (
    ENDINGS,
    ENGINE_RESTART,
    FAILED,
    LAUNCHING,
    PHASES,
    READY,
    UNHEALTHY,
    Coming,
    Idle,
    Phase,
    Status,
)

_BEAT_S = 10.0
# Told to end from outside: only the scheduler knows for certain why, and whether the job will run again.
_UNSURE = ("cancelled", "preempted")
_WORDS = {
    "container": "Starting the container.",
    "weights": "Loading the weights.",
    "compile": "Compiling the model.",
    "graphs": "Capturing the graphs.",
    "warm-up": "Warming up.",
    "probe": "Asking for a first answer.",
}


class Report:
    """The session's status, kept in memory and written whenever it says something new, at least every ten seconds.

    `last_start` is what the expectations rest on: an earlier session's start, then this one's own. `first_phases` are
    the phases of its own first start, which a restart of the engine does not touch.
    """

    def __init__(
        self,
        session_id: str,
        paths: SessionPaths,
        job_id: str,
        ends_at: float,
        restarts: int,
        tell: Callable[[Status], None] | None,
        last_start: Start | None = None,
    ) -> None:
        now = time.time()
        self._path = paths.status
        self._written = 0.0
        self._tell = tell
        self.last_start = last_start
        self.first_phases: tuple[Phase, ...] = ()
        self.status = Status(
            session_id,
            LAUNCHING,
            now,
            "The job has started.",
            job_id=job_id,
            restarts=restarts,
            log=str(paths.engine_log),
            host=socket.gethostname(),
            pid=os.getpid(),
            updated_at=now,
            ends_at=ends_at,
            expected_s=last_start.total_s if last_start else None,
            coming=last_start.after(None) if last_start else (),
        )
        self._write()

    def as_dict(self) -> dict[str, Any]:
        """What `GET /status` answers."""
        return self.status.to_dict()

    def phase(self, name: str) -> None:
        """The start has come to phase `name`; going back to an earlier phase is not believed."""
        status, last = self.status, self.last_start
        restarting = status.state == UNHEALTHY and status.reason == ENGINE_RESTART
        if not (status.state == LAUNCHING or restarting) or (
            status.phase is not None and PHASES.index(name) <= PHASES.index(status.phase)
        ):
            return
        new = Phase(name, time.time(), 0.0, last.expected_s(name) if last else None)
        self._set(
            phase=name,
            message=status.message if restarting else _WORDS[name],
            phases=(*self._phases(), new),
            coming=last.after(name) if last else (),
        )

    def ready(self) -> None:
        """A real answer came."""
        now, phases = time.time(), self._phases()
        if self.status.state == LAUNCHING:
            self.first_phases = phases
            took = tuple(Coming(phase.name, phase.elapsed_s) for phase in phases)
            self.last_start = Start(now - self.status.since, took)
        self._set(
            state=READY,
            since=now,
            reason=None,
            phase=None,
            phases=phases,
            coming=(),
            message="The model answers.",
        )

    def restarting(self) -> None:
        """The engine stopped by itself and is being started again."""
        last = self.last_start
        self._set(
            state=UNHEALTHY,
            since=time.time(),
            reason=ENGINE_RESTART,
            message="The engine stopped by itself and is being started again.",
            phase=None,
            phases=(),
            expected_s=last.total_s if last else None,
            coming=last.after(None) if last else (),
            idle=None,
        )

    def restarted(self, count: int) -> None:
        """The engine was started again, for the `count`th time."""
        self._set(engine_restarts=count)

    def unhealthy(self, why: str) -> None:
        """The model stopped answering; it may come back."""
        if self.status.state == READY:
            self._set(
                state=UNHEALTHY,
                since=time.time(),
                reason="no-answer",
                message=f"The model does not answer: {why}.",
            )

    def healthy(self) -> None:
        """The model answers again."""
        if self.status.state == UNHEALTHY:
            self._set(state=READY, since=time.time(), reason=None, message="The model answers.")

    def ends_soon(self) -> None:
        """The time limit is near."""
        if not self.status.ends_soon:
            self._set(ends_soon=True)

    def ends_at(self, when: float) -> None:
        """The end of the job was moved."""
        self._set(ends_at=when, ends_soon=False)

    def idle(self, idle: Idle | None) -> None:
        """The idle countdown; written with the next beat, since it moves all the time."""
        self.status = dataclasses.replace(self.status, idle=idle)

    def beat(self) -> None:
        """Write again when the last time was long ago, so that a reader can tell a living session."""
        if time.time() - self._written >= _BEAT_S:
            self._set(phases=self._phases())

    def ending(self) -> None:
        """The end has begun; why will be known when it is over."""
        self._set(message="The session is ending.", phases=self._phases(), phase=None, coming=(), idle=None)

    def ended(self, end: Diagnosis) -> None:
        """The last word: why the session is over."""
        state = ENDINGS[end.reason][0] if end.reason in ENDINGS else FAILED
        self._set(
            state=state,
            since=time.time(),
            reason=end.reason,
            message=end.message,
            hint=end.hint,
            form_hint=end.form_hint,
            quote=end.quote,
            phase=None,
            coming=(),
            idle=None,
            ends_soon=False,
            final=end.reason not in _UNSURE,
        )

    def _phases(self) -> tuple[Phase, ...]:
        done = self.status.phases
        if not done or self.status.phase is None:
            return done
        return (
            *done[:-1],
            dataclasses.replace(done[-1], elapsed_s=round(time.time() - done[-1].started_at, 3)),
        )

    def _set(self, **changes: Any) -> None:
        self.status = dataclasses.replace(self.status, updated_at=time.time(), **changes)
        self._write()

    def _write(self) -> None:
        self._written = time.time()
        try:
            self.status.write(self._path)
            if self._tell is not None:
                self._tell(self.status)
        except OSError as error:
            # A full disk is no reason to end a session that answers; the next beat tries again.
            logging.getLogger("launcher.serve").warning("the status cannot be written: %s", error)

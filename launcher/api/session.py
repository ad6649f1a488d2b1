"""`Session`: one session, wherever it was started, to watch, to talk to and to stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from launcher.api.keys import FurtherKeys
from launcher.errors import EngineError, LauncherError, SchedulerError, SessionError
from launcher.schedulers import Scheduler, scheduler
from launcher.sessions.connection import Connection
from launcher.sessions.job import WAITING, Job, read_job_id
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.state import current, ended, unknown
from launcher.sessions.status import FAILED, PENDING, READY, UNHEALTHY, Status

if TYPE_CHECKING:
    import openai

_FILE_EVERY_S = 0.2
_STOP_TIMEOUT_S = 90.0
_UNREACHABLE_S = 300.0  # a controller that restarts is no reason to give up hours of waiting


class Session:
    """One session, wherever it was started; as a context manager it is stopped on leaving the block."""

    def __init__(self, paths: SessionPaths) -> None:
        self.paths = paths
        self.plan = Plan.read(paths.plan)

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def scheduler(self) -> Scheduler:
        """What carries its job."""
        return scheduler(self.plan.cluster.scheduler, self.plan.cluster.ssh)

    @property
    def job_id(self) -> str | None:
        """The job that carries the session; None until it is known (OOD submits its own)."""
        return read_job_id(self.paths.job)

    @property
    def connection(self) -> Connection | None:
        """How to reach it; None unless it is ready."""
        return Connection.read(self.paths.connection)

    @property
    def keys(self) -> FurtherKeys:
        """Its further keys, beside its own."""
        return FurtherKeys(self)

    def needs_scheduler(self) -> bool:
        """Whether the files alone do not tell the state."""
        own = Status.read(self.paths.status)
        return (
            own is None
            or not own.ended
            or own.job_id != self.job_id
            or own.reason in ("preempted", "cancelled")
        )

    def ended_before(self, when: float) -> bool:
        """Whether the session was over before the Unix time `when`, as far as its files tell."""
        own = Status.read(self.paths.status)
        return own is not None and own.final and own.since < when

    def status(self) -> Status:
        """The state now: the session's own files and one question to the scheduler."""
        job_id = self.job_id
        asked = [job_id] if job_id else []
        return self.status_from(self.scheduler.jobs(asked) if self.needs_scheduler() else None, job_id)

    def status_from(self, jobs: dict[str, Job] | None, job_id: str | None) -> Status:
        """The state, given what the scheduler said of all jobs (None: it was not asked) and the job's id before that.

        An id that came after the question would be one that the scheduler does not know: a lost job.
        """
        if not self.paths.plan.exists():
            raise SessionError(f"The directory of session {self.id} is gone.", "Its job ends by itself.")
        own = Status.read(self.paths.status)
        if jobs is None:
            return own if own is not None else unknown(self.plan, job_id)
        job = jobs.get(job_id) if job_id else next((j for j in jobs.values() if j.session == self.id), None)
        if job is None and job_id is not None and (own is None or not own.final):
            # The session may have ended between the two readings; only then ask for what squeue has forgotten.
            own = Status.read(self.paths.status)
            if own is None or not own.final:
                job = self.scheduler.outcome(job_id)
        status = current(self.plan, own, job, job_id, stopped=self.paths.stop.exists())
        if status.final and own != status:
            self._keep(status)
        return status

    def wait(
        self, timeout_s: float | None = None, progress: Callable[[Status], None] | None = None
    ) -> Connection:
        """Wait until the session is ready; the time in the queue does not count towards `timeout_s`.

        `progress` is called with each changed status. Raises EngineError with the reason when the session fails
        instead, and SessionError when it was stopped or `timeout_s` has passed.
        """
        seen: tuple[object, ...] = ()
        running_since: float | None = None
        for status in self._watch():
            now = (status.state, status.phase, status.message)
            if progress is not None and now != seen:
                progress(status)
                seen = now
            if status.state == FAILED:
                raise EngineError(status.message, status.hint, status.reason)
            if status.ended:
                raise SessionError(f"Session {self.id} is over. {status.message}", status.hint)
            if status.state == READY and (connection := self.connection) is not None:
                return connection
            if status.state != PENDING and running_since is None:
                running_since = time.monotonic()
            if timeout_s is not None and running_since and time.monotonic() - running_since > timeout_s:
                raise SessionError(
                    f"Session {self.id} is not ready after {timeout_s:g} s.", "Wait again, or stop it."
                )
        raise AssertionError("a watch does not end")

    def stop(self, *, wait: bool = True) -> Status:
        """End the session; harmless when it is over. Returns the status reached."""
        status = self.status()
        if status.ended:
            return status
        job_id = status.job_id or self.job_id
        if job_id is None:
            raise SessionError(f"Session {self.id} has no job yet.", "Cancel it where it was started.")
        write_private(self.paths.stop, '{"reason": "user"}\n')
        try:
            self.scheduler.cancel(job_id)
        except SchedulerError:
            self.paths.stop.unlink(missing_ok=True)  # or a later end would be put down to the user
            raise
        if status.state == PENDING:  # no job ran that could say it
            self._keep(ended(self.plan, None, "user", job_id))
            self.paths.connection.unlink(missing_ok=True)
        if not wait:
            return self.status()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for status in self._watch():
            if status.final and not self._alive(job_id):
                return status
            if time.monotonic() > deadline:
                raise SessionError(f"Job {job_id} has not ended yet.", "Look again in a minute.")
        raise AssertionError("a watch does not end")

    def openai(self, **options: Any) -> openai.OpenAI:
        """An OpenAI client for this session; raises SessionError unless it is ready."""
        from openai import DefaultHttpxClient, OpenAI

        # The file alone is not enough: after a lost node its port may be anybody's, and the key would go there.
        status, connection = self.status(), self.connection
        if connection is None or status.state not in (READY, UNHEALTHY):
            raise SessionError(f"Session {self.id} is not ready: {status.message}", "Call wait() first.")
        # A cluster's http_proxy is for the world outside, and would be given the key.
        options.setdefault("http_client", DefaultHttpxClient(trust_env=False))
        return OpenAI(base_url=connection.base_url, api_key=connection.key, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except (LauncherError, OSError) as trouble:
            if error is None:
                raise
            print(f"launcher: {trouble}", file=sys.stderr)  # the error in the block matters more

    def __repr__(self) -> str:
        return f"<Session {self.id}>"

    def _watch(self) -> Iterator[Status]:
        # The files are looked at often, a scheduler that costs something every two seconds.
        pause_s = self.scheduler.POLL_S
        asked = answered = time.monotonic() - pause_s
        running = False
        while True:
            now = time.monotonic()
            if now - asked >= pause_s:
                asked = now
                try:
                    status = self.status()
                except SchedulerError:
                    if now - answered > _UNREACHABLE_S:
                        raise
                else:
                    answered, running = now, status.state != PENDING
                    yield status
            elif running:  # an older file may still tell of the job's former life
                own = Status.read(self.paths.status)
                if own is not None and own.job_id == self.job_id and not own.ended:
                    yield own
            time.sleep(_FILE_EVERY_S)

    def _alive(self, job_id: str) -> bool:
        job = self.scheduler.jobs([job_id]).get(job_id)
        return job is not None and job.state in (WAITING, "running")

    def _keep(self, status: Status) -> None:
        # What Slurm still knows now it will have forgotten tomorrow. A session that was killed leaves its secrets.
        for stale in (self.paths.connection, self.paths.key, self.paths.words):
            stale.unlink(missing_ok=True)
        try:
            status.write(self.paths.status)
        except OSError:
            print(f"launcher: the state of {self.id} cannot be kept on disk", file=sys.stderr)

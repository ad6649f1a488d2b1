"""`Session`: one session, wherever it was started, to watch, to talk to and to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from launcher.errors import LauncherError, SchedulerError, SessionError
from launcher.schedulers import Scheduler, scheduler
from launcher.sessions.connection import Connection
from launcher.sessions.job import WAITING, Job, is_over, read_job_id
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.state import current, unknown
from launcher.sessions.status import READY, UNHEALTHY, Status, asked_end

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from launcher.api.keys import FurtherKeys
    from launcher.api.metrics import Metrics
    from launcher.api.tunnel.tunnel import Tunnel


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
        from launcher.api.keys import FurtherKeys

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
        status = current(self.plan, own, job, job_id, asked=asked_end(self.paths.stop))
        if status.final and own != status:
            from launcher.api.post_mortem import explained  # only once it is over

            self.keep(status := explained(self.paths, status))
        return status

    def refresh(self) -> Status:
        """The same as `status`, for those who come from Blackfish."""
        return self.status()

    def wait(
        self, timeout_s: float | None = None, progress: Callable[[Status], None] | None = None
    ) -> Connection:
        """Wait until the session is ready; the time in the queue does not count towards `timeout_s`.

        `progress` is called with each changed status. Raises EngineError with the reason when the session fails
        instead, and SessionError when it was stopped or `timeout_s` has passed.
        """
        from launcher.api.waiting import run, until_ready

        def tell(_: Session, status: Status) -> None:
            if progress is not None:
                progress(status)

        (connection,) = run(until_ready([self], timeout_s), tell)
        return connection

    def stop(self, *, wait: bool = True, reason: str = "user", words: str | None = None) -> Status:
        """End the session; harmless when it is over. Returns the status reached.

        Who ends it for somebody else says why: a `reason` of docs/states.md, and `words` instead of its sentence.
        """
        from launcher.api.waiting import run, until_over

        return run(until_over(self, wait=wait, reason=reason, words=words))

    def delete(self) -> None:
        """Remove its directory (of Open OnDemand's only the entry); raises SessionError unless it is over."""
        from launcher.api.launcher import Launcher

        (one,) = Launcher.of(self.plan.places).cleanup(self.id)
        if not one.removed:
            raise SessionError(f"Session {self.id} is not removed. {one.kept}", "Look again in a minute.")

    def details(self) -> dict[str, Any]:
        """All that is known of it as plain data, without its key: plan, origins, status, job, files, use."""
        from launcher.api.details import details

        return details(self)

    def metrics(self) -> Metrics:
        """What it does now; takes a second, since throughputs need two readings. Raises SessionError unless ready."""
        from launcher.api.metrics import now

        return now(self)

    def connect(self, **options: Any) -> Tunnel:
        """A port of this machine that leads to it, from wherever one is: see `launcher.api.tunnel.tunnel.connect`."""
        from launcher.api.tunnel.tunnel import connect

        return connect(self, **options)

    def openai(self, **options: Any) -> OpenAI:
        """An OpenAI client for this session; raises SessionError unless it is ready."""
        from openai import DefaultHttpxClient, OpenAI

        connection = self.ready()
        # A cluster's http_proxy is for the world outside, and would be given the key.
        options.setdefault("http_client", DefaultHttpxClient(trust_env=False))
        return OpenAI(base_url=connection.base_url, api_key=connection.key, **options)

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """The same for asyncio."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        connection = self.ready()
        options.setdefault("http_client", DefaultAsyncHttpxClient(trust_env=False))
        return AsyncOpenAI(base_url=connection.base_url, api_key=connection.key, **options)

    def ready(self) -> Connection:
        """How to reach it now; raises SessionError unless it is ready."""
        # The file alone is not enough: after a lost node its port may be anybody's, and the key would go there.
        status, connection = self.status(), self.connection
        if connection is None or status.state not in (READY, UNHEALTHY):
            raise SessionError(f"Session {self.id} is not ready: {status.message}", "Call wait() first.")
        return connection

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

    def job_lives(self, job_id: str) -> bool:
        """Whether the scheduler still has the job waiting or running."""
        if is_over(self.paths.job):  # of a batch that goes on
            return False
        job = self.scheduler.jobs([job_id]).get(job_id)
        return job is not None and job.state in (WAITING, "running")

    def keep(self, status: Status) -> None:
        """Write down how the session ended, and take its secrets away."""
        # What Slurm still knows now it will have forgotten tomorrow. A session that was killed leaves its secrets.
        for secret in self.paths.secrets:
            secret.unlink(missing_ok=True)
        try:
            status.write(self.paths.status)
        except OSError:
            print(f"launcher: the state of {self.id} cannot be kept on disk", file=sys.stderr)


def statuses(
    sessions: Sequence[Session], unanswered: Callable[[SchedulerError], None] | None = None
) -> list[Status]:
    """The status of each session, with one call for each scheduler however many sessions there are.

    A scheduler that does not answer raises its SchedulerError; with `unanswered` that is told, and the sessions' own
    files are believed.
    """
    ids = [session.job_id for session in sessions]
    living: dict[Scheduler, list[str]] = {}
    for session, job_id in zip(sessions, ids, strict=True):
        if session.needs_scheduler():
            living.setdefault(session.scheduler, []).extend([job_id] if job_id else [])
    known: dict[Scheduler, dict[str, Job]] = {}
    for where, asked in living.items():
        try:
            known[where] = where.jobs(asked)
        except SchedulerError as error:
            if unanswered is None:
                raise
            unanswered(error)
    return [
        session.status_from(known.get(session.scheduler), job_id)
        for session, job_id in zip(sessions, ids, strict=True)
    ]

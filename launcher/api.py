"""The Python API, which the command line uses as well: launch a session, watch it, talk to it, stop it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from launcher.errors import EngineError, LauncherError, SchedulerError, SessionError, SettingsError
from launcher.schedulers import Scheduler, scheduler
from launcher.sessions import keys, registry
from launcher.sessions.clock import span_s
from launcher.sessions.connection import Connection
from launcher.sessions.job import WAITING, Job, read_job_id, write_job_id
from launcher.sessions.keys import NamedKey
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.state import current, ended, unknown
from launcher.sessions.status import FAILED, PENDING, READY, UNHEALTHY, Status

if TYPE_CHECKING:
    import openai

    from launcher.settings.schema import Settings

__all__ = ["Connection", "Launcher", "LauncherError", "Session"]

_FILE_EVERY_S = 0.2
_STOP_TIMEOUT_S = 90.0
_UNREACHABLE_S = 300.0  # a controller that restarts is no reason to give up hours of waiting


class Launcher:
    """The door for Python: settings are read when first needed, sessions are found by their files."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    @property
    def settings(self) -> Settings:
        """The joined settings; raises SettingsError when a file is wrong."""
        if self._settings is None:
            from launcher.settings.layers import load

            self._settings = load()
        return self._settings

    def plan(self, model: str, *, door: str = "python", **wanted: Any) -> Plan:
        """The plan for `model`; `wanted` are the fields of `launcher.planning.Request`. Writes nothing."""
        from launcher.planning import Request, make_plan

        try:
            request = Request(model=model, **wanted)
        except TypeError:
            from launcher.planning import unknown_field

            raise unknown_field(wanted) from None
        return make_plan(request, self.settings, door=door)

    def launch(self, model: str, *, door: str = "python", **wanted: Any) -> Session:
        """Submit a session of `model` and return at once; nothing is left behind when that fails."""
        return self.submit(self.plan(model, door=door, **wanted))

    def submit(self, plan: Plan) -> Session:
        """Make the session's directory and submit its job."""
        self.within_limits()
        paths = registry.make(Path(plan.places.sessions), plan.id)
        where = scheduler(plan.cluster.scheduler, plan.cluster.ssh)
        job_id = None
        try:
            write_session(plan, paths)
            job_id = where.submit(paths.job_script)
            write_job_id(paths.job, job_id)
        except BaseException as error:
            if job_id is not None:  # a job that nobody would find again
                where.cancel(job_id)
            shutil.rmtree(paths.root, ignore_errors=True)
            if isinstance(error, OSError):
                raise registry.storage_error(error, paths.root) from error
            raise
        return Session(paths)

    def within_limits(self) -> None:
        """Raise RequestError where this user has as many sessions as the site allows: a rule among honest people."""
        if self.settings.limits.sessions is not None:
            from launcher.planning import within_limits

            living = [session for session in self.sessions() if session.needs_scheduler()]
            statuses = self.statuses(living)
            # A form that OOD could not submit leaves a session without a job.
            within_limits(self.settings, sum(s.job_id is not None and not s.ended for s in statuses))

    def session(self, wanted: str) -> Session:
        """The session with this id (or the beginning of one), job id, or directory."""
        return Session(registry.find(self._folder(), wanted))

    def sessions(self) -> list[Session]:
        """All sessions, the oldest first."""
        found = []
        for paths in registry.entries(self._folder()):
            try:
                found.append(Session(paths))
            except SessionError as error:  # one broken file must not hide all the others
                print(f"launcher: passed over: {error}", file=sys.stderr)
        return found

    def statuses(self, sessions: list[Session]) -> list[Status]:
        """The status of each session, with one call for each scheduler however many sessions there are."""
        living: dict[Scheduler, list[Session]] = {}
        for session in sessions:
            if session.needs_scheduler():
                living.setdefault(session.scheduler, []).append(session)
        known: dict[Scheduler, dict[str, Job]] = {}
        for where, group in living.items():
            ids = [job_id for session in group if (job_id := session.job_id) is not None]
            try:
                known[where] = where.jobs(ids)
            except SchedulerError as error:  # what the sessions say of themselves is better than nothing
                print(f"launcher: {error}", file=sys.stderr)
        return [session.status_from(known.get(session.scheduler)) for session in sessions]

    def _folder(self) -> Path:
        try:
            return Path(self.settings.places.sessions)
        except SettingsError as error:
            # A slip of the site must not take `status` and `stop` from running sessions.
            from launcher.settings.layers import load

            print(f"launcher: {error}", file=sys.stderr)
            own = {name: value for name, value in os.environ.items() if name == "LAUNCHER_PLACES__SESSIONS"}
            return Path(
                load({**own, "LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull}).places.sessions
            )


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
        if not self.needs_scheduler():
            return self.status_from(None)
        job_id = self.job_id
        return self.status_from(self.scheduler.jobs([job_id] if job_id else []))

    def status_from(self, jobs: dict[str, Job] | None) -> Status:
        """The state, given what the scheduler said of all jobs (None: it was not asked)."""
        if not self.paths.plan.exists():
            raise SessionError(f"The directory of session {self.id} is gone.", "Its job ends by itself.")
        own, job_id = Status.read(self.paths.status), self.job_id
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


class FurtherKeys:
    """The further keys of a session, for other people or programs; iterating gives what is known of each.

    A change works at once, without a restart, and outlives one. Only hashes are kept.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __iter__(self) -> Iterator[NamedKey]:
        return iter(keys.read(self._session.paths.further_keys))

    def new(
        self,
        name: str,
        *,
        expires: str | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[NamedKey, str]:
        """Make a key called `name` and return it with its secret, which cannot be had again.

        `expires` is a span such as 90m, 12h, 3d or 2w; None is as long as the session. Raises RequestError for a value
        that cannot be or a name that is taken, and SessionError when the session is over.
        """
        lifetime_s = None if expires is None else span_s(expires)
        status = self._session.status()
        if status.ended:
            raise SessionError(
                f"Session {self._session.id} is over. {status.message}",
                "Make keys for one that runs or waits.",
            )
        return keys.new(
            self._session.paths,
            name,
            lifetime_s=lifetime_s,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )

    def revoke(self, name: str) -> NamedKey:
        """Take the key called `name` away; requests with it are refused from then on."""
        return keys.revoke(self._session.paths, name)


def write_session(plan: Plan, paths: SessionPaths, *, header: bool = True) -> None:
    """Write `session.json` and `job.sh`; without `header` for a job that somebody else submits."""
    from launcher.models.index import note_use
    from launcher.schedulers.script import job_script

    write_private(paths.plan, plan.to_json())
    write_private(paths.job_script, job_script(plan, paths.root, header=header))
    paths.job_script.chmod(0o700)
    if plan.model.snapshot is not None:
        note_use(Path(plan.model.snapshot), Path(plan.places.cache))

"""`Launcher`: plans, submits and finds sessions; sessions are found by their files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.api.session import Session
from launcher.errors import SchedulerError, SessionError, SettingsError
from launcher.schedulers import Scheduler, scheduler
from launcher.sessions import registry
from launcher.sessions.job import Job, write_job_id
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.settings.schema import Settings


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
        ids = [session.job_id for session in sessions]
        living: dict[Scheduler, list[str]] = {}
        for session, job_id in zip(sessions, ids, strict=True):
            if session.needs_scheduler():
                living.setdefault(session.scheduler, []).extend([job_id] if job_id else [])
        known: dict[Scheduler, dict[str, Job]] = {}
        for where, asked in living.items():
            try:
                known[where] = where.jobs(asked)
            except SchedulerError as error:  # what the sessions say of themselves is better than nothing
                print(f"launcher: {error}", file=sys.stderr)
        return [
            session.status_from(known.get(session.scheduler), job_id)
            for session, job_id in zip(sessions, ids, strict=True)
        ]

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


def write_session(plan: Plan, paths: SessionPaths, *, header: bool = True) -> None:
    """Write `session.json` and `job.sh`; without `header` for a job that somebody else submits."""
    from launcher.models.index import note_use
    from launcher.schedulers.script import job_script

    write_private(paths.plan, plan.to_json())
    write_private(paths.job_script, job_script(plan, paths.root, header=header))
    paths.job_script.chmod(0o700)
    if plan.model.snapshot is not None:
        note_use(Path(plan.model.snapshot), Path(plan.places.cache))

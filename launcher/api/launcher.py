"""`Launcher`: plans, submits and finds sessions; sessions are found by their files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from launcher.api.session import Session, statuses
from launcher.errors import LauncherError, SessionError, SettingsError
from launcher.sessions import registry
from launcher.sessions.connection import Connection
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.api.batch_runs import BatchRun
    from launcher.api.catalog import Offered, Setup
    from launcher.api.cleanup import Removal
    from launcher.api.environments import Held
    from launcher.api.record import Record
    from launcher.batch.report import Status as BatchStatus
    from launcher.settings.schema import Places, Settings


class Launcher:
    """The door for Python: settings are read when first needed, sessions are found by their files.

    With `cluster` it knows no other; where that is behind ssh, the launcher there does the work.
    As a context manager it stops on leaving the block what it launched. `auto_cleanup` True does that at the end of the
    program too, for those without a block; False never does.
    """

    def __new__(
        cls, settings: Settings | None = None, *, cluster: str | None = None, auto_cleanup: bool | None = None
    ) -> Self:
        """With `cluster` only that one; where it is behind ssh, the launcher there does the work (RemoteLauncher)."""
        wanted = _cluster(cluster)
        if wanted is None or cls is not Launcher:
            return super().__new__(cls)
        from launcher.api.clusters import launcher_class

        return cast(Self, super().__new__(launcher_class(wanted, settings)))

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cluster: str | None = None,
        auto_cleanup: bool | None = None,
    ) -> None:
        self._settings = settings
        self._cluster = _cluster(cluster)
        self._launched: list[Session] = []
        self._auto_cleanup = auto_cleanup
        if auto_cleanup:
            import atexit

            atexit.register(self.stop_launched)

    @property
    def settings(self) -> Settings:
        """The joined settings; raises SettingsError when a file is wrong."""
        if self._settings is None:
            from launcher.settings.layers import load

            self._settings = load()
        if self._cluster is not None and len(self._settings.clusters) > 1:
            from launcher.api.clusters import only

            self._settings = only(self._cluster, self._settings)
        return self._settings

    @classmethod
    def of(cls, places: Places) -> Self:
        """The launcher whose sessions are there, whatever the settings say now."""
        from launcher.settings.layers import load

        return cls(dataclasses.replace(load(), places=places))

    def plan(self, model: str | None, *, door: str = "python", **wanted: Any) -> Plan:
        """The plan for `model`; `wanted` are the fields of `launcher.planning.Request`. Writes nothing.

        Other systems' words for them do as well, and `config` names a file of them (docs/shell.md).
        """
        from launcher.planning import asked, make_plan, unheeded

        found = asked(model, wanted, self.settings, os.environ)
        for note in found.notes:
            print(f"launcher: {note}", file=sys.stderr)
        plan = make_plan(found.request, found.settings, door=door, said=found.origins)
        if (means_nothing := unheeded(found, plan)) is not None:
            print(f"launcher: {means_nothing}", file=sys.stderr)
        return plan

    def launch(self, model: str, *, door: str = "python", **wanted: Any) -> Session:
        """Submit a session of `model` and return at once; nothing is left behind when that fails."""
        from launcher.api.clusters import elsewhere

        if (there := elsewhere(self.settings, wanted.get("profile"))) is not None:
            cluster, wanted["profile"] = there
            session = Launcher(self.settings, cluster=cluster).launch(model, door=door, **wanted)
            self._launched.append(session)
            return session
        return self.submit(self.plan(model, door=door, **wanted))

    def submit(self, plan: Plan) -> Session:
        """Make the session's directory and submit its job; nothing is left behind when that fails."""
        (session,) = self._submit([plan])
        return session

    def batch_launch(
        self,
        models: Sequence[str | Mapping[str, Any]] = (),
        *,
        config: str | None = None,
        together: bool = False,
        door: str = "python",
        **wanted: Any,
    ) -> list[Session]:
        """Launch all of `models` as one job, all or none; each is a name, or the fields of a request with `model`.

        `wanted` holds for all, `config` is a file of members (docs/shell.md). With `together` the end of one ends all.
        """
        from launcher.api import batch_launch

        return self._submit(batch_launch.planned(self, models, config, wanted, door), together=together)

    def batch_run(
        self,
        input: str | Path,  # noqa: A002 - OpenAI's word for it
        output: str | Path | None = None,
        *,
        wait: bool = True,
        key: str | None = None,
        show: Callable[[BatchStatus], None] | None = None,
        **wanted: Any,
    ) -> BatchRun:
        """Answer each line of `input` (OpenAI's batch lines) once into `output`, or go on with that.

        `wanted` are `model` and the fields of a request for a job of its own, or `session`, or `url` with `key`; and
        window, retries, strict, endpoint. Without `wait` it returns when the job is submitted. What became of it is in
        the status of what is returned; raises LauncherError for what is wrong before anything is sent.
        """
        from launcher.api.batch_carry import through
        from launcher.api.batch_runs import begin

        batch = begin(self, input, output, **wanted)
        through(batch, wait=wait, key=key, show=show)
        return batch

    def batch_runs(self) -> list[BatchRun]:
        """All batch runs of mine, the oldest first."""
        from launcher.api.batch_runs import every

        return every(self)

    def make(self, plan: Plan) -> SessionPaths:
        """Make the private directory of a session, visible to `status`."""
        paths = registry.make(Path(plan.places.sessions), plan.id)
        if (folder := self.folder) != Path(plan.places.sessions):  # a log directory of the user's own
            try:
                registry.link(folder, plan.id, paths.root)
            except BaseException:
                paths.root.rmdir()
                raise
        return paths

    def within_limits(self, new: int = 1) -> None:
        """Raise RequestError where this user has as many sessions as the site allows: a rule among honest people."""
        if self.settings.limits.sessions is not None:
            from launcher.planning import within_limits

            living = [session for session in self.sessions() if session.needs_scheduler()]
            statuses = self.statuses(living)
            # A form that OOD could not submit leaves a session without a job.
            running = sum(s.job_id is not None and not s.ended for s in statuses)
            within_limits(self.settings, running, new)

    def session(self, wanted: str) -> Session:
        """The session with this id (or the beginning of one), job id, or directory."""
        return Session(registry.find(self.folder, wanted))

    def members(self, wanted: str) -> list[Session]:
        """The sessions of the batch whose job has this id, in their order; of any other name the one session."""
        return [Session(paths) for paths in registry.find_all(self.folder, wanted)]

    def sessions(self) -> list[Session]:
        """All sessions, the oldest first; with `cluster` those on it."""
        found = []
        for paths in registry.entries(self.folder):
            try:
                found.append(Session(paths))
            except SessionError as error:  # one broken file must not hide all the others
                print(f"launcher: passed over: {error}", file=sys.stderr)
        return [s for s in found if self._cluster in (None, s.plan.cluster.name)]

    def statuses(self, sessions: list[Session]) -> list[Status]:
        """The status of each session, with one call for each scheduler however many sessions there are."""
        return statuses(sessions, lambda error: print(f"launcher: {error}", file=sys.stderr))

    def wait_all(
        self,
        sessions: Sequence[Session],
        timeout_s: float | None = None,
        progress: Callable[[Session, Status], None] | None = None,
    ) -> list[Connection]:
        """Wait until all are ready, as `Session.wait` does for one.

        The first that fails ends the waiting with its error; the others go on.
        """
        from launcher.api.waiting import run, until_ready

        return run(until_ready(sessions, timeout_s), progress)

    @property
    def folder(self) -> Path:
        """Where the sessions are kept."""
        # A third of the time of `launcher status` would go into settings of which it needs this one.
        from launcher.sessions import remembered

        try:
            if self._settings is None and self._cluster is None:
                if (known := remembered.recall(os.environ)) is not None:
                    return known
                from launcher.settings.layers import load_noting

                self._settings, written = load_noting(os.environ)
                remembered.keep(os.environ, written)
            return Path(self.settings.places.sessions)
        except SettingsError as error:
            # A slip of the site must not take `status` and `stop` from running sessions.
            from launcher.settings.layers import load

            print(f"launcher: {error}", file=sys.stderr)
            own = {name: value for name, value in os.environ.items() if name == "LAUNCHER_PLACES__SESSIONS"}
            return Path(
                load({**own, "LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull}).places.sessions
            )

    def catalog(self) -> list[Offered]:
        """The models that the site offers, by type; each says whether it can be started now."""
        from launcher.api.catalog import offered

        return offered(self.settings)

    def setup(self, model: str) -> Setup:
        """What a session of `model` gets when nothing is asked for; raises ModelError for an unknown model."""
        from launcher.api.catalog import setup

        return setup(model, self)

    def environments(self) -> list[Held]:
        """Where the engines' programs come from, with their versions, and what is missing."""
        from launcher.api.environments import environments

        return environments(self.settings)

    def cleanup(self, *ids: str, dry_run: bool = False, **wanted: Any) -> list[Removal]:
        """Remove the files of sessions that are over; `wanted` are the fields of `launcher.api.cleanup.Choice`."""
        from launcher.api.cleanup import Choice, planned, remove

        found = planned(self, Choice(ids, **wanted))
        return found if dry_run else remove(self, found)

    def record(self, wanted: str) -> Record:
        """The record of a session, or the one in a file; that of a living session is preliminary."""
        from launcher.api.record import find

        return find(self, wanted)

    def rerun(self, wanted: str, *, door: str = "python", strict: bool = False, **changed: Any) -> Session:
        """Start again what the record says; `changed` are fields of a request, `strict` refuses any difference."""
        from launcher.api.rerun import prepared

        return self.submit(prepared(self, self.record(wanted), door=door, strict=strict, **changed).plan)

    def stop_launched(self) -> None:
        """End every session that this launcher launched and that is not over; one that resists is told, not raised."""
        launched, self._launched = self._launched, []
        for wait in (False, True):  # all are asked before the first is waited for
            for session in launched:
                try:
                    session.stop(wait=wait)
                except (LauncherError, OSError) as trouble:
                    print(f"launcher: {trouble}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._auto_cleanup is not False:
            self.stop_launched()

    def _submit(self, plans: Sequence[Plan], *, together: bool = False) -> list[Session]:
        from launcher.api.batch_launch import submit

        made = submit(self, plans, together=together)
        self._launched += made
        return made


def _cluster(wanted: str | None) -> str | None:
    """The one cluster that is meant, by the call or else by the environment; None: all of the settings."""
    return wanted or os.environ.get("LAUNCHER_CLUSTER") or None


def write_session(plan: Plan, paths: SessionPaths, *, header: bool = True) -> None:
    """Write `session.json` and `job.sh`; without `header` for a job that somebody else submits."""
    from launcher.models.index import note_use
    from launcher.schedulers.script import job_script

    write_private(paths.plan, plan.to_json())
    write_private(paths.job_script, job_script(plan, paths.root, header=header))
    paths.job_script.chmod(0o700)
    if plan.model.snapshot is not None:
        note_use(Path(plan.model.snapshot), Path(plan.places.cache))

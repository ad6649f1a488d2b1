"""The session that does the work: the one named, one that runs already, or one of our own, started again when it ends.

Owns which session, and who stops it. A session that was started for transcribing says so by a file in its directory,
which each command that uses it holds locked: the last one to leave stops it, also after a kill.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher, Session
from launcher.errors import EngineError, LauncherError, RequestError, SessionError
from launcher.sessions.connection import Connection
from launcher.sessions.plan import Plan
from launcher.sessions.status import LAUNCHING, PENDING, READY, UNHEALTHY, Status
from launcher.transcripts.report import Tell
from launcher.transcripts.stream import Broken, Stream

if TYPE_CHECKING:
    from launcher.settings.schema import Settings

ENGINE = "whisper"
_STARTS = 3
_SILENT_S = 300.0  # as for a scheduler that restarts: a network that is away for less is no reason to give up
_RETRY_S = 2.0
_LIVING = {READY: 0, UNHEALTHY: 1, LAUNCHING: 2, PENDING: 3}
# Ends that somebody wanted; all others are no reason not to go on.
_WANTED = ("user", "cancelled")
# Ends of a start that the next one need not have.
_PASSING = ("time-limit", "node-fail", "preempted", "boot-fail", "lost", "job-exit")
# What of GET /v1/models decides on the text, beside the plan.
_DECIDES = ("compute_type",)


class Carrier:
    """Finds or starts a session of `model` (None: any that transcribes), with the launch options `wanted`."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        model: str | None,
        session: str | None,
        wanted: Mapping[str, Any],
        keep: bool,
        tell: Tell,
        starting: Callable[[Status], None] | None,
    ) -> None:
        self._launcher = launcher
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        self._named = session is not None
        self._keep = keep
        self._tell = tell
        self._starting = starting
        self._lease: int | None = None
        self._starts = 0  # in a row that brought nothing
        self._worked = False
        self._ours = False
        self._told = False
        self._next = model or ""
        self._silent_since: float | None = None
        self._said: dict[str, Any] = {}
        self.session: Session | None = None
        self.plan: Plan | None = None
        self._choose(model, session)

    @property
    def model(self) -> str:
        """The id of the model that does it."""
        return self._planned.model.id

    @property
    def made_by(self) -> dict[str, Any]:
        """What decides on the text besides the recording and what is asked."""
        plan = self._planned
        said = {name: self._said[name] for name in _DECIDES if name in self._said}
        model, version = _identity(plan)
        return {"model": model, "version": version, "engine_args": list(plan.engine_args), **said}

    @property
    def goes_on(self) -> bool:
        """Whether the session is not for us to stop."""
        return self._lease is None or self._keep

    def ready(self) -> Connection:
        """A connection to a session that answers; starts one where there is none or the last one is over.

        Raises what keeps it from starting, and SessionError where the session that was named is over.
        """
        while True:
            if self.session is None:
                self._start()
            elif not self._told:
                self._tell(f"Session {self.session.id} is used.")
            assert self.session is not None
            self._told = True
            try:
                connection = self.session.wait(progress=self._starting)
            except (EngineError, SessionError) as error:
                self._over(error)
                continue
            try:
                self._said = self._models(connection)
            except Broken as broken:
                self._silent(broken)
                continue
            self._silent_since = None
            return connection

    def at_once(self) -> int:
        """How many recordings keep the session busy."""
        size = self._said.get("batch_size")
        return min(16, max(4, size)) if isinstance(size, int) else 4

    def works(self) -> None:
        """A piece came: earlier trouble does not count any more."""
        self._starts, self._worked = 0, True

    def described(self) -> str:
        """A sentence about the session that is, or would be, used."""
        plan = self._planned
        if self.session is not None:
            return f"Session {self.session.id} of {plan.model.id} is used."
        hours = f"{plan.limits.hours:g} h"
        return f"A session of {plan.model.id} is started on {plan.resources.profile}, for up to {hours}."

    def leave(self) -> None:
        """Let go of the session without stopping it."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def release(self) -> bool:
        """Leave the session, and stop it where it was started for this and nobody else uses it; whether it stays."""
        session, self.session = self.session, None
        if session is None:
            return False
        lock, self._lease = self._lease, None
        if lock is None:
            return True
        try:
            if self._keep:
                with contextlib.suppress(OSError):
                    _lease_path(session).unlink()
                return True
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # another command uses it, and will stop it
            except OSError:
                pass
            session.stop()
            return False
        except LauncherError as error:
            self._tell(f"Session {session.id} could not be stopped: {error} Try: launcher stop {session.id}")
            return True
        finally:
            os.close(lock)

    @property
    def _planned(self) -> Plan:
        plan = self.session.plan if self.session is not None else self.plan
        assert plan is not None
        return plan

    def _choose(self, model: str | None, session: str | None) -> None:
        if session is not None:
            self.session = self._checked(self._launcher.session(session), model)
            self._take_lease(self.session)
            return
        plan = None if model is None else self._plan(model)
        if not self._wanted:  # with a launch option, one like that is meant
            self.session = self._running(plan)
        if self.session is None:
            self._next = model or self._usual()
            self.plan = plan or self._plan(self._next)

    def _plan(self, model: str) -> Plan:
        plan = self._launcher.plan(model, door="shell", page=False, **self._wanted)
        if plan.engine != ENGINE:
            raise RequestError(
                f'Model "{model[:80]}" is served by {plan.engine}, which does not transcribe.',
                "Choose a Whisper model: launcher models ls --task transcription",
            )
        return plan

    def _checked(self, session: Session, model: str | None) -> Session:
        if session.plan.engine != ENGINE:
            raise RequestError(
                f"Session {session.id} runs {session.plan.engine}, which does not transcribe.",
                "Name one with a Whisper model, or none.",
            )
        if model is not None and not self._serves(session.plan, model):
            raise RequestError(
                f'Session {session.id} serves "{session.plan.model.id}", not "{model[:80]}".',
                "Leave out --model or --session.",
            )
        status = session.status()
        if status.ended:
            raise SessionError(f"Session {session.id} is over. {status.message}", "Leave out --session.")
        return session

    def _serves(self, serving: Plan, model: str) -> bool:
        if model in (serving.model.id, serving.model.served_name):
            return True
        return _identity(self._plan(model)) == _identity(serving)

    def _running(self, plan: Plan | None) -> Session | None:
        """A session of mine that transcribes with that model, the readiest and then the latest first."""
        mine = [session for session in self._launcher.sessions() if session.plan.engine == ENGINE]
        if plan is not None:
            mine = [session for session in mine if _identity(session.plan) == _identity(plan)]
        ranked = [
            (status.ends_soon, _LIVING[status.state], -number, session)
            for number, (session, status) in enumerate(zip(mine, self._launcher.statuses(mine), strict=True))
            if status.state in _LIVING and status.job_id is not None
        ]
        for *_, session in sorted(ranked, key=lambda rank: rank[:3]):
            if self._take_lease(session):
                return session
        return None

    def _usual(self) -> str:
        """The model where none was named: the only one that the site offers for it."""
        offered = [
            entry.name
            for entry in self._launcher.settings.catalog.values()
            if entry.engine == ENGINE and not entry.hidden and not (entry.path or "").startswith("shipped:")
        ]
        if len(offered) == 1:
            return offered[0]
        if offered:
            raise RequestError(
                "Which model shall transcribe?", f"Add --model with one of: {', '.join(offered)}."
            )
        raise RequestError(
            "Which model shall transcribe? The site offers none for it.",
            "Add --model; launcher models ls --task transcription shows those that are here.",
        )

    def _start(self) -> None:
        plan, self.plan = self.plan, None
        if plan is None:  # a session's plan has its own id, so another session has another plan
            plan = self._plan(self._next)
        session = self._launcher.submit(plan)
        self._starts += 1
        self.session, self._ours = session, True
        with contextlib.suppress(OSError):
            self._lease = os.open(_lease_path(session), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._tell(f"Session {session.id} is started for this.")

    def _over(self, error: LauncherError) -> None:
        """The session has ended, or never came up: forget it for another one; raises `error` if none may be."""
        session = self.session
        assert session is not None
        status = session.status()
        if not status.ended:
            raise error
        first = self._ours and not self._worked and self._starts <= 1
        failed_start = isinstance(error, EngineError) and status.reason not in _PASSING
        if self._named or status.reason in _WANTED or self._starts >= _STARTS or (first and failed_start):
            raise error
        self._forget(session)
        self._tell(f"Session {session.id} is over. {status.message} Another one goes on.")

    def _silent(self, broken: Broken) -> None:
        """It says that it is ready, and does not answer: perhaps its node is lost and nobody knows yet."""
        session, now = self.session, time.monotonic()
        assert session is not None
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < _SILENT_S:
            time.sleep(_RETRY_S)
            return
        self._silent_since = None
        if self._named or not self._ours or self._starts >= _STARTS:
            raise SessionError(
                f"Session {session.id} cannot be reached. {broken.message}", "Is its node well?"
            )
        self._tell(f"Session {session.id} cannot be reached. Another one goes on.")
        with contextlib.suppress(LauncherError):
            session.stop(wait=False)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self.leave()
        self._next = self._next or _name(session.plan, self._launcher.settings)
        if session.plan.model.revision is not None:
            self._wanted["revision"] = session.plan.model.revision  # a branch may have moved meanwhile
        self.session = None

    def _models(self, connection: Connection) -> dict[str, Any]:
        try:
            found = Stream(connection).ask("/models")["data"][0]
        except (KeyError, IndexError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def _take_lease(self, session: Session) -> bool:
        """Hold a session that was started for transcribing, so that nobody stops it; False where that has begun."""
        try:
            lease = os.open(_lease_path(session), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return True  # it was started by a person, who stops it
        try:
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lease)
            return False
        except OSError:
            pass
        self._lease, self._ours = lease, True
        return True


def _identity(plan: Plan) -> tuple[str, str | None]:
    """What tells one model from another: its commit, or the folder where it has none."""
    return plan.model.id, plan.model.revision or plan.model.snapshot


def _name(plan: Plan, settings: Settings) -> str:
    """What to ask for to get the model of a session that was not planned here."""
    from launcher.models.resolve import catalog_entry

    known = plan.model.revision is not None or catalog_entry(plan.model.id, settings) is not None
    return plan.model.id if known or plan.model.snapshot is None else plan.model.snapshot


def _lease_path(session: Session) -> Path:
    return session.paths.root / "transcribe.lock"

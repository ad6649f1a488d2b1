"""What can be seen of the user's sessions: their states, and where the ready ones answer.

Owns the questions and how often they are asked: one for each scheduler every few seconds, sooner when a session's files
changed or when somebody missed an answer. All of it blocks, and so runs in threads of its own, one for each source: a
cluster whose ssh hangs does not keep the others from being seen. Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from launcher.api.launcher import Launcher
from launcher.api.session import Session, statuses
from launcher.api.tunnel.ways import Way, Ways, answers
from launcher.errors import LauncherError, SchedulerError, SessionError
from launcher.sessions import registry
from launcher.sessions.connection import Connection
from launcher.sessions.status import PENDING, READY, UNHEALTHY, Status

if TYPE_CHECKING:
    from launcher.settings.schema import Settings

_LOG = logging.getLogger("launcher.fleet")
# How often the files of living sessions are looked at, and how many times what a look at very many takes lies between.
_FILES_S, _FILES_SHARE = 0.5, 10.0
_BUSY_S, _CALM_S = 3.0, 15.0  # how often a scheduler is asked: while something starts or ends, and else
_FAR_BUSY_S, _FAR_CALM_S = 5.0, 30.0  # a program is started there for each question
_SOONEST_S = 1.0
_LISTED_S = 60.0  # how often a launcher far away is asked for sessions that somebody else started
_ANSWERS_S = 4.0
_ENDED_KEPT = 1000
_DEAF_S = _GOES_ON_S = 60.0

Address: TypeAlias = "Path | tuple[str, int]"


@dataclass(frozen=True, slots=True)
class Sighted:
    """One session as it was last seen; `address` is where it answers, None while it cannot be asked.

    `trouble` is why a ready session cannot be reached, in one sentence.
    """

    session: Session
    status: Status
    connection: Connection | None = None
    address: Address | None = None
    trouble: str | None = None

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def served(self) -> str:
        """The name by which it knows its model."""
        return self.connection.model if self.connection is not None else self.session.plan.model.served_name


class Source:
    """The user's sessions on one cluster; `tell` is called in the event loop after each look.

    `seen` are those that are not over, by their ids; `ended` those whose end was seen, the latest last. `far`: a
    launcher there is asked.
    """

    def __init__(self, launcher: Launcher, cluster: str, tell: Callable[[Source], object]) -> None:
        self.cluster = cluster
        self.launcher = launcher
        self.seen: dict[str, Sighted] = {}
        self.ended: dict[str, Sighted] = {}
        self.looked_at = 0.0  # wall clock when the last look that went through began; 0: none yet
        self.trouble: str | None = None  # why the scheduler, or the whole cluster, does not answer
        self.trouble_since = 0.0
        self._tell = tell
        self.far = hasattr(launcher, "far")
        self._sessions: dict[str, Session] = {}
        self._listed = 0.0
        self._over: set[str] = set()
        self._broken: set[str] = set()
        self._ways: dict[str, _Reached] = {}
        self._marks: dict[str, object] = {}
        self._waits: dict[str, float] = {}  # since when a session that answered is said to wait
        self._thread = ThreadPoolExecutor(1, f"sight {cluster}"[:40])
        self._wanted = asyncio.Event()
        self._new: list[Session] = []
        self._doubted: set[str] = set()

    @property
    def deaf(self) -> bool:
        """Whether the cluster has not answered for a while, or never yet; one missed answer says nothing."""
        if self.trouble is None:
            return False
        return self.looked_at == 0.0 or time.time() - self.trouble_since > _DEAF_S

    def over(self, session: str) -> bool:
        """Whether the session was over when its files were first seen."""
        return session in self._over

    def doubt(self, session: str) -> None:
        """It did not answer somebody: ask itself, not only the scheduler."""
        self._doubted.add(session)
        self.soon()

    def soon(self) -> None:
        """Look as soon as that is decent: something has happened."""
        self._wanted.set()

    def expect(self) -> None:
        """There should be a session that was not seen yet: another gateway has started it."""
        if self.far and time.monotonic() - self._listed > _FAR_BUSY_S:
            self._listed = 0.0
        self.soon()

    def add(self, session: Session) -> None:
        """A session that was started just now."""
        self._new.append(session)
        self.soon()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = time.monotonic()
                try:
                    await loop.run_in_executor(self._thread, self._look)
                except (LauncherError, OSError) as error:
                    self._say(str(error))
                except Exception:
                    _LOG.exception("the sessions could not be looked at")
                self._tell(self)
                await self._pause(began)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Leave no forwarded port."""
        for reached in self._ways.values():
            reached.ways.close()
        self._ways.clear()

    async def _pause(self, began: float) -> None:
        calm, busy = (_FAR_CALM_S, _FAR_BUSY_S) if self.far else (_CALM_S, _BUSY_S)
        moving = self.trouble is not None
        moving = moving or any(
            seen.status.state != READY or seen.address is None for seen in self.seen.values()
        )
        until = began + (busy if moving else calm)
        loop, files_s = asyncio.get_running_loop(), _FILES_S
        while (left_s := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s if self.far else min(files_s, left_s)):
                    await self._wanted.wait()
            if not self._wanted.is_set() and not self.far:
                asked_at = time.monotonic()
                marks = await loop.run_in_executor(self._thread, self._files)
                files_s = max(_FILES_S, _FILES_SHARE * (time.monotonic() - asked_at))
                if marks == self._marks:
                    continue
                self._marks = marks
                self._wanted.set()
            if self._wanted.is_set():
                self._wanted.clear()
                until = min(until, max(time.monotonic(), began + _SOONEST_S))

    def _files(self) -> dict[str, object]:
        # The modification times of what a session writes when it gets ready, and when it ends.
        found: dict[str, object] = {}
        for name, session in list(self._sessions.items()):
            for path in (session.paths.connection, session.paths.stop):
                with contextlib.suppress(OSError):
                    found[str(path)] = path.stat().st_mtime_ns
            if (status := self.seen.get(name)) is not None and status.status.state != READY:
                with contextlib.suppress(OSError):
                    found[name] = session.paths.status.stat().st_mtime_ns
        return found

    # -- in the thread

    def _look(self) -> None:
        began = time.time()
        self._list()
        sessions = list(self._sessions.values())
        trouble: list[SchedulerError] = []
        try:
            found = statuses(sessions, trouble.append)
        except SessionError:  # the directory of one has just gone
            self._listed = 0.0
            self._list()
            sessions = list(self._sessions.values())
            found = statuses(sessions, trouble.append)
        seen: dict[str, Sighted] = {}
        for session, status in zip(sessions, found, strict=True):
            if status.ended and status.final:
                self._over.add(session.id)
                del self._sessions[session.id]
                self._end(Sighted(session, status))
            else:
                seen[session.id] = self._sighted(session, status)
        for name in self._ways.keys() - {name for name, one in seen.items() if one.connection is not None}:
            self._ways.pop(name).ways.close()
        if not self.far:
            self._marks = self._files()
        self.seen, self.looked_at = seen, began
        self._say(str(trouble[0]) if trouble else None)

    def _end(self, sighted: Sighted) -> None:
        self.ended[sighted.id] = sighted
        if len(self.ended) > _ENDED_KEPT:
            del self.ended[next(iter(self.ended))]

    def _list(self) -> None:
        while self._new:
            session = self._new.pop()
            self._sessions[session.id] = session
        if self.far:
            if time.monotonic() - self._listed >= _LISTED_S or not self._listed:
                listed = self.launcher.sessions()
                # What is over there when we first hear of it concerns nobody here: `statuses` tells.
                self._sessions = {s.id: s for s in listed if s.id not in self._over}
                self._listed = time.monotonic()
            return
        entries = {paths.root.name: paths for paths in registry.entries(self.launcher.folder)}
        for name in self._sessions.keys() - entries.keys():
            del self._sessions[name]
        self._over &= entries.keys()
        self._broken &= entries.keys()
        for name, paths in entries.items():
            if name in self._sessions or name in self._over:
                continue
            try:
                session = Session(paths)
            except SessionError as error:  # one broken file must not hide all the others; nor is its job over
                if name not in self._broken:
                    _LOG.warning("passed over: %s", error)
                self._broken.add(name)
                continue
            if session.plan.cluster.name != self.cluster or session.ended_before(time.time()):
                self._over.add(name)
            else:
                self._sessions[name] = session

    def _sighted(self, session: Session, status: Status) -> Sighted:
        if status.state not in (READY, UNHEALTHY):
            former = self.seen.get(session.id)
            if status.state == PENDING and former is not None and self._goes_on(former):
                return former
            return Sighted(session, status)
        self._waits.pop(session.id, None)
        known = self._ways.get(session.id)
        if self.far and known is not None and known.job_id == status.job_id and known.since == status.since:
            connection: Connection | None = known.connection  # asking costs a program there
        else:
            connection = session.connection
        if connection is None:
            return Sighted(session, status)
        if known is None:
            # A terminal belongs to whoever started the gateway, who may have left long ago: nothing is asked there.
            known = self._ways[session.id] = _Reached(Ways.of(session.plan.cluster))
        known.job_id, known.since = status.job_id, status.since
        doubted = session.id in self._doubted
        self._doubted.discard(session.id)
        try:
            return Sighted(session, status, connection, known.address(connection, doubted))
        except (LauncherError, OSError) as error:
            return Sighted(session, status, connection, None, str(error))

    def _goes_on(self, former: Sighted) -> bool:
        """Whether a session whose job is said to wait is still there and answers, as it did at the last look.

        A controller that starts again may take a job that runs for one that waits, until the node has told it.
        """
        since = self._waits.setdefault(former.id, time.monotonic())
        if former.address is None or time.monotonic() - since > _GOES_ON_S:
            return False
        target = str(former.address) if isinstance(former.address, Path) else former.address
        return former.session.connection == former.connection and answers(target, _ANSWERS_S)

    def _say(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            if trouble is None or self.trouble is None:
                self.trouble_since = time.time()
            self.trouble = trouble
            _LOG.warning("%s: %s", self.cluster, trouble or "answers again")


class _Reached:
    """The way to one session, kept while it stands."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.job_id: str | None = None
        self.since = 0.0
        self.connection: Connection | None = None
        self._way: Way | None = None
        self._address: Address | None = None

    def address(self, connection: Connection, doubted: bool) -> Address:
        if self._way is not None and self._address is not None and connection == self.connection:
            target = str(self._address) if isinstance(self._address, Path) else self._address
            if self._way.alive() and (not doubted or answers(target, _ANSWERS_S)):
                return self._address
        self.connection, self._address = connection, None
        self._way, found = self.ways.open(connection.host, connection.port)
        self._address = Path(found) if isinstance(found, str) else found
        return self._address


def sources(settings: Settings, tell: Callable[[Source], object]) -> dict[str, Source]:
    """A source for each cluster of the settings, by its name."""
    return {name: Source(Launcher(settings, cluster=name), name, tell) for name in settings.clusters}

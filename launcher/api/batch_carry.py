"""Carrying a batch run: with a session or an address from here, inside a job of its own, or watching such a job.

Owns the way from an end to the next attempt; what is sent is `launcher.batch`'s.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from launcher.api.batch_runs import BatchRun, lives
from launcher.api.launcher import Launcher
from launcher.api.session import Session
from launcher.batch.report import ACTIVE, CANCELLED, OVER, STOPPED, WAITING, Show, Status
from launcher.batch.run import Run
from launcher.batch.texts import Texts
from launcher.batch.window import Answer
from launcher.batch.work import Work
from launcher.errors import EngineError, LauncherError, RequestError, SessionError
from launcher.sessions.connection import Connection
from launcher.sessions.job import write_job_id
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED
from launcher.sessions.status import Status as SessionStatus

_LOOK_S = 0.5
_SETTLES_S = 5.0
_WANTED = ("user", "cancelled")
# Ends of a job that brought nothing which the next one need not have.
_PASSING = ("time-limit", "node-fail", "preempted", "boot-fail", "lost", "job-exit", "never-started")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Begun:
    """So many lines are `left` and so many wrong (`faults`); `session` carries them, where there is something to do.

    `new`: it was submitted now.
    """

    left: int
    faults: int
    session: Session | None
    new: bool = False


def begun(batch: BatchRun) -> Begun:
    """Check the input here, so that what is wrong is told before a job waits for hours, and submit its job.

    Raises what Work raises, and what submitting raises.
    """
    session = batch.session
    if session is not None and lives(session, session.status()):
        return Begun(0, 0, session)
    with Work(batch.run) as work:
        left, faults, sends = work.left, work.faults, work.settled() is None
        if sends:
            work.keep(STOPPED, "Its job was not submitted yet.", "waiting")
    return Begun(left, faults, batch.start() if sends else None, sends)


async def carry(
    batch: BatchRun,
    *,
    key: str | None = None,
    stop: asyncio.Event | None = None,
    show: Show | None = None,
    starting: Callable[[SessionStatus], None] | None = None,
) -> Status:
    """Send from here what is left, to the session or the address of `batch`; how that ended.

    `stop` set: it ends within seconds. Raises what `Work` raises, and SessionError where the session is over.
    """
    means, stop = batch.means, stop or asyncio.Event()
    work = await asyncio.to_thread(Work, batch.run)
    with work:
        answered = await asyncio.to_thread(_keeper, batch.run)
        if (over := work.settled()) is not None:
            return over
        if means.url is not None:
            return await work.send(means.url, key, show, stop=stop, tell=answered)
        assert means.session is not None
        session, refused = batch.launcher.session(means.session), ""
        while True:
            work.keep(WAITING, f"Session {session.id} does not answer yet.")
            connection = await asyncio.to_thread(_ready, session, stop, batch.run.cancel_path, starting)
            if connection is None:
                cancelled = batch.run.cancel_path.exists()
                return work.keep(CANCELLED) if cancelled else work.keep(STOPPED, "It was stopped.", "stopped")
            resources = session.plan.resources
            work.pace.pay(session.id, resources.gpus * resources.nodes, None)
            status = await work.send(
                connection.base_url, connection.key, show, stop=stop, tell=answered,
                gone=functools.partial(_gone, session, connection), ends_at=_Ends(session.paths),
            )  # fmt: skip
            if status.code not in ("session-over", "denied") or connection.key == refused:
                return status
            refused = connection.key if status.code == "denied" else ""
            if (await asyncio.to_thread(session.status)).ended:
                return status
            stop.clear()


def through(
    batch: BatchRun, *, wait: bool = True, key: str | None = None, show: Show | None = None
) -> Status:
    """Carry `batch` to its end, from here or by watching its job; without `wait` only submit that."""
    if batch.means.own:
        begun(batch)
        return follow(batch, show=show) if wait else batch.status()
    if not wait:
        raise RequestError("Only a job of its own goes on by itself.", "Wait for it, or name a model.")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(carry(batch, key=key, show=show))
    with ThreadPoolExecutor(1) as apart:  # a notebook has a loop of its own
        return apart.submit(lambda: asyncio.run(carry(batch, key=key, show=show))).result()


async def through_async(
    batch: BatchRun, *, wait: bool = True, key: str | None = None, show: Show | None = None
) -> Status:
    """The same for asyncio; cancelled, it drops what is in flight, and a job of its own goes on."""
    if not batch.means.own:
        return await carry(batch, key=key, show=show)
    await asyncio.to_thread(begun, batch)
    seen = looks(batch)
    while wait and (status := await asyncio.to_thread(next, seen, None)) is not None:
        if show is not None and status.state in ACTIVE - {WAITING}:
            show(status)
        if status.state in OVER:
            return status
        await asyncio.sleep(_LOOK_S)
    return await asyncio.to_thread(batch.status)


async def inside(root: Path, gateway: str, began: float, stop: asyncio.Event) -> Status:
    """Carry the run for which the session in `root` was started, from within its job; `gateway` is its address here."""
    paths = SessionPaths(root)
    plan = Plan.read(paths.plan)
    if plan.batch is None:
        raise SessionError(f"Session {plan.id} was not started for a batch run.")
    work = await asyncio.to_thread(Work, Run(Path(plan.batch)), fresh=False)
    with work:
        work.pace.pay(plan.id, plan.resources.gpus * plan.resources.nodes, began)
        key = paths.key.read_text(encoding="utf-8").strip()
        # Whether the engine comes back is the supervisor's to decide, which ends this program then.
        answered = await asyncio.to_thread(_keeper, work.run)
        return await work.send(
            gateway, key, stop=stop, drain_s=2.0, gone=lambda: None, ends_at=_Ends(paths), tell=answered
        )


def follow(batch: BatchRun, *, show: Show | None = None, tell: Tell = lambda sentence: None) -> Status:
    """Watch a run that has jobs of its own until it is over; submits the next where one ended without that.

    Raises EngineError where its model does not start, and SessionError where three jobs in a row brought nothing.
    """
    for status in looks(batch, tell):
        if show is not None and status.state in ACTIVE - {WAITING}:
            show(status)
        if status.state in OVER:
            return status
        time.sleep(_LOOK_S)
    return batch.status()


def looks(batch: BatchRun, tell: Tell = lambda sentence: None) -> Iterator[Status]:
    """The status again and again, until the user has ended the job; between two looks one should pause."""
    told = ""
    while True:
        status = batch.status()
        if status.state == WAITING and status.message != told:
            told = status.message
            tell(f"Session {status.session}: {told}")
        if status.state == STOPPED and _over(batch):
            session = batch.session
            ended = session.status() if session is not None else None
            if ended is not None and ended.reason in _WANTED:
                return
            if (
                ended is not None
                and ended.state == FAILED
                and ended.reason not in _PASSING
                and not batch.brought
            ):
                raise EngineError(
                    ended.message, ended.hint, ended.reason, quote=ended.quote, log=ended.log
                )  # the next start would end the same way
            why = ended.message if ended is not None else status.message
            if (following := batch.again()) is None:
                raise SessionError(
                    f"Three sessions in a row brought no answer. {why}",
                    f"See: launcher logs {batch.sessions[-1]}",
                )
            tell(f"{why} Session {following.id} goes on.")
        yield status


def go_on(root: Path) -> Session | None:
    """Submit the job after that of the session in `root`, which is about to end."""
    paths = SessionPaths(root)
    plan = Plan.read(paths.plan)
    if plan.batch is None:
        return None
    session = BatchRun(Launcher.of(plan.places), Run(Path(plan.batch))).go_on(plan)
    if session is not None and session.job_id is not None:
        write_job_id(paths.next, session.job_id)
    return session


def key_of(path: str | None) -> str | None:
    """The key for an address: in the file `path`, or in LAUNCHER_API_KEY or OPENAI_API_KEY."""
    if path is None:
        return os.environ.get("LAUNCHER_API_KEY") or os.environ.get("OPENAI_API_KEY") or None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or "") if isinstance(error, OSError) else "it is no text"
        raise RequestError(
            f"{path} cannot be read: {why}.", "Name a file that holds the key alone."
        ) from error
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        raise RequestError(f"{path} holds no key.", "Name a file that holds the key alone.")
    return text


class _Ends:
    """When the session ends, read again now and then: an admin may move it, a preemption too."""

    def __init__(self, paths: SessionPaths) -> None:
        self._paths, self._read_at = paths, -_SETTLES_S
        self._ends_at: float | None = None

    def __call__(self) -> float | None:
        now = time.monotonic()
        if now - self._read_at > _SETTLES_S:
            self._read_at = now
            connection = Connection.read(self._paths.connection)
            self._ends_at = None if connection is None else connection.ends_at
        return self._ends_at


def _keeper(run: Run) -> Callable[[Answer], None] | None:
    """What else becomes of an answer: of a folder's text, a file."""
    texts = Texts.read(run.folder / "texts.json")
    return None if texts is None else texts.keeper()


def _ready(
    session: Session, stop: asyncio.Event, cancel: Path, starting: Callable[[SessionStatus], None] | None
) -> Connection | None:
    """A connection to the session once it is ready; None when it is to end before."""
    from launcher.api.waiting import PAUSE_S, until_ready

    steps = until_ready([session], None)
    while not (stop.is_set() or cancel.exists()):
        try:
            step = next(steps)
        except StopIteration as end:
            (connection,) = end.value
            return connection if isinstance(connection, Connection) else None
        if step is None:
            time.sleep(PAUSE_S)
        elif starting is not None:
            starting(step[1])
    return None


def _gone(session: Session, connection: Connection) -> str | None:
    """Why nothing more comes from where `connection` leads."""
    try:
        status = session.status()
    except LauncherError:
        return None  # the scheduler restarts
    if status.ended:
        return f"Session {session.id} is over. {status.message}"
    now = session.connection
    if now is not None and (now.port, now.key) != (connection.port, connection.key):
        return f"Session {session.id} was started again."
    return None


def _over(batch: BatchRun) -> bool:
    """Whether the latest job is over for good, so that nobody in it can submit the next any more."""
    session = batch.session
    if session is None:
        return True
    if lives(session, session.status()):
        return False
    job_id = session.job_id
    try:
        return job_id is None or not session.job_lives(job_id)
    except LauncherError:
        return False

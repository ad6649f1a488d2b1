"""The same for asyncio: `AsyncLauncher` and `AsyncSession`, whose methods are coroutines.

Owns the way into an event loop and nothing else: what a method does is in `Launcher` and `Session`. What blocks runs in
a thread; a wait can be cancelled between two looks, and a cancelled launch leaves no session behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from launcher.api.keys import FurtherKeys
from launcher.api.launcher import Launcher
from launcher.api.session import Session
from launcher.api.waiting import PAUSE_S, Step, Steps, until_ready
from launcher.errors import LauncherError
from launcher.sessions.connection import Connection
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from launcher.api.batch_runs import BatchRun
    from launcher.api.catalog import Offered, Setup
    from launcher.api.cleanup import Removal
    from launcher.api.environments import Held
    from launcher.api.metrics import Metrics
    from launcher.api.record import Record
    from launcher.api.tunnel.tunnel import Tunnel
    from launcher.batch.report import Status as BatchStatus
    from launcher.settings.schema import Settings

T = TypeVar("T")


class AsyncSession:
    """One session; as an asynchronous context manager it is stopped on leaving the block.

    `session` is the same one for those who may block; what costs no time (`id`, `plan`, `paths`) is here too.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def plan(self) -> Plan:
        return self.session.plan

    @property
    def job_id(self) -> str | None:
        """The job that carries the session; None until it is known."""
        return self.session.job_id

    @property
    def connection(self) -> Connection | None:
        """How to reach it; None unless it is ready."""
        return self.session.connection

    @property
    def keys(self) -> FurtherKeys:
        """Its further keys, beside its own; each change is a small file."""
        return self.session.keys

    async def status(self) -> Status:
        """The state now."""
        return await asyncio.to_thread(self.session.status)

    async def refresh(self) -> Status:
        """The same as `status`, for those who come from Blackfish."""
        return await self.status()

    async def wait(
        self,
        timeout_s: float | None = None,
        progress: Callable[[Status], Awaitable[object] | object] | None = None,
    ) -> Connection:
        """Wait until it is ready, as `Session.wait`; `progress` may be a coroutine function."""

        async def tell(_: Session, status: Status) -> None:
            await _told(progress, status)

        (connection,) = await _run(until_ready([self.session], timeout_s), tell)
        return connection

    async def stop(self, *, wait: bool = True) -> Status:
        """End the session; harmless when it is over. Cancelled while it waits, the end is asked for all the same."""
        return await asyncio.to_thread(self.session.stop, wait=wait)

    async def delete(self) -> None:
        """Remove its directory, as `Session.delete`."""
        await asyncio.to_thread(self.session.delete)

    async def metrics(self) -> Metrics:
        """What it has done and does now, as `Session.metrics`."""
        return await asyncio.to_thread(self.session.metrics)

    async def details(self) -> dict[str, Any]:
        """Everything that is known of it, as `Session.details`."""
        return await asyncio.to_thread(self.session.details)

    async def connect(self, **options: Any) -> Tunnel:
        """A port of this machine that leads to it, as `Session.connect`; close it, or use it as a context manager."""
        return await asyncio.to_thread(self.session.connect, **options)

    async def async_openai(self, **options: Any) -> AsyncOpenAI:
        """An OpenAI client for asyncio; raises SessionError unless the session is ready."""
        return await asyncio.to_thread(self.session.async_openai, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        except (LauncherError, OSError) as trouble:
            if error is None:
                raise
            print(f"launcher: {trouble}", file=sys.stderr)  # the error in the block matters more

    def __repr__(self) -> str:
        return f"<AsyncSession {self.id}>"


class AsyncLauncher:
    """`Launcher` with coroutines; `launcher` is the same one for those who may block."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cluster: str | None = None,
        auto_cleanup: bool | None = None,
    ) -> None:
        self.launcher = Launcher(settings, cluster=cluster, auto_cleanup=auto_cleanup)

    @property
    def settings(self) -> Settings:
        """The joined settings; raises SettingsError when a file is wrong."""
        return self.launcher.settings

    @property
    def folder(self) -> Path:
        """Where the sessions are kept."""
        return self.launcher.folder

    async def plan(self, model: str, **wanted: Any) -> Plan:
        """The plan for `model`; writes nothing."""
        return await asyncio.to_thread(self.launcher.plan, model, **wanted)

    async def launch(self, model: str, **wanted: Any) -> AsyncSession:
        """Submit a session of `model`; cancelled meanwhile, it is stopped again."""
        (session,) = await self._launched(lambda: [self.launcher.launch(model, **wanted)])
        return session

    async def batch_launch(self, *arguments: Any, **options: Any) -> list[AsyncSession]:
        """Several as one job, all or none; cancelled meanwhile, all are stopped again."""
        return await self._launched(lambda: self.launcher.batch_launch(*arguments, **options))

    async def batch_run(
        self,
        input: str | Path,  # noqa: A002 - OpenAI's word for it
        output: str | Path | None = None,
        *,
        wait: bool = True,
        key: str | None = None,
        show: Callable[[BatchStatus], None] | None = None,
        **wanted: Any,
    ) -> BatchRun:
        """Answer each line of a file once, as `Launcher.batch_run`; cancelled, the same call goes on with the rest."""
        from launcher.api.batch_carry import through_async
        from launcher.api.batch_runs import begin

        batch = await asyncio.to_thread(begin, self.launcher, input, output, **wanted)
        await through_async(batch, wait=wait, key=key, show=show)
        return batch

    async def batch_runs(self) -> list[BatchRun]:
        """All batch runs of mine, the oldest first."""
        return await asyncio.to_thread(self.launcher.batch_runs)

    async def session(self, wanted: str) -> AsyncSession:
        """The session with this id (or the beginning of one), job id, or directory."""
        return AsyncSession(await asyncio.to_thread(self.launcher.session, wanted))

    async def members(self, wanted: str) -> list[AsyncSession]:
        """The sessions of one batch, as `Launcher.members`."""
        return [AsyncSession(session) for session in await asyncio.to_thread(self.launcher.members, wanted)]

    async def sessions(self) -> list[AsyncSession]:
        """All sessions, the oldest first."""
        return [AsyncSession(session) for session in await asyncio.to_thread(self.launcher.sessions)]

    async def statuses(self, sessions: Sequence[AsyncSession]) -> list[Status]:
        """The status of each session, with one call for each scheduler however many sessions there are."""
        return await asyncio.to_thread(self.launcher.statuses, [each.session for each in sessions])

    async def wait_all(
        self,
        sessions: Sequence[AsyncSession],
        timeout_s: float | None = None,
        progress: Callable[[AsyncSession, Status], Awaitable[object] | object] | None = None,
    ) -> list[Connection]:
        """Wait until all are ready, as `Launcher.wait_all`."""
        ours = {each.id: each for each in sessions}

        async def tell(session: Session, status: Status) -> None:
            await _told(progress, ours[session.id], status)

        return await _run(until_ready([each.session for each in sessions], timeout_s), tell)

    async def catalog(self) -> list[Offered]:
        """The models that the site offers, by type; each says whether it can be started now."""
        return await asyncio.to_thread(self.launcher.catalog)

    async def setup(self, model: str) -> Setup:
        """What a session of `model` gets when nothing is asked for."""
        return await asyncio.to_thread(self.launcher.setup, model)

    async def environments(self) -> list[Held]:
        """Where the engines' programs come from, with their versions, and what is missing."""
        return await asyncio.to_thread(self.launcher.environments)

    async def cleanup(self, *ids: str, dry_run: bool = False, **wanted: Any) -> list[Removal]:
        """Remove the files of sessions that are over, as `Launcher.cleanup`."""
        return await asyncio.to_thread(self.launcher.cleanup, *ids, dry_run=dry_run, **wanted)

    async def record(self, wanted: str) -> Record:
        """The record of a session, or the one in a file."""
        return await asyncio.to_thread(self.launcher.record, wanted)

    async def rerun(self, wanted: str, **changed: Any) -> AsyncSession:
        """Start again what the record says, as `Launcher.rerun`; cancelled meanwhile, it is stopped again."""
        (session,) = await self._launched(lambda: [self.launcher.rerun(wanted, **changed)])
        return session

    async def stop_launched(self) -> None:
        """End every session that this launcher launched."""
        await asyncio.to_thread(self.launcher.stop_launched)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.launcher.__exit__, kind, error, trace)

    async def _launched(self, launch: Callable[[], list[Session]]) -> list[AsyncSession]:
        # No task: asyncio.run cancels all of those at its end, and what was launched would be lost.
        loop = asyncio.get_running_loop()
        submitting = loop.run_in_executor(None, launch)
        try:
            return [AsyncSession(session) for session in await asyncio.shield(submitting)]
        except asyncio.CancelledError:
            # sbatch cannot be called back halfway: its job would run for hours, and nobody here would know it.
            try:
                await _whole(loop.run_in_executor(None, _ended, await _whole(submitting)))
            except (LauncherError, OSError) as trouble:
                print(f"launcher: {trouble}", file=sys.stderr)  # that it was cancelled matters more
            raise


async def _whole(work: asyncio.Future[T]) -> T:
    """What `work`, in a thread, returns, however often whoever waits for it is cancelled meanwhile."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])  # which, cancelled, does not cancel `work`
    return work.result()


def _ended(launched: Sequence[Session]) -> None:
    for session in launched:  # one that resists does not keep the others
        try:
            session.stop(wait=False)
        except (LauncherError, OSError) as trouble:
            print(f"launcher: {trouble}", file=sys.stderr)


async def _run(steps: Steps[T], tell: Callable[[Session, Status], Awaitable[object]] | None = None) -> T:
    while True:
        step, result = await asyncio.to_thread(_next, steps)
        if result is not None:
            return result[0]
        if step is None:
            await asyncio.sleep(PAUSE_S)
        elif tell is not None:
            await tell(*step)


def _next(steps: Steps[T]) -> tuple[Step, tuple[T] | None]:
    # StopIteration cannot leave a thread through a future.
    try:
        return next(steps), None
    except StopIteration as end:
        return None, (end.value,)


async def _told(progress: Callable[..., Awaitable[object] | object] | None, *told: object) -> None:
    if progress is not None and inspect.isawaitable(answer := progress(*told)):
        await answer

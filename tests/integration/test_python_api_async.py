"""The Python API for asyncio, on real sessions: the loop goes on, and what is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TypeAlias

import pytest

from launcher import AsyncLauncher, AsyncSession, Launcher, Session, Status
from launcher.errors import EngineError, SessionError
from launcher.schedulers import local
from launcher.settings.layers import load
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)
SLOW = ("--start-delay-s", "60")


async def test_two_sessions_are_launched_and_asked_at_once(launcher: Launcher) -> None:
    """Blackfish 15: launch, wait, refresh, ask and stop with asyncio."""
    async with AsyncLauncher(load()) as ours:
        first, second = await asyncio.gather(ours.launch("simulated"), ours.launch("simulated"))
        told: list[tuple[str, str]] = []

        async def progress(session: AsyncSession, status: Status) -> None:
            told.append((session.id, status.state))

        connections = await ours.wait_all([first, second], 60, progress)
        assert [connection.id for connection in connections] == [first.id, second.id]
        assert {(first.id, "READY"), (second.id, "READY")} <= set(told)
        assert (await first.refresh()).state == "READY"
        answers = await asyncio.gather(_ask(first), _ask(second))
        assert all("Simulated answer" in answer for answer in answers)
        assert [each.id for each in await ours.sessions()] == sorted(
            [first.id, second.id], key=[session.id for session in launcher.sessions()].index
        )
        assert (await (await ours.session(second.id)).stop()).reason == "user"
        await second.delete()
    assert (await first.status()).reason == "user"
    assert [session.id for session in launcher.sessions()] == [first.id]


async def _ask(session: AsyncSession) -> str:
    async with await session.async_openai() as client:
        answer = await client.chat.completions.create(
            model="simulated", messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content or ""


async def test_a_mishap_in_the_block_stops_the_session_while_the_loop_goes_on(launcher: Launcher) -> None:
    """Blackfish 15: others have their turn while it is waited for."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    async def mishap(session: AsyncSession) -> None:
        async with session:
            await session.wait(progress=lambda status: None)
            raise ZeroDivisionError

    session = await AsyncLauncher(load()).launch("simulated")
    beside = asyncio.create_task(others())
    with pytest.raises(ZeroDivisionError):
        await mishap(session)
    beside.cancel()
    assert (await session.status()).reason == "user"
    assert turns > 100


async def test_a_wait_that_is_cancelled_leaves_the_session(launcher: Launcher) -> None:
    """Blackfish 15: giving up the waiting is no stop."""
    session = await AsyncLauncher(load()).launch("simulated", engine_args=SLOW)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await session.wait()
    assert not (await session.status()).ended
    with pytest.raises(SessionError, match="is not ready after"):
        await session.wait(0.1)
    with pytest.raises(SessionError, match="not removed"):
        await session.delete()
    await session.stop()


Launching: TypeAlias = "list[asyncio.Task[AsyncSession]]"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launching:
    """Tasks whose job is only submitted when they are being cancelled: else a slow loop would come too late."""
    tasks: Launching = []
    submit = local.submit

    def late(script: Path) -> str:
        wait_until(lambda: any(task.cancelling() for task in tasks))
        return submit(script)

    monkeypatch.setattr(local, "submit", late)
    return tasks


async def begun(launcher: Launcher, launches: Launching) -> asyncio.Task[AsyncSession]:
    """A launch whose session is there and whose job is not yet."""
    launching = asyncio.create_task(AsyncLauncher(load()).launch("simulated", engine_args=SLOW))
    launches.append(launching)
    while not launcher.sessions():
        await asyncio.sleep(0.01)
    return launching


async def test_a_launch_that_is_cancelled_leaves_no_session_running(
    launcher: Launcher, launches: Launching
) -> None:
    launching = await begun(launcher, launches)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    (session,) = launcher.sessions()
    assert session.stop().reason == "user"


async def test_a_launch_that_is_cancelled_again_and_again_leaves_no_session_running(
    launcher: Launcher, launches: Launching
) -> None:
    launching = await begun(launcher, launches)
    while not launching.done():  # while it is submitted, and while that is taken back
        launching.cancel()
        await asyncio.sleep(0.001)
    assert launching.cancelled()
    (session,) = launcher.sessions()
    wait_until(lambda: session.status().ended)
    assert session.status().reason == "user"


def test_a_launch_that_the_end_of_the_loop_cancels_leaves_no_session_running(
    launcher: Launcher, launches: Launching
) -> None:
    async def leave() -> asyncio.Task[AsyncSession]:
        launching = asyncio.create_task(AsyncLauncher(load()).launch("simulated", engine_args=SLOW))
        launches.append(launching)
        while not launcher.sessions():
            await asyncio.sleep(0.01)
        return launching

    assert asyncio.run(leave()).cancelled()
    (session,) = launcher.sessions()
    wait_until(lambda: session.status().ended)


async def test_a_failure_is_raised_with_its_reason(launcher: Launcher) -> None:
    """vec-inf 11: also where nobody blocks."""
    session = await AsyncLauncher(load()).launch("simulated", engine_args=("--fail-at", "start"))
    with pytest.raises(EngineError) as caught:
        await session.wait()
    assert caught.value.reason == "engine-exit"


@pytest.mark.parametrize(("blocking", "own"), [(Launcher, AsyncLauncher), (Session, AsyncSession)])
def test_every_method_is_there_for_asyncio_too(blocking: type, own: type) -> None:
    """Blackfish 15: the asynchronous classes have the same public names, with the same arguments by name."""
    left_out = {
        "openai", "scheduler", "status_from", "keep", "job_lives", "needs_scheduler", "ended_before", "ready", "of",
        "submit", "make", "within_limits",
    }  # fmt: skip
    for name, member in vars(blocking).items():
        if name.startswith("_") or name in left_out:
            continue
        assert hasattr(own, name), f"{own.__name__}.{name} is missing"
        if inspect.isfunction(member):
            assert inspect.iscoroutinefunction(getattr(own, name)), name

"""A start that goes wrong in the middle: the slot is free where there is surely no job, and kept where there may be."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.api.launcher import Launcher, write_session
from launcher.api.remote.far import LostError
from launcher.errors import SchedulerError, StorageError
from launcher.fleet import missing
from launcher.fleet.life import Life
from launcher.fleet.scene import Offer, Start, Where
from launcher.fleet.starts import Started, Starts
from launcher.fleet.store import Store
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.settings import without_site

OFFER = Offer("sim", "simulated", (Where("local", "local"),))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(without_site(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(f"sqlite:///{tmp_path}/state/endpoint.db")) as store:
        yield store


class Ending:
    """What a submitted session can be asked: to end."""

    id = "sim-1"
    stopped = False

    def stop(self, *, wait: bool) -> None:
        self.stopped = not wait


def started(settings: Settings, store: Store, launcher: Any) -> Started:
    """One start of slot 0 by gateway "a", whose cluster's launcher is `launcher`."""
    source: Any = SimpleNamespace(launcher=launcher, add=lambda session: None)
    starts = Starts(settings, store, "a", {"local": source})
    assert store.claim("sim", 0, "a", 60.0)
    try:
        return asyncio.run(starts.start(OFFER, 0, Start("local", "local", "asked for")))
    finally:
        starts.close()


def here(submit: Callable[[Any], Any]) -> Any:
    return SimpleNamespace(plan=lambda *_, **__: SimpleNamespace(id="sim-1"), submit=submit)


@pytest.mark.parametrize("error", [SchedulerError("sbatch: no."), OSError(28, "full"), KeyError("a bug")])
def test_a_slot_is_free_after_a_start_that_failed(settings: Settings, store: Store, error: Exception) -> None:
    def submit(_: Any) -> None:
        raise error

    assert started(settings, store, here(submit)).trouble is error
    assert store.replicas() == []


def test_a_far_start_whose_connection_broke_keeps_its_slot_as_it_may_have_been_done(
    settings: Settings, store: Store
) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise LostError("The connection was lost.")

    assert isinstance(started(settings, store, SimpleNamespace(far=None, launch=launch)).trouble, LostError)
    (row,) = store.replicas()
    assert row.session is not None
    assert not store.claim("sim", 0, "a", 60.0)


def test_a_job_keeps_its_slot_while_the_state_is_away(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = Ending()
    answers = store.replicas
    away = [StorageError("The database does not answer.")] * 2

    def replicas() -> Any:
        if away:
            raise away.pop()
        return answers()

    monkeypatch.setattr("launcher.fleet.starts._AGAIN_S", 0.01)
    monkeypatch.setattr(store, "replicas", replicas)
    found: Any = started(settings, store, here(lambda _: session)).session
    assert found is session
    assert away == []
    assert [row.session for row in answers()] == ["sim-1"]
    assert not session.stopped


@pytest.mark.parametrize(("sessions", "together"), [(None, True), (9, False)])
def test_a_slow_submission_holds_up_no_other_one_unless_sessions_are_counted(
    settings: Settings, store: Store, sessions: int | None, together: bool
) -> None:
    settings = dataclasses.replace(settings, limits=dataclasses.replace(settings.limits, sessions=sessions))
    both, running, most = threading.Barrier(2), [0], [0]

    def submit(plan: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        if together:
            both.wait(60)  # until the other one is being submitted, too
        running[0] -= 1
        return SimpleNamespace(id=plan.id)

    ids = iter(("sim-1", "sim-2"))
    launcher = SimpleNamespace(plan=lambda *_, **__: SimpleNamespace(id=next(ids)), submit=submit)
    source: Any = SimpleNamespace(launcher=launcher, add=lambda session: None)
    starts = Starts(settings, store, "a", {"local": source})
    assert all(store.claim("sim", slot, "a", 60.0) for slot in (0, 1))

    async def two() -> list[Started]:
        start = Start("local", "local", "asked for")
        return await asyncio.gather(*(starts.start(OFFER, slot, start) for slot in (0, 1)))

    done = asyncio.run(two())
    starts.close()
    assert sorted(one.session.id for one in done if one.session is not None) == ["sim-1", "sim-2"]
    assert most[0] == (2 if together else 1)


def test_a_job_that_came_too_late_is_ended(settings: Settings, store: Store) -> None:
    session = Ending()

    def submit(_: Any) -> Ending:
        store.release("sim", 0, "sim-1")  # as another gateway does that has waited long enough
        return session

    assert started(settings, store, here(submit)).lost
    assert session.stopped


def test_what_a_killed_gateway_never_submitted_leaves_neither_slot_nor_session(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Launcher(settings)
    plan = launcher.plan("simulated")
    write_session(plan, launcher.make(plan))
    assert store.claim("sim", 0, "dead", 60.0)
    assert store.planned("sim", 0, "dead", plan.id, "local", "local")
    store.gone("dead")
    monkeypatch.setattr(missing, "_UNSUBMITTED_S", 0.0)

    async def until_free() -> None:
        one = Life(settings, store, "http://127.0.0.1:1")
        running = asyncio.create_task(one.run())
        try:
            async with asyncio.timeout(30):
                while await asyncio.to_thread(store.replicas):
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await one.close()

    asyncio.run(until_free())
    assert launcher.sessions() == []

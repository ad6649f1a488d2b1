"""What former starts and the last minutes teach: leads that hold, pauses that grow, one retrying client that is one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.fleet.capacity import starts_at_once
from launcher.fleet.learnt import UNKNOWN_QUEUE_S, UNKNOWN_START_S, Lead, Learnt, high
from launcher.fleet.load import Load
from launcher.planning import Request, make_plan
from launcher.schedulers.supply import Room, Supply
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED, READY, SHUTDOWN, Phase, Status
from launcher.settings.layers import load
from launcher.settings.schema import Profile
from tests.hostile import HOSTILE

NOW = 1_000_000.0


# ---- leads


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_what_is_expected_covers_nine_of_ten(samples: list[float]) -> None:
    expected = high(samples)
    assert sum(sample <= expected for sample in samples) >= 0.9 * len(samples)
    assert expected <= 2 * max(samples)


def test_what_is_not_known_is_as_elsewhere() -> None:
    learnt = Learnt()
    assert learnt.lead("chat", "here", "gpu") == Lead(UNKNOWN_QUEUE_S, UNKNOWN_START_S)
    for _ in range(40):
        learnt.started("chat", "here", "gpu", 100, 40)
    assert learnt.lead("chat", "here", "gpu").total_s == pytest.approx(140 * 1.025)
    assert learnt.lead("chat", "here", "big").queue_s == pytest.approx(102.5), "the cluster's other queue"
    assert learnt.lead("chat", "there", "big").start_s == pytest.approx(41), "its start elsewhere"
    assert learnt.lead("chat", "there", "big").queue_s == UNKNOWN_QUEUE_S
    assert learnt.lead("other", "here", "gpu").start_s == UNKNOWN_START_S


def test_old_news_is_forgotten() -> None:
    learnt = Learnt()
    for _ in range(40):
        learnt.started("chat", "here", "gpu", 9000, 40)
    for _ in range(40):
        learnt.started("chat", "here", "gpu", 10, 40)
    assert learnt.lead("chat", "here", "gpu").queue_s < 11


@pytest.mark.parametrize("odd", [-1.0, float("inf"), float("nan"), 1e12])
def test_an_odd_clock_teaches_nothing(odd: float) -> None:
    learnt = Learnt()
    learnt.started("chat", "here", "gpu", odd, odd)
    assert learnt.lead("chat", "here", "gpu") == Lead(UNKNOWN_QUEUE_S, UNKNOWN_START_S)


# ---- failures


def test_failures_in_a_row_pause_for_longer_up_to_half_an_hour() -> None:
    learnt, pauses = Learnt(), []
    for _ in range(9):
        learnt.failed("chat", "here", "gpu", NOW)
        pauses.append(learnt.paused_until("chat", "here", "gpu") - NOW)
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert learnt.paused_until("chat", "there", "gpu") == 0
    assert learnt.paused_until("other", "here", "gpu") == 0
    learnt.started("chat", "here", "gpu", 1, 1)
    assert learnt.paused_until("chat", "here", "gpu") == 0
    learnt.failed("chat", "here", "gpu", NOW + 10_000)
    assert learnt.paused_until("chat", "here", "gpu") == NOW + 10_030, "hours later"


def test_a_clock_that_is_set_back_does_not_prolong_a_pause() -> None:
    learnt = Learnt()
    learnt.failed("chat", "here", "gpu", NOW)
    assert learnt.paused({"chat", "offer"}, "here", "gpu", NOW + 1)
    assert not learnt.paused({"offer"}, "here", "gpu", NOW + 1)
    assert not learnt.paused({"chat"}, "here", "gpu", NOW + 31)
    assert not learnt.paused({"chat"}, "here", "gpu", NOW - 86400)


# ---- from the files of sessions


@pytest.fixture
def plan() -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    return dataclasses.replace(made, created_at=NOW)


def started(plan: Plan, **given: Any) -> Status:
    phases = (Phase("weights", NOW + 100, 30.0), Phase("probe", NOW + 130, 10.0))
    return dataclasses.replace(
        Status(plan.id, READY, NOW + 140, "The model answers.", phases=phases), **given
    )


def lead_of(learnt: Learnt, plan: Plan, model: str | None = None) -> Lead:
    return learnt.lead(model or plan.model.id, plan.cluster.name, plan.resources.profile)


def test_a_session_that_answered_tells_its_wait_and_its_start(plan: Plan) -> None:
    over, learnt = Learnt(), Learnt()
    over.learn(plan, started(plan, state=SHUTDOWN, reason="idle"))
    learnt.learn(plan, started(plan))
    assert lead_of(over, plan) == lead_of(learnt, plan) == Lead(200.0, 80.0), "one sample counts double"
    learnt.learn(plan, started(plan), "an-alias")
    assert lead_of(learnt, plan, "an-alias") == Lead(150.0, 80.0)


def test_a_job_that_ran_twice_tells_no_wait_and_a_restarted_engine_no_start(plan: Plan) -> None:
    learnt = Learnt()
    learnt.learn(plan, started(plan, restarts=1))
    assert lead_of(learnt, plan) == Lead(UNKNOWN_QUEUE_S, 80.0)
    learnt = Learnt()
    learnt.learn(plan, started(plan, engine_restarts=1))
    assert lead_of(learnt, plan) == Lead(UNKNOWN_QUEUE_S, UNKNOWN_START_S)


@pytest.mark.parametrize(
    ("lasted_s", "answered", "pauses"),
    [(0, False, [30, 60, 120]), (60, True, [0, 30, 60]), (4000, True, [0, 0, 0])],
)
def test_a_start_that_fails_pauses_its_place_and_one_that_had_answered_is_repeated_at_once(
    plan: Plan, lasted_s: float, answered: bool, pauses: list[float]
) -> None:
    learnt, place = Learnt(), (plan.cluster.name, plan.resources.profile)
    end = started(plan, state=FAILED, reason="engine-exit", since=NOW + 140 + lasted_s)
    for pause in pauses:
        learnt.ended(plan, end, "an-alias", answered=answered)
        assert max(0.0, learnt.paused_until("an-alias", *place) - end.since) == pause
        learnt.started("an-alias", *place, 1, 1)
    later = dataclasses.replace(end, since=end.since + 10_000)
    learnt.ended(plan, later, "an-alias", answered=answered)
    assert learnt.paused(["an-alias"], *place, later.since + 1) == (not answered), "hours later"


def test_an_ordinary_end_pauses_nothing(plan: Plan) -> None:
    learnt = Learnt()
    learnt.ended(plan, started(plan, state=SHUTDOWN, reason="user"), plan.model.id, answered=False)
    assert learnt.paused_until(plan.model.id, plan.cluster.name, plan.resources.profile) == 0


def test_a_folder_of_sessions_is_read_whatever_lies_in_it(plan: Plan, tmp_path: Path) -> None:
    for number in range(3):
        paths = SessionPaths(tmp_path / f"good-{number}")
        paths.root.mkdir()
        paths.plan.write_text(plan.to_json())
        started(plan).write(paths.status)
    broken = ["", "{", "[]", "null", json.dumps({"schema": 99}), *(json.dumps(text) for text in HOSTILE)]
    for number, text in enumerate(broken):
        paths = SessionPaths(tmp_path / f"broken-{number}")
        paths.root.mkdir()
        paths.plan.write_text(text if number % 2 else plan.to_json())
        paths.status.write_text(text)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a file").write_text("x")
    assert lead_of(Learnt.read(tmp_path), plan).queue_s == pytest.approx(100 * 4 / 3)
    assert lead_of(Learnt.read(tmp_path), plan).start_s == pytest.approx(40 * 4 / 3)
    assert lead_of(Learnt.read(tmp_path / "nowhere"), plan) == Lead(UNKNOWN_QUEUE_S, UNKNOWN_START_S)


# ---- the load of the last minutes


def test_a_client_that_comes_back_when_told_counts_once() -> None:
    seen = Load(1800)
    for number in range(40):
        seen.asked(NOW + 5 * number)
        seen.refused(NOW + 5 * number, 5)
        assert seen.demand(NOW + 5 * number).waiting == 1
    assert seen.demand(NOW + 205).waiting == 0
    assert seen.demand(NOW + 205).last_asked_at == NOW + 195


def test_fifty_clients_that_are_refused_count_fifty() -> None:
    seen = Load(1800)
    for number in range(50):
        seen.refused(NOW + number / 100, 3600 if number % 2 else 10)
    assert seen.demand(NOW + 1).waiting == 50
    assert seen.demand(NOW + 15).waiting == 25, "a client is not waited for longer than a minute"
    assert seen.demand(NOW + 61).waiting == 0


def test_a_burst_is_remembered_as_busy_and_never_as_steady() -> None:
    seen = Load(1800)
    seen.changed(NOW, in_flight=2)
    seen.changed(NOW + 100, in_flight=90)
    assert seen.demand(NOW + 110).steady == 2
    seen.changed(NOW + 120, in_flight=3)
    demand = seen.demand(NOW + 150)
    assert (demand.in_flight, demand.steady, demand.busiest) == (3, 3, 90)
    assert seen.demand(NOW + 700).busiest == 90
    assert seen.demand(NOW + 800).busiest == 3


def test_a_load_that_lasts_is_steady_also_when_nothing_changes() -> None:
    seen = Load(1800)
    seen.changed(NOW, in_flight=40, held=2)
    assert seen.demand(NOW).steady == 0
    assert seen.demand(NOW + 29).steady == 0
    demand = seen.demand(NOW + 40)
    assert (demand.steady, demand.busiest, demand.load, demand.last_asked_at) == (42, 42, 42, NOW + 40)


def test_a_load_says_since_when_it_is_known() -> None:
    seen = Load(1800)
    assert seen.demand(NOW).watched_from == NOW
    seen.changed(NOW + 4000, in_flight=1)
    assert seen.demand(NOW + 5000).watched_from == NOW


def test_a_clock_that_is_set_back_takes_the_load_with_it() -> None:
    seen, back = Load(1800), NOW - 86400
    seen.changed(NOW, in_flight=40)
    seen.asked(NOW + 60)
    seen.refused(NOW + 60, 10)
    before = seen.demand(NOW + 61)
    after = seen.demand(back)
    for demand in (before, after):
        assert (demand.waiting, demand.steady, demand.busiest) == (1, 40, 41)
    assert after.last_asked_at == back
    assert after.watched_from == pytest.approx(back - 61)
    seen.changed(back, in_flight=0)
    later = seen.demand(back + 700)
    assert (later.waiting, later.load, later.steady) == (0, 0, 0)


def test_a_short_idle_limit_forgets_sooner() -> None:
    seen = Load(5)
    seen.changed(NOW, in_flight=40)
    seen.changed(NOW + 1, in_flight=0)
    assert seen.demand(NOW + 60).busiest == 0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.integers(0, 50)), max_size=50),
    st.sampled_from((0.0, 5.0, 1800.0)),
)
def test_the_bounds_of_any_load_are_in_order(steps: list[tuple[float, int, int]], idle_s: float) -> None:
    seen, now = Load(idle_s), NOW
    for pause_s, in_flight, held in steps:
        now += pause_s
        seen.changed(now, in_flight=in_flight, held=held)
        demand = seen.demand(now)
        assert demand.steady is not None
        assert demand.busiest is not None
        assert 0 <= demand.steady <= demand.load <= demand.busiest
        assert demand.load == in_flight + held


# ---- what is free


def supply(*room: Room, available: bool = True) -> Supply:
    return Supply("gpu", "a100", 0, 0, 0, 0, 0, 0, 0, 0, available, None, room=room)


@pytest.mark.parametrize(
    ("profile", "room", "count"),
    [
        (Profile("p", "c", gpus=2), [Room(4, 64, 500, None, 3)], 6),
        (Profile("p", "c", gpus=2), [Room(3, 64, 500, None, 2), Room(1, 64, 500, None, 9)], 2),
        (Profile("p", "c", gpus=1, cpus=16), [Room(4, 40, 500, None, 1)], 2),
        (Profile("p", "c", gpus=1, memory_gb=300), [Room(4, 64, 500, None, 1)], 1),
        (Profile("p", "c", cpus=8), [Room(0, 20, 500, None, 2)], 4),
        (Profile("p", "c", gpus=4, nodes=2), [Room(4, 64, 500, None, 5)], 2),
        (Profile("p", "c", gpus=1), [Room(4, 64, 500, NOW + 3600, 1)], 0),
        (Profile("p", "c", gpus=1), [Room(4, 64, 500, NOW + 9 * 3600, 1)], 4),
        (Profile("p", "c", gpus=1), [], 0),
        (Profile("p", "c", gpus=1, constraint="ib"), [Room(4, 64, 500, None, 1)], None),
    ],
)
def test_so_many_would_start_at_once(profile: Profile, room: list[Room], count: int | None) -> None:
    assert starts_at_once(profile, supply(*room), 8 * 3600, NOW) == count


def test_a_closed_partition_starts_none_and_an_unknown_one_is_not_known() -> None:
    profile = Profile("p", "c", gpus=1)
    assert starts_at_once(profile, supply(Room(4, 64, 500, None, 1), available=False), 3600, NOW) == 0
    assert starts_at_once(profile, None, 3600, NOW) is None

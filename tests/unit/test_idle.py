"""The idle clock: use renews it, a restart of the engine stops it without turning it back."""

from __future__ import annotations

import pytest

from launcher.gateway.usage import Usage
from launcher.serve.idle import IdleClock


@pytest.fixture
def usage() -> Usage:
    return Usage(last_activity=0.0)


def stops_at(clock: IdleClock, usage: Usage, now: float) -> float | None:
    idle = clock.reading(usage, now)
    return idle.stops_at if idle else None


def test_it_counts_from_the_first_answer_and_from_each_use(usage: Usage) -> None:
    clock = IdleClock(60)
    assert clock.reading(usage, 900) is None
    clock.go(1000)
    assert stops_at(clock, usage, 1010) == 1060
    usage.last_activity = 1030
    assert stops_at(clock, usage, 1040) == 1090
    usage.in_flight = 1
    assert stops_at(clock, usage, 1200) == 1260


def test_without_a_limit_there_is_no_countdown(usage: Usage) -> None:
    clock = IdleClock(0)
    clock.go(1000)
    assert clock.reading(usage, 9e9) is None


def test_a_restart_takes_nothing_from_the_time_that_is_left(usage: Usage) -> None:
    clock = IdleClock(60)
    clock.go(1000)
    clock.pause(usage, 1050)
    assert clock.reading(usage, 2000) is None
    clock.go(2000)
    assert stops_at(clock, usage, 2000) == 2010


def test_restart_after_restart_does_not_keep_an_unused_session(usage: Usage) -> None:
    clock = IdleClock(60)
    clock.go(1000)
    for now in (1020, 1120, 1220):  # 20 s of life, then 80 s of restart, again and again
        clock.pause(usage, now)
        clock.go(now + 80)
    assert stops_at(clock, usage, 1300) == 1300


def test_use_that_the_crash_broke_off_is_use(usage: Usage) -> None:
    clock = IdleClock(60)
    clock.go(1000)
    usage.in_flight = 1
    clock.pause(usage, 1055)
    usage.in_flight, usage.last_activity = 0, 1055.1
    clock.go(1100)
    assert stops_at(clock, usage, 1101) == 1160


def test_a_start_that_fails_before_an_answer_changes_nothing(usage: Usage) -> None:
    clock = IdleClock(60)
    clock.pause(usage, 1000)
    assert clock.reading(usage, 1000) is None

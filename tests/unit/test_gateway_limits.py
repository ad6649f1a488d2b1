"""Requests and tokens per minute, with a clock that goes when it is told to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.limits import Budget, Share


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one(clock: Clock) -> None:
    budget = Budget(3, None, clock)
    assert [budget.admit() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert budget.admit() == pytest.approx(20.0)
    clock.now += 15.0
    assert budget.admit() == pytest.approx(5.0), "a refused request costs nothing"
    clock.now += 5.0
    assert budget.admit() == 0.0
    assert budget.admit() == pytest.approx(20.0)


def test_unused_minutes_are_not_saved_up(clock: Clock) -> None:
    budget = Budget(2, None, clock)
    clock.now += 3600.0
    assert [budget.admit() == 0.0 for _ in range(3)] == [True, True, False]


def test_tokens_are_taken_afterwards_and_may_be_owed(clock: Clock) -> None:
    budget = Budget(None, 60, clock)
    assert budget.admit() == 0.0
    assert budget.admit() == 0.0, "two answers at the same time"
    budget.spend(50)
    assert budget.admit() == 0.0
    budget.spend(100)
    assert budget.admit() == pytest.approx(91.0)
    clock.now += 90.5
    assert budget.admit() > 0.0
    clock.now += 0.5
    assert budget.admit() == 0.0


def test_both_limits_hold(clock: Clock) -> None:
    budget = Budget(1, 60, clock)
    assert budget.admit() == 0.0
    budget.spend(150)
    assert budget.admit() == pytest.approx(91.0)
    clock.now += 60.0
    assert budget.admit() == pytest.approx(31.0)
    clock.now += 31.0
    assert budget.admit() == 0.0


def test_a_limit_on_tokens_alone_lets_any_number_of_small_requests_pass(clock: Clock) -> None:
    budget = Budget(None, 10, clock)
    for _ in range(1000):
        assert budget.admit() == 0.0
        budget.spend(0)


def test_a_clock_that_goes_back_gives_nothing(clock: Clock) -> None:
    budget = Budget(1, None, clock)
    assert budget.admit() == 0.0
    clock.now -= 1000.0
    assert budget.admit() == pytest.approx(60.0)


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.tuples(st.floats(0, 90), st.integers(0, 10**5)))
)
def test_waiting_as_long_as_told_is_always_enough(
    requests: int, tokens: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    budget = Budget(requests, tokens, clock)
    for pause_s, used in steps:
        clock.now += pause_s
        wait_s = budget.admit()
        assert wait_s >= 0.0
        if wait_s:
            clock.now += wait_s
            assert budget.admit() == 0.0
        budget.spend(used)


@given(st.integers(1, 50), st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_the_minutes_worth_and_what_has_filled_up(limit: int, pauses: list[float]) -> None:
    clock = Clock()
    budget = Budget(limit, None, clock)
    begun, admitted = clock.now, 0
    for pause_s in pauses:
        clock.now += pause_s
        admitted += budget.admit() == 0.0
        assert admitted <= limit + (clock.now - begun) * limit / 60.0 + 1e-3


def test_several_gateways_divide_a_limit_as_they_come_and_go(clock: Clock) -> None:
    share = Share()
    budget = Budget(6, None, clock, share)
    share.gateways = 2
    assert [budget.admit() == 0.0 for _ in range(4)] == [True, True, True, False]
    assert budget.admit() == pytest.approx(20.0)
    share.gateways = 1
    assert budget.admit() == pytest.approx(10.0)
    share.gateways = 10
    clock.now += 3600.0
    assert [budget.admit() == 0.0 for _ in range(2)] == [True, False], (
        "one goes through, however many there are"
    )
    assert budget.admit() == pytest.approx(100.0)


def test_what_did_not_go_on_is_given_back(clock: Clock) -> None:
    budget = Budget(1, None, clock)
    assert budget.admit() == 0.0
    budget.give_back()
    assert budget.admit() == 0.0
    assert budget.admit() > 0.0
    budget.give_back()
    budget.give_back()
    assert [budget.admit() == 0.0 for _ in range(2)] == [True, False]

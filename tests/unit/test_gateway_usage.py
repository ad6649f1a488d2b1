"""Counting requests by key: totals, statuses, durations, labels."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.usage import BOUNDS, OTHER, ROUTES, Histogram, Usage

CHAT_PATH = "/v1/chat/completions"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_counted_for_the_session_and_for_their_key() -> None:
    usage = Usage()
    first = usage.begin("session", CHAT_PATH)
    second = usage.begin("alice", CHAT_PATH)
    assert (usage.requests, usage.in_flight) == (2, 2)
    assert usage.keys["alice"].in_flight == 1
    first.end(200, (11, 7))
    second.end(404, (0, 0))
    assert (usage.requests, usage.errors, usage.in_flight) == (2, 1, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)
    told = usage.as_json()
    assert set(told["keys"]) == {"session", "alice"}
    alice = told["keys"]["alice"]
    assert (alice["requests"], alice["errors"], alice["prompt_tokens"], alice["in_flight"]) == (1, 1, 0, 0)
    assert set(alice) == set(told) - {"keys"}
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("ended", "error", "status"),
    [
        ({"status": 200}, 0, 200),
        ({"status": 400}, 1, 400),
        ({"status": 503}, 1, 503),
        ({"status": 200, "broken": True}, 1, 502),
        ({"status": 500, "broken": True}, 1, 500),
        ({"status": 499}, 0, 499),
        ({"status": 499, "broken": True}, 0, 499),
    ],
)
def test_what_counts_as_an_error(ended: dict[str, bool], error: int, status: int) -> None:
    usage = Usage()
    usage.begin("alice", CHAT_PATH).end(tokens=(0, 0), **ended)
    assert (usage.errors, usage.keys["alice"].errors) == (error, error)
    assert usage.keys["alice"].ended == {(CHAT_PATH, status): 1}


def test_only_the_first_end_counts() -> None:
    usage = Usage()
    call = usage.begin("alice", CHAT_PATH)
    call.end(200, (3, 4))
    call.end(502, (3, 4), broken=True)
    assert (usage.errors, usage.in_flight, usage.prompt_tokens) == (0, 0, 3)
    assert usage.keys["alice"].ended == {(CHAT_PATH, 200): 1}


def test_durations_are_from_the_beginning_to_the_first_byte_and_to_the_end() -> None:
    clock = Clock()
    usage = Usage(clock=clock)
    call = usage.begin("alice", CHAT_PATH)
    clock.now += 0.2
    call.first_byte()
    clock.now += 4.0
    call.first_byte()
    clock.now += 2.0
    call.end(200, (1, 1))
    alice = usage.keys["alice"]
    assert alice.first_byte_s[CHAT_PATH].sum_s == pytest.approx(0.2)
    assert alice.request_s[CHAT_PATH].sum_s == pytest.approx(6.2)


def test_a_refusal_is_no_first_byte_and_no_answer_has_none() -> None:
    usage = Usage()
    for status in (400, 429, 503):
        call = usage.begin("alice", CHAT_PATH)
        call.first_byte()
        call.end(status, (0, 0))
    usage.begin("alice", CHAT_PATH).end(200, (0, 0))
    left = usage.begin("alice", CHAT_PATH)
    left.first_byte()
    left.end(499, (0, 0))
    alice = usage.keys["alice"]
    assert sum(alice.first_byte_s[CHAT_PATH].counts) == 1, "only the one whose answer had begun"
    assert sum(alice.request_s[CHAT_PATH].counts) == 5


def test_a_websocket_is_neither_in_flight_nor_a_latency() -> None:
    usage = Usage()
    call = usage.begin("alice", "/v1/realtime", websocket=True)
    assert (usage.websockets, usage.in_flight, usage.keys["alice"].websockets) == (1, 0, 1)
    call.end(101, (0, 0))
    assert (usage.websockets, usage.errors, usage.keys["alice"].websockets) == (0, 0, 0)
    assert usage.keys["alice"].request_s == {}
    assert usage.keys["alice"].ended == {("/v1/realtime", 101): 1}


@pytest.mark.parametrize("path", ["/metrics", "/load", "/ping", "/version"])
def test_monitoring_is_no_activity(path: str) -> None:
    usage = Usage()
    usage.last_activity = 1.0
    call = usage.begin("session", path)
    assert usage.in_flight == 0
    call.end(200, (0, 0))
    assert usage.last_activity == 1.0
    assert usage.requests == 1
    usage.begin("session", CHAT_PATH).end(200, (0, 0))
    assert usage.last_activity > 1.0
    usage.last_activity = 1.0
    usage.touch()
    assert usage.last_activity > 1.0


@given(st.lists(st.text(max_size=30), max_size=50))
def test_labels_are_bounded_whatever_is_asked_for(paths: list[str]) -> None:
    usage = Usage()
    for path in ["/", *paths]:
        usage.begin("alice", f"/v1/{path}").end(404, (0, 0))
    assert {route for route, _ in usage.keys["alice"].ended} <= {*ROUTES, OTHER}


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_histogram_puts_each_duration_under_its_bound(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    for place, bound in enumerate(BOUNDS):
        assert sum(histogram.counts[: place + 1]) == sum(duration <= bound for duration in durations)
    assert sum(histogram.counts) == len(durations)
    assert list(BOUNDS) == sorted(set(BOUNDS))

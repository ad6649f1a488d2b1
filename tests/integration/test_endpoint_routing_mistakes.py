"""Parts of an endpoint that raise in the middle of a request: whoever asked is answered, and the next one too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.gateway.place import Place
from tests.programs.front import chat, events, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.replicas import REPLICA_KEY, RunningEndpoint, endpoint

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Answering = Callable[[Seen], Iterator[bytes]]


def breaks(*_: object) -> None:
    """A part that does not work."""
    raise RuntimeError("a part is broken")


@pytest.fixture
def front(caplog: pytest.LogCaptureFixture) -> Iterator[RunningEndpoint]:
    """An endpoint whose log tells what broke, and no word of a prompt."""
    caplog.set_level(logging.INFO)
    with endpoint() as made:
        yield made
        wait_until(lambda: made.usage.in_flight == 0)
        assert all(lane.in_flight == 0 for lanes in made.fleet.known.values() for lane in lanes)
    assert "secret words" not in caplog.text


@pytest.fixture
def upstream(front: RunningEndpoint, sockets: Path) -> Iterator[Callable[[Answering], Recorder]]:
    """Start one more replica of the model `m`, the first one the quickest."""
    made: list[Recorder] = []

    def start(answer: Answering = echo) -> Recorder:
        made.append(Recorder(sockets, answer, keep=answer is echo, name=f"{len(made)}.sock"))
        (lane,) = front.fleet.add("m", Place(made[-1].socket, REPLICA_KEY), served="m")
        lane.speed = 1000.0 / 10 ** len(made)
        return made[-1]

    yield start
    for one in made:
        one.close()
        assert not one.faults


def hangs_up(seen: Seen) -> Iterator[bytes]:
    """It reads the question and goes away."""
    return iter(())


def ask(front: RunningEndpoint, **more: object) -> tuple[int, str | None]:
    """The status of a question, and the code of its error."""
    answer = front.ask("POST", CHAT, body=chat("secret words", model="m", **more))
    if answer.status == 200:
        return 200, None
    assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}
    return answer.status, answer.json()["error"]["code"]


def test_who_cannot_look_at_a_lost_replica_keeps_no_request_from_the_next_one(
    front: RunningEndpoint,
    upstream: Callable[..., Recorder],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream(hangs_up)
    upstream()
    monkeypatch.setattr(front.fleet, "lost", breaks)
    assert ask(front) == (200, None)
    assert "a part is broken" in caplog.text


def test_what_cannot_be_decided_anew_is_refused_and_not_left(
    front: RunningEndpoint,
    upstream: Callable[..., Recorder],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream(hangs_up)
    monkeypatch.setattr(front.fleet, "lost", lambda lane: monkeypatch.setattr(front.fleet, "lanes", breaks))
    assert ask(front) == (502, "engine_unreachable")
    assert "Traceback" in caplog.text
    assert front.front.counts.lost == 1
    monkeypatch.undo()
    upstream()
    assert ask(front) == (200, None)


@pytest.mark.parametrize("hold", ["0", "30"])
def test_what_cannot_be_started_is_told_to_come_again(
    hold: str,
    front: RunningEndpoint,
    upstream: Callable[..., Recorder],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with a 500, which a batch would take for the engine's own answer to its line."""
    front.fleet.add("m")
    monkeypatch.setattr(front.fleet, "wanted", breaks)
    body = chat("secret words", model="m")
    refused = front.ask("POST", CHAT, {"X-Launcher-Hold": hold}, body)
    assert (refused.status, refused.header("Retry-After")) == (503, "5")
    assert refused.json()["error"]["code"] == "model_unavailable"
    assert "a part is broken" in caplog.text
    monkeypatch.undo()
    upstream()
    assert ask(front) == (200, None)


@pytest.mark.parametrize("host", ["n" * 70, "a..b", "\udc80"])
def test_a_host_with_a_name_that_is_none_is_passed_over(
    host: str, front: RunningEndpoint, upstream: Callable[..., Recorder]
) -> None:
    (lane,) = front.fleet.add("m", Place((host, 80), REPLICA_KEY), served="m")
    lane.speed = 1e6
    assert ask(front)[0] == 503
    assert front.fleet.looked_at == ["m-1"]
    (lane,) = front.fleet.add("m", Place((host, 80), REPLICA_KEY), served="m")
    lane.speed = 1e6
    upstream()
    assert ask(front) == (200, None)


@pytest.mark.parametrize("part", ["access", "usage"])
def test_what_cannot_be_counted_is_answered_all_the_same(
    part: str,
    front: RunningEndpoint,
    upstream: Callable[..., Recorder],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if part == "access":
        monkeypatch.setattr(front.rules, "spend", breaks)
    else:
        front.gateway.on_end = breaks
    upstream()
    assert [ask(front) for _ in range(3)] == [(200, None)] * 3
    front.fleet.known["m"].clear()
    upstream(lambda seen: iter([STREAM + b"a\r\ndata: {}\n\n\r\n"]))
    cut = front.ask("POST", CHAT, body=chat("secret words", model="m", stream=True))
    assert events(cut.body)[-1]["error"]["code"] == "engine_died"
    assert ask(front)[0] == 200
    assert front.ask("GET", "/v1/models").status == 200
    assert caplog.text.count("a part is broken") >= 3

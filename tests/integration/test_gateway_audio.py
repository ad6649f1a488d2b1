"""Audio through the gateway: whose request it was is told to the engine, and seconds are counted, not bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.server import Gateway
from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from tests.programs.front import KEY, RunningGateway, Upstream, wait_until

PATH = "/v1/audio/transcriptions"
OWN = b"x-launcher-own: 1"


def answer(body: object, kind: str = "application/json") -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


USAGE = {"text": "zero", "usage": {"type": "duration", "seconds": 12.5}}


class GuardedGateway(RunningGateway):
    """A gateway that knows the session's own key and those in a file."""

    def __init__(self, paths: SessionPaths, **routes: object) -> None:
        self.paths = paths
        super().__init__(**routes)

    async def _make(self) -> Gateway:
        known = Keys(KEY, self.paths.further_keys)
        front = SessionFront(self.routes, lambda: self.report)
        return Gateway(keys=known, front=front, name="tiny-1")


@pytest.fixture
def upstream(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream(answer(USAGE))


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): text for name, text in more.items()}}


def test_the_engine_is_told_whose_request_it_is(upstream: Upstream, tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path)
    _, plain = keys.new(paths, "plain")
    _, limited = keys.new(paths, "limited", requests_per_minute=100)
    gateway = GuardedGateway(paths, engine=upstream.socket)
    try:
        for key, path, told in (
            (KEY, PATH, True),
            (KEY, "/v1/audio/translations", True),
            (KEY, f"/node/host/1234{PATH}", True),
            (KEY, "/v1/chat/completions", False),  # of no use there
            (plain, PATH, False),
            (limited, PATH, False),
        ):
            for forged in ({}, {"X_Launcher_Own": "1"}, {"x_launcher_OWN": "1, 1"}):
                seen = len(upstream.received)
                assert gateway.ask("POST", path, bearer(key, **forged), b"{}", key=False).status == 200
                wait_until(lambda seen=seen: len(upstream.received) > seen)  # type: ignore[misc]
                head = upstream.received[-1].partition(b"\r\n\r\n")[0].lower()
                assert head.count(b"x-launcher-own") == int(told), (path, forged)
                assert (OWN in head) is told
    finally:
        gateway.close()


def test_the_page_is_told_too(upstream: Upstream, start_gateway: Callable[..., RunningGateway]) -> None:
    gateway = start_gateway(engine=upstream.socket, page=upstream.socket)
    gateway.ask("GET", "/ui/recording")
    assert OWN in upstream.received[-1].lower()


def test_seconds_of_audio_are_counted(
    start_upstream: Callable[..., Upstream], start_gateway: Callable[..., RunningGateway]
) -> None:
    long = {
        "usage": {"type": "duration", "seconds": 60},
        "segments": [{"text": "x" * 100}] * 2000,
        "text": "y",
    }
    for number, body in enumerate((USAGE, long)):
        gateway = start_gateway(engine=start_upstream(answer(body), name=f"u{number}.sock").socket)
        assert gateway.ask("POST", PATH, body=b"RIFF" * 50_000).status == 200
        usage = gateway.usage
        wait_until(lambda usage=usage: usage.in_flight == 0)  # type: ignore[misc]
        assert (usage.audio_s, usage.completion_tokens) == (12.5 if number == 0 else 60.0, 0)
        assert usage.as_json()["keys"]["session"]["audio_s"] == usage.audio_s
        text = gateway.ask("GET", "/metrics").body.decode()
        assert f'launcher_gateway_audio_seconds_total{{key="session"}} {usage.audio_s}' in text


def test_a_streams_seconds_are_counted(
    start_upstream: Callable[..., Upstream], start_gateway: Callable[..., RunningGateway]
) -> None:
    done = {"type": "transcript.text.done", "text": "zero", "usage": {"type": "duration", "seconds": 3}}
    events = [{"type": "transcript.text.delta", "delta": "zero"}, done]
    body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    gateway = start_gateway(engine=start_upstream(answer(body, "text/event-stream")).socket)
    assert gateway.ask("POST", PATH, body=b"x").body == body
    wait_until(lambda: gateway.usage.in_flight == 0)
    assert gateway.usage.audio_s == 3


@pytest.mark.parametrize("seconds", ['"12"', "-3", "1e999", "null", "true", "[1]", "1e300"])
def test_odd_seconds_count_nothing(
    seconds: str, start_upstream: Callable[..., Upstream], start_gateway: Callable[..., RunningGateway]
) -> None:
    body = b'{"text": "", "usage": {"type": "duration", "seconds": %s}}' % seconds.encode()
    gateway = start_gateway(engine=start_upstream(answer(body)).socket)
    assert gateway.ask("POST", PATH, body=b"x").status == 200
    assert gateway.usage.audio_s == 0


def test_a_chat_cannot_count_as_audio(
    start_upstream: Callable[..., Upstream], start_gateway: Callable[..., RunningGateway]
) -> None:
    gateway = start_gateway(engine=start_upstream(answer(USAGE)).socket)
    gateway.ask("POST", f"/v1/chat/completions?x={PATH}", body=b"{}")
    assert gateway.usage.audio_s == 0


def test_a_recordings_bytes_are_no_tokens_of_a_limited_key(upstream: Upstream, tmp_path: Path) -> None:
    """A megabyte of sound is half a minute of speech, and would use up any budget of tokens if it counted as text."""
    paths = SessionPaths(tmp_path)
    _, limited = keys.new(paths, "course", tokens_per_minute=1000)
    gateway = GuardedGateway(paths, engine=upstream.socket)
    try:
        for _ in range(3):
            assert gateway.ask("POST", PATH, bearer(limited), b"x" * 10**6, key=False).status == 200
    finally:
        gateway.close()

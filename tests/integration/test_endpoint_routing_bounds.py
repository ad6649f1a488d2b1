"""What an endpoint holds for its clients, and no more: requests that wait for a start, and the bodies of all."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.gateway.body import HELD
from launcher.gateway.place import Place
from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from tests.hostile import HOSTILE
from tests.programs.front import KEY, chat, wait_until
from tests.programs.recorder import Recorder
from tests.programs.replicas import REPLICA_KEY, RunningEndpoint, endpoint

CHAT = "/v1/chat/completions"


@pytest.fixture
def front() -> Iterator[RunningEndpoint]:
    """An endpoint without any model."""
    with endpoint() as made:
        yield made


@pytest.mark.parametrize("hold", ["900", "1000000000", "9" * 15])
def test_holding_has_a_bound(hold: str) -> None:
    with endpoint(hold_max_s=0.1) as short:
        short.fleet.add("cold")
        assert short.ask("POST", CHAT, {"X-Launcher-Hold": hold}, chat(model="cold")).status == 503


def test_only_so_many_are_held_and_all_are_told_when_the_endpoint_stops(
    front: RunningEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later is told to come again at once; a new gateway does not find them still waiting."""
    monkeypatch.setattr("launcher.fleet.front._HELD_MAX", 3)
    front.fleet.add("cold")
    held = {"X-Launcher-Hold": "30"}
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(front.ask, "POST", CHAT, held, chat(model="cold")) for _ in range(3)]
        wait_until(lambda: front.status()["models"][0]["waiting"] == 3)
        more = front.ask("POST", CHAT, held, chat(model="cold"))
        assert (more.status, more.json()["error"]["code"]) == (503, "model_starting")
        assert not any(one.done() for one in waiting)
        front.stop(grace_s=20)
        told = [one.result(20) for one in waiting]
    assert [one.json()["error"]["code"] for one in told] == ["endpoint_stopping"] * 3
    assert {one.header("Retry-After") for one in told} == {"5"}


@pytest.mark.parametrize(
    "value", [text for text in HOSTILE if text.strip() and text.isascii() and text.isprintable()]
)
def test_a_wrong_hold_is_refused(value: str, front: RunningEndpoint) -> None:
    front.fleet.add("cold")
    refused = front.ask("POST", CHAT, {"X-Launcher-Hold": value}, chat(model="cold"))
    assert (refused.status, refused.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=XX"])
def test_long_requests_are_not_waited_for_when_there_are_too_many(
    kind: str, front: RunningEndpoint, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Recorder(sockets, secret=KEY)
    front.fleet.add("m", Place(upstream.socket, REPLICA_KEY))
    monkeypatch.setattr("launcher.gateway.body._ALL_BYTES", 3 * 2**20)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Type: {kind}\r\n"
    lines = (head + f"Content-Length: {4 * 2**20}\r\n\r\n").encode()
    begun = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * (5 * 2**19)
    with front.connect() as first, front.connect() as second:
        first.sendall(lines + begun)
        wait_until(lambda: HELD.waiting > 5 * 2**19)
        second.sendall(lines + begun)
        refused = second.recv(65536)
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"overloaded" in refused
        # A short one still passes.
        assert front.ask("POST", CHAT, body=chat("word " * 5000, model="m")).status == 200
    wait_until(lambda: HELD.waiting == HELD.kept == 0)
    upstream.close()


def test_long_requests_that_are_wrong_count_and_none_is_read_beyond_the_limit(tmp_path: Path) -> None:
    """Reading a million values holds up everybody: a key may do that as often as it may ask, and no more."""
    wrong = {
        "broken": "[" * 70_000,
        "values": '{"model": "m", "x": [' + "[]," * 2**20 + "0]}",
        "unknown": chat("word " * 20_000, model="none"),
        "short": chat(model="none"),  # which costs nothing to read
    }
    secrets = {name: keys.new(SessionPaths(tmp_path), name, requests_per_minute=1)[1] for name in wrong}
    with endpoint(further=SessionPaths(tmp_path).further_keys) as front:
        found = {
            name: [
                front.ask("POST", CHAT, {"Authorization": f"Bearer {secrets[name]}"}, body, key=False).status
                for _ in range(3)
            ]
            for name, body in wrong.items()
        }
    assert found == {
        "broken": [400, 429, 429],
        "values": [400, 429, 429],
        "unknown": [404, 429, 429],
        "short": [404] * 3,
    }


def test_who_keeps_long_requests_waiting_keeps_out_nobody_elses(
    sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key has its share of what all bodies may take; a cookie and a batch count as their key."""
    monkeypatch.setattr("launcher.gateway.body._KEY_BYTES", 3 * 2**20)
    _, secret = keys.new(SessionPaths(tmp_path), "greedy")
    upstream = Recorder(sockets, secret=KEY)
    with endpoint(further=SessionPaths(tmp_path).further_keys) as front, front.connect() as first:
        front.fleet.add("m", Place(upstream.socket, REPLICA_KEY))
        long = chat("word " * 500_000, model="m").encode()  # 2.5 MB

        def lines(key: str) -> bytes:
            head = (
                f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nContent-Length: {len(long)}\r\n\r\n"
            )
            return head.encode()

        first.sendall(lines(secret) + long[:-1])
        wait_until(lambda: HELD.waiting == len(long) - 1)
        with front.connect() as second:
            second.sendall(lines(secret) + long[: 2**20])
            refused = second.recv(65536)
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"overloaded" in refused
        with front.connect() as other:
            other.sendall(lines(KEY) + long)
            assert other.recv(65536).startswith(b"HTTP/1.1 200")
        first.sendall(long[-1:])
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
        # What went on is kept, lest its replica fail: also no more of one key's than its share.
        wait_until(lambda: HELD.waiting == HELD.kept == 0)
        with front.connect() as again:
            again.sendall(lines(secret) + long)
            assert again.recv(65536).startswith(b"HTTP/1.1 200")
    wait_until(lambda: HELD.waiting == HELD.kept == 0)
    upstream.close()

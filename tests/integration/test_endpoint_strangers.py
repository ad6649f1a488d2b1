"""Somebody else of the same machine has taken the port of a replica that was killed: who is told nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.gateway.place import Place
from launcher.sessions.connection import Connection
from tests.programs.front import chat
from tests.programs.replicas import REPLICA_KEY, Replica, RunningEndpoint, endpoint

CHAT = "/v1/chat/completions"
SECRET = "what nobody else shall read"
STOLEN = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "stolen"}}]}'


@pytest.fixture
def front() -> Iterator[RunningEndpoint]:
    with endpoint() as made:
        yield made


class Stranger:
    """Listens on `port`, keeps what it is told and gives `answer` to each request."""

    def __init__(self, port: int, answer: Callable[[bytes], bytes]) -> None:
        self.told = b""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            with one:
                one.settimeout(20)
                try:
                    while data := one.recv(65536):
                        self.told += data
                        one.sendall(self._answer(data))
                except OSError:
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


def answered(extra: bytes, body: bytes = STOLEN) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + extra
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def echoed(data: bytes) -> bytes:
    asked = re.search(rb"(?i)X-Launcher-Challenge: (\w+)", data)
    return answered(b"X-Launcher-Proof: " + (asked[1] if asked else b"") + b"\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        lambda data: answered(b""),
        lambda data: answered(b"X-Launcher-Proof: \r\n"),
        lambda data: answered(b"X-Launcher-Proof: " + b"\xe9" * 64 + b"\r\n"),
        lambda data: answered(b"X-Launcher-Proof: " + b"0" * 64 + b"\r\n"),
        echoed,
        lambda data: (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + STOLEN
        ),
        lambda data: b"no HTTP at all\r\n\r\n",
        lambda data: b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 300_000,
    ],
    ids=["nothing", "empty", "no-text", "wrong", "echo", "upgrade", "garbage", "endless"],
)
def test_who_cannot_show_the_key_is_told_neither_key_nor_prompt(
    answer: Callable[[bytes], bytes], front: RunningEndpoint
) -> None:
    stranger = Stranger(0, answer)
    try:
        front.fleet.add("m", Place(("127.0.0.1", stranger.port), REPLICA_KEY, proves=True))
        refused = front.ask("POST", CHAT, body=chat(SECRET, model="m"))
        assert refused.status == 503
        assert "stolen" not in refused.body.decode()
        assert b"X-Launcher-Challenge" in stranger.told
        assert REPLICA_KEY.encode() not in stranger.told
        assert SECRET.encode() not in stranger.told
        assert front.fleet.looked_at == ["m-1"]
    finally:
        stranger.close()


def test_a_session_shows_that_it_has_its_key_and_its_port_is_worth_nothing_after_it(
    front: RunningEndpoint, sockets: Path
) -> None:
    replica = Replica(sockets / "r")
    place = replica.place
    assert place.proves
    front.fleet.add("m", place)
    try:
        assert front.ask("POST", CHAT, body=chat(SECRET, model="m")).status == 200
        # What a right answer was worth, it is worth no second time.
        asked = replica.ask("GET", "/health", {"X-Launcher-Challenge": "a" * 64}, key=False)
        kept = asked.header("X-Launcher-Proof") or ""
        assert re.fullmatch("[0-9a-f]{64}", kept)
        for wrong in ("", "a" * 63, "A" * 64, "a" * 65):
            none = replica.ask("GET", "/health", {"X-Launcher-Challenge": wrong}, key=False)
            assert none.header("X-Launcher-Proof") is None
    finally:
        replica.close()
    stranger = Stranger(replica.port, lambda data: answered(f"X-Launcher-Proof: {kept}\r\n".encode()))
    try:
        assert front.ask("POST", CHAT, body=chat(SECRET, model="m")).status == 503
        assert SECRET.encode() not in stranger.told
        assert REPLICA_KEY.encode() not in stranger.told
    finally:
        stranger.close()


def test_an_older_sessions_connection_says_nothing_of_a_proof_and_a_newer_ones_may_say_more(
    tmp_path: Path,
) -> None:
    path = tmp_path / "connection.json"
    made = Connection("a", "node", 1, "http://node:1/v1", None, "tiny", "key", None, None, proves=True)
    made.write(path)
    assert Connection.read(path) == made
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "more": 1}))
    assert Connection.read(path) == made
    del said["proves"]
    path.write_text(json.dumps(said))
    assert Connection.read(path) == dataclasses.replace(made, proves=False)
    for broken in ("", "[]", '{"schema": 2}', json.dumps({**said, "schema": 2}), '{"schema": 1}'):
        path.write_text(broken)
        assert Connection.read(path) is None

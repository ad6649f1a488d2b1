"""What one client can make the gateway hold: never more than a few buffers, with the key or without it."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs.front import gateway_process, resident_mb
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.wire import AUTH, HOST, request

pytestmark = pytest.mark.timeout(200)

MB = 2**20
# What a run of the same length without trouble may cost; a leak of what is sent here would be ten times that.
ALLOWED_MB = 12.0
POST = b"POST /v1/x HTTP/1.1\r\n"
EVENTS = b"data: " + b"x" * 1000 + b"\n\n"


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def gateway(upstream: Recorder, sockets: Path) -> Iterator[tuple[int, int]]:
    """The pid and the port of a gateway in a process of its own."""
    with gateway_process(sockets, "--engine", str(upstream.socket)) as (pid, port):
        yield pid, port


def growth_mb(gateway: tuple[int, int], act: Callable[[socket.socket], None]) -> float:
    """How much the gateway grows while `act` is busy on one connection; it must answer others afterwards."""
    pid, port = gateway
    _ask(port)
    before = resident_mb(pid)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        act(connection)
        time.sleep(0.5)
        grown = resident_mb(pid) - before
        _ask(port)
    return grown


def _ask(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request("/v1/models", extra=b"Connection: close\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def pour(connection: socket.socket, pieces: Iterator[bytes], limit_bytes: int) -> int:
    """Send until the gateway closes or takes no more for two seconds; how much went."""
    sent = 0
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if sent >= limit_bytes:
                break
    except OSError:
        pass
    return sent


def flood(head: bytes, piece: bytes, limit_bytes: int = 200 * MB) -> Callable[[socket.socket], None]:
    piece *= max(1, 65536 // len(piece))

    def act(connection: socket.socket) -> None:
        pour(connection, itertools.chain([head], itertools.repeat(piece)), limit_bytes)

    return act


ENDLESS = {
    "a request line": flood(b"GET /", b"a"),
    "a header": flood(b"GET / HTTP/1.1\r\nX: ", b"a"),
    "headers": flood(b"GET / HTTP/1.1\r\n", b"X: 1\r\n"),
    "header names": flood(b"GET / HTTP/1.1\r\n", b"a"),
    "blanks in a header": flood(b"GET / HTTP/1.1\r\nX:", b" "),
    "empty lines": flood(b"", b"\r\n"),
    "a stranger's body": flood(POST + HOST + b"Content-Length: 9999999999\r\n\r\n", b"x"),
    "a stranger's chunks": flood(POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a stranger's requests": flood(b"", request("/v1/x", key=False)),
    "a login form": flood(
        b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999\r\n\r\nkey=", b"x"
    ),
    "a chunk size": flood(POST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a chunk extension": flood(POST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "a trailer": flood(POST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x"),
    "trailers": flood(POST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n"),
    "requests whose answers nobody reads": flood(b"", request("/v1/x")),
    "refusals that nobody reads": flood(b"", request("/v1/x", key=False) * 100),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_request_is_not_collected(name: str, gateway: tuple[int, int], upstream: Recorder) -> None:
    assert growth_mb(gateway, ENDLESS[name]) < ALLOWED_MB
    assert upstream.faults == []


def test_an_upload_waits_for_an_engine_that_does_not_read(sockets: Path) -> None:
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(sockets / "deaf.sock"))
    deaf.listen()
    with gateway_process(sockets, "--engine", str(sockets / "deaf.sock")) as (pid, port):
        for framing, piece in (
            (b"Content-Length: 999999999", b"x" * 65536),
            (b"Transfer-Encoding: chunked", b""),
        ):
            chunk = piece or b"10000\r\n" + b"x" * 65536 + b"\r\n"
            before = resident_mb(pid)
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                head = POST + AUTH + framing + b"\r\n\r\n"
                sent = pour(connection, itertools.chain([head], itertools.repeat(chunk)), 300 * MB)
                assert sent < 100 * MB, "somebody took it"
                assert resident_mb(pid) - before < ALLOWED_MB
    deaf.close()


def endless_answer(head: bytes, piece: bytes) -> Callable[[Seen], Iterator[bytes]]:
    def answer(seen: Seen) -> Iterator[bytes]:
        if seen.target != "/endless":
            return echo(seen)
        return itertools.chain([head], itertools.repeat(piece))

    return answer


CHUNKED = b"Transfer-Encoding: chunked\r\n"
ANSWERS = {
    "events": (
        b"Content-Type: text/event-stream\r\n" + CHUNKED,
        b"%x\r\n%s\r\n" % (len(EVENTS), EVENTS) * 50,
    ),
    "an event without end": (
        b"Content-Type: text/event-stream\r\n" + CHUNKED,
        b"c350\r\n" + b"x" * 50_000 + b"\r\n",
    ),
    "tiny chunks": (CHUNKED, b"1\r\nx\r\n" * 5000),
    "a length": (b"Content-Length: 99999999999\r\n", b"x" * 65536),
    "until it closes": (b"", b"x" * 65536),
    "a header without end": (b"X-A: ", b"x" * 65536),
    "headers without end": (b"", b"X-A: 1\r\n" * 5000),
    "interim answers without end": (b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_client_that_does_not_read_holds_the_engine_back(
    name: str, gateway: tuple[int, int], upstream: Recorder
) -> None:
    head, piece = ANSWERS[name]
    start = b"HTTP/1.1 100 Continue\r\n" if name.startswith("interim") else b"HTTP/1.1 200 OK\r\n"
    end = b"" if name.endswith("without end") and "header" in name else b"\r\n"
    upstream.answer = endless_answer(start + head + end, piece)

    def act(connection: socket.socket) -> None:
        connection.sendall(request("/endless"))
        time.sleep(4)

    assert growth_mb(gateway, act) < ALLOWED_MB


def test_a_websocket_waits_for_the_slower_side(gateway: tuple[int, int], upstream: Recorder) -> None:
    frame = b"\x82\x7e\xea\x60" + bytes(60_000)
    agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    agreed += b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    quiet = threading.Event()

    def answer(seen: Seen) -> Iterator[bytes]:
        if not seen.target.startswith("/socket"):
            yield from echo(seen)
            return
        yield agreed
        while seen.target == "/socket-talks":
            yield frame
        quiet.wait(20)  # neither reads nor writes

    upstream.answer = answer

    def upgraded(connection: socket.socket, target: str) -> None:
        patience_s = connection.gettimeout()
        connection.settimeout(30)
        connection.sendall(request(target, extra=upgrade))
        assert connection.recv(12) == b"HTTP/1.1 101"
        connection.settimeout(patience_s)

    def listens_not(connection: socket.socket) -> None:
        upgraded(connection, "/socket-talks")
        time.sleep(4)

    def talks(connection: socket.socket) -> None:
        upgraded(connection, "/socket-deaf")
        masked = b"\x82\xfe\xea\x60" + bytes(4) + bytes(60_000)
        assert pour(connection, itertools.repeat(masked), 300 * MB) < 100 * MB

    try:
        assert growth_mb(gateway, listens_not) < ALLOWED_MB
        assert growth_mb(gateway, talks) < ALLOWED_MB
    finally:
        quiet.set()


def test_a_thousand_short_visits_leave_no_memory(gateway: tuple[int, int]) -> None:
    pid, port = gateway
    visits = [request("/v1/x"), request("/v1/x", key=False), b"broken\r\n\r\n", request("/", key=False)[:20]]

    def visit(times: int) -> float:
        for number in range(times):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(visits[number % len(visits)])
                if number % len(visits) < 3:
                    connection.recv(65536)
        time.sleep(0.5)
        return resident_mb(pid)

    warm = visit(1000)
    assert visit(3000) - warm < 3.0
    assert len(os.listdir(f"/proc/{pid}/fd")) < 60

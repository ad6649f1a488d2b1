"""Clients that dawdle, vanish or hang up halfway: their time is bounded, and nobody else's is touched."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs.front import KEY, RunningGateway, gateway_process, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.wire import AUTH, HOST, drip, exchange, read_all, replies, request, reset

pytestmark = pytest.mark.timeout(200)

# Longer than the gateway may let anybody dawdle who has shown no key.
PATIENCE_S = 40.0


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def front(upstream: Recorder, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket, page=upstream.socket)


def dawdle(front: RunningGateway, before: bytes, data: bytes) -> float:
    """Send `before` at once and `data` in drips; how long the gateway took part."""
    with front.connect() as connection:
        connection.sendall(before)
        return drip(connection, data, 0.4, PATIENCE_S)


def test_nobody_dawdles_without_end(front: RunningGateway, upstream: Recorder) -> None:
    """Side by side, since each waits for a limit of its own."""
    head = b"X-A: " + b"a" * 500
    ways = {
        "a head": (b"", b"GET /v1/models HTTP/1.1\r\n" + head),
        "header lines": (b"GET /v1/models HTTP/1.1\r\n", b"X: 1\r\n" * 100),
        "empty lines": (b"", b"\r\n" * 300),
        "a second head": (request("/v1/models", key=False), b"GET /v1/models HTTP/1.1\r\n" + head),
        "a stranger's body": (b"POST /v1/x HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n", b"x" * 500),
        "a stranger's chunks": (
            b"POST /v1/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n" * 100,
        ),
        "a login form": (b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 500\r\n\r\n", b"x" * 500),
        "a stranger's upgrade": (
            b"GET /v1/realtime HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"x" * 500,
        ),
    }
    took: dict[str, float] = {}

    def measure(name: str) -> None:
        took[name] = dawdle(front, *ways[name])

    threads = [threading.Thread(target=measure, args=(name,)) for name in ways]
    for thread in threads:
        thread.start()
    # Meanwhile others are served.
    for _ in range(20):
        assert front.ask("GET", "/v1/models").status == 200
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert {name: seconds for name, seconds in took.items() if seconds >= PATIENCE_S} == {}
    assert set(upstream.targets) == {"/v1/models"}


def test_a_slow_upload_with_the_key_is_let_finish(front: RunningGateway, upstream: Recorder) -> None:
    """A recording over a bad line is not an attack."""
    with front.connect() as connection:
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\n" + AUTH + b"Content-Length: 60\r\n\r\n"
        )
        for _ in range(30):
            connection.sendall(b"xx")
            time.sleep(0.5)
        connection.settimeout(30)
        assert replies(connection.recv(65536))[0].json()["bytes"] == 60
    assert upstream.faults == []


@pytest.mark.parametrize("key", [True, False], ids=["key", "stranger"])
def test_hanging_up_at_any_byte_costs_nothing(key: bool, front: RunningGateway, upstream: Recorder) -> None:
    whole = request("/v1/x", key=key, method="POST", body=b"hello")
    for place in range(len(whole)):
        connection = front.connect()
        connection.sendall(whole[:place])
        (reset if place % 2 else socket.socket.close)(connection)
    assert front.ask("GET", "/v1/models").status == 200
    wait_until(lambda: front.usage.in_flight == 0)
    assert upstream.targets == ["/v1/models"]
    assert upstream.faults == []


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["reset", "close"])
def test_hanging_up_in_the_middle_of_an_answer_is_heard_by_the_engine(
    end: Callable[[socket.socket], None], front: RunningGateway, upstream: Recorder
) -> None:
    heard = threading.Event()

    def endless(seen: Seen) -> Iterator[bytes]:
        if seen.target != "/endless":
            yield from echo(seen)
            return
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            while True:
                yield b"9\r\ndata: x\n\n\r\n"
                time.sleep(0.02)
        finally:
            heard.set()

    upstream.answer = endless
    for _ in range(5):
        heard.clear()
        connection = front.connect()
        connection.sendall(request("/endless"))
        assert connection.recv(65536)
        end(connection)
        assert heard.wait(60), "the engine goes on for nobody"
    wait_until(lambda: front.usage.in_flight == 0)


def test_a_client_that_says_no_more_still_gets_its_answer_or_is_let_go(
    front: RunningGateway, upstream: Recorder
) -> None:
    """Half a close: `printf … | nc` does it. Either is right, waiting for ever is not."""
    for body in (None, b"hello"):
        with front.connect() as connection:
            connection.sendall(request("/v1/x", method="POST" if body else "GET", body=body))
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(30)
            received, closed = read_all(connection)
        assert closed
        assert [reply.status for reply in replies(received)] in ([200], [])
    for sent in (b"", b"GET /v1", b"POST /v1/x HTTP/1.1\r\n" + AUTH + b"Content-Length: 9\r\n\r\nabc"):
        with front.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(30)
            assert read_all(connection)[1]
    wait_until(lambda: front.usage.in_flight == 0)


def test_no_descriptor_is_left_behind(sockets: Path) -> None:
    """After hundreds of broken conversations the process has as many open files as before."""
    upstream = Recorder(sockets)
    broken = [
        b"",
        b"GET",
        b"nonsense\r\n\r\n",
        request("/v1/x"),
        request("/v1/x", key=False),
        request("/v1/x", method="POST", body=b"x" * 100)[:-50],
        b"POST /v1/x HTTP/1.1\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        request("/v1/x", extra=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ]
    with gateway_process(sockets, "--engine", str(upstream.socket)) as (pid, port):

        def files() -> int:
            return len(os.listdir(f"/proc/{pid}/fd"))

        exchange(port, request("/v1/x"), silence_s=0.2)
        wait_until(lambda: upstream.open == 0, 10)  # its kept connection is dropped
        before = files()
        for number in range(400):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(broken[number % len(broken)])
            if number % 3 == 0:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection.settimeout(0.02)
                    connection.recv(1000)
            (reset if number % 2 else socket.socket.close)(connection)
        wait_until(lambda: files() <= before)
    upstream.close()
    assert upstream.faults == []
    assert KEY not in "".join(upstream.targets)

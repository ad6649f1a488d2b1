"""Many requests on one connection, with and without the key: each is judged alone, answered in order, and once."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs.front import KEY, RunningGateway, SimulatedEngine, chat, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.wire import CLOSE, HOST, Reply, exchange, replies, request

UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def front(upstream: Recorder, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket, page=upstream.socket)


def mixed(number: int, seed: int) -> tuple[list[str], bytes]:
    """`number` requests of every shape and one that closes; targets of those with the key `/k…`, of others `/n…`."""
    choose = random.Random(seed)
    targets, sent = [], b""
    for index in range(number):
        key = choose.random() < 0.7
        target = f"/{'k' if key else 'n'}{index}"
        body = choose.choice([None, b"", b"x" * choose.randrange(3000), request("/n-in-a-body")])
        method = "GET" if body is None else choose.choice(["POST", "PUT"])
        if body and choose.random() < 0.4:
            # The key of a request counts for no other, also not when it stands in its body.
            chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            sent += request(target, key=key, method=method, extra=b"Transfer-Encoding: chunked\r\n") + chunked
        else:
            sent += request(target, key=key, method=method, body=body)
        targets.append(target)
    return [*targets, "/k-last"], sent + request("/k-last", extra=CLOSE)


def check(targets: list[str], found: list[Reply], upstream: Recorder) -> None:
    """The answers are those of the first requests, in order; the gateway may close after a refusal."""
    assert len(found) <= len(targets)
    for target, reply in zip(targets, found, strict=False):
        if target.startswith("/k"):
            assert (reply.status, reply.json()["target"]) == (200, target)
        else:
            assert reply.status == 401
    answered = targets[: len(found)]
    assert len(found) == len(targets) or answered[-1].startswith("/n"), "it closed after a good request"
    assert upstream.faults == []
    assert upstream.targets == [target for target in answered if target.startswith("/k")]


@pytest.mark.parametrize("number", [2, 5, 20, 60])
@pytest.mark.parametrize("seed", range(5))
def test_mixed_requests_in_one_piece(
    number: int, seed: int, front: RunningGateway, upstream: Recorder
) -> None:
    targets, sent = mixed(number, seed)
    received, _ = exchange(front.port, sent, silence_s=20)
    check(targets, replies(received), upstream)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_mixed_requests_in_small_pieces(size: int, front: RunningGateway, upstream: Recorder) -> None:
    targets, sent = mixed(8, size)
    pieces = (sent[start : start + size] for start in range(0, len(sent), size))
    received, _ = exchange(front.port, pieces, silence_s=20)
    check(targets, replies(received), upstream)


def test_sixty_with_the_key_are_all_answered(front: RunningGateway, upstream: Recorder) -> None:
    targets = [f"/k{number}" for number in range(60)]
    sent = b"".join(request(target) for target in targets[:-1]) + request(targets[-1], extra=CLOSE)
    received, _ = exchange(front.port, sent, silence_s=20)
    found = replies(received)
    check(targets, found, upstream)
    assert len(found) == 60


def test_sixty_strangers_requests_reach_nobody(front: RunningGateway, upstream: Recorder) -> None:
    sent = b"".join(request(f"/n{number}", key=False) for number in range(60))
    received, _ = exchange(front.port, sent, silence_s=1.0)
    assert {reply.status for reply in replies(received)} == {401}
    assert upstream.connections == 0


def test_a_slow_answer_is_not_overtaken(front: RunningGateway, upstream: Recorder) -> None:
    def slowly(seen: Seen) -> Iterator[bytes]:
        time.sleep(0.6 if seen.target == "/k0" else 0)
        yield from echo(seen)

    upstream.answer = slowly
    targets = ["/k0", "/n1", "/k2"]
    first = b"".join(request(target, key=target.startswith("/k")) for target in targets[:-1])
    received, _ = exchange(front.port, first + request(targets[-1], extra=CLOSE), silence_s=20)
    check(targets, replies(received), upstream)


def test_head_and_get_in_turns_are_told_apart(front: RunningGateway, upstream: Recorder) -> None:
    methods = ["HEAD", "GET"] * 10
    sent = b"".join(
        request(f"/k{number}", method=method, extra=CLOSE if number == len(methods) - 1 else b"")
        for number, method in enumerate(methods)
    )
    received, _ = exchange(front.port, sent, silence_s=20)
    found = replies(received, methods)
    assert [bool(reply.body) for reply in found] == [method == "GET" for method in methods]
    assert [seen.method for seen in upstream.requests] == methods


def test_what_comes_after_a_broken_request_is_not_looked_at(
    front: RunningGateway, upstream: Recorder
) -> None:
    broken = b"GET /k1 HTTP/1.1\r\n" + HOST + b"X-Api-Key: " + KEY.encode() + b"\r\nX : 1\r\n\r\n"
    received, closed = exchange(front.port, request("/k0") + broken + request("/k2"), silence_s=20)
    assert [reply.status for reply in replies(received)] in ([200, 400], [200])
    assert closed
    assert upstream.targets == ["/k0"]


def test_closing_ends_the_conversation(front: RunningGateway, upstream: Recorder) -> None:
    sent = request("/k0", extra=b"Connection: close\r\n") + request("/k1")
    received, closed = exchange(front.port, sent, silence_s=20)
    assert [reply.status for reply in replies(received)] == [200]
    assert closed
    assert upstream.targets == ["/k0"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["404", "426", "101 to nothing", "101 to another protocol", "200"],
)
def test_a_refused_websocket_is_no_tunnel(answer: bytes, front: RunningGateway, upstream: Recorder) -> None:
    """The engine did not agree, so what follows is HTTP again, and needs a key of its own."""
    upstream.answer = lambda seen: iter([answer]) if seen.target == "/k0" else echo(seen)
    with front.connect() as connection:
        connection.sendall(request("/k0", extra=UPGRADE))
        first = connection.recv(65536)
        connection.settimeout(1.0)
        assert replies(first)[0].status != 101
        received = b""
        try:
            connection.sendall(request("/n1", key=False))
            received = connection.recv(65536)
        except (TimeoutError, ConnectionError):
            pass
    assert [reply.status for reply in replies(received)] in ([], [401])
    assert upstream.targets == ["/k0"]


def test_bytes_sent_with_an_upgrade_stay_on_this_side_until_it_is_agreed(
    front: RunningGateway, upstream: Recorder
) -> None:
    upstream.answer = lambda seen: iter([b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"])
    received, _ = exchange(
        front.port, request("/k0", extra=UPGRADE) + request("/n1", key=False, extra=CLOSE), silence_s=20
    )
    assert [reply.status for reply in replies(received)] in ([403, 401], [403], [502], [502, 401])
    assert upstream.targets == ["/k0"]
    assert upstream.faults == []


def test_a_websocket_that_nobody_asked_for_is_no_tunnel(front: RunningGateway, upstream: Recorder) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    upstream.answer = lambda seen: iter([switching]) if seen.target == "/k0" else echo(seen)
    received, _ = exchange(front.port, request("/k0") + request("/n1", key=False, extra=CLOSE), silence_s=20)
    assert [reply.status for reply in replies(received)] in ([502, 401], [502])
    assert upstream.targets == ["/k0"]


@pytest.mark.parametrize("body", [b"{}", b""])
def test_a_post_is_never_sent_twice(body: bytes, front: RunningGateway, upstream: Recorder) -> None:
    """An engine that closes a kept connection just then must not be given the question again."""

    def closes(seen: Seen) -> Iterator[bytes]:
        if seen.target == "/die":
            upstream.keep = False
            return iter(())
        upstream.keep = True
        return echo(seen)

    upstream.answer = closes
    for _ in range(10):
        upstream.forget()
        assert front.ask("POST", "/warm", body=b"{}").status == 200  # so that a connection is kept
        assert front.ask("POST", "/die", body=body).status == 502
        assert upstream.targets == ["/warm", "/die"]


def test_clients_that_share_connections_to_the_engine_get_their_own_answers(
    front: RunningGateway, upstream: Recorder
) -> None:
    connections: list[socket.socket] = [front.connect() for _ in range(20)]
    for turn in range(10):
        for number, connection in enumerate(connections):
            connection.sendall(request(f"/k{turn}-{number}", method="POST", body=b"x" * number))
        for number, connection in enumerate(connections):
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            (reply,) = replies(received)
            assert reply.json() == {"target": f"/k{turn}-{number}", "bytes": number}
    for connection in connections:
        connection.close()
    assert upstream.faults == []
    wait_until(lambda: front.usage.in_flight == 0)


@pytest.mark.parametrize("waiting", [0, 1, 30])
def test_leaving_is_heard_also_while_further_requests_wait(
    waiting: int, start_engine: Callable[..., SimulatedEngine], start_gateway: Callable[..., RunningGateway]
) -> None:
    """Who sent a second question has not thereby promised to stay for the answer to the first."""
    engine = start_engine("--first-token-ms", "60000")
    front = start_gateway(engine=engine.socket)
    asked = request("/v1/chat/completions", method="POST", body=chat().encode())
    with front.connect() as connection:
        connection.sendall(asked * (1 + waiting))
        wait_until(lambda: engine.counts()["running"] == 1)
    wait_until(lambda: engine.counts()["running"] == 0)
    assert engine.counts()["started"] == 1

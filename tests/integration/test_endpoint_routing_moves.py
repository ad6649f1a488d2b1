"""Replicas that die, hang, refuse or leave under an endpoint: what moves, what is lost, and what is told of both."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.gateway import body
from launcher.gateway.answers import broken_stream_event
from launcher.gateway.place import Place
from tests.programs.front import KEY, chat, events, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.replicas import REPLICA_KEY, RunningEndpoint, endpoint

CHAT = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Starting = Callable[..., Recorder]


@pytest.fixture
def front() -> Iterator[RunningEndpoint]:
    """An endpoint without any model."""
    with endpoint() as made:
        yield made


@pytest.fixture
def upstream(front: RunningEndpoint, sockets: Path) -> Iterator[Starting]:
    """Start a raw upstream, one more replica of the model `m`."""
    made: list[Recorder] = []

    def start(answer: Callable[[Seen], Iterator[bytes]] = echo, *, keep: bool = True) -> Recorder:
        made.append(Recorder(sockets, answer, keep=keep, name=f"{len(made)}.sock", secret=KEY))
        front.fleet.add("m", Place(made[-1].socket, REPLICA_KEY), served="m")
        return made[-1]

    yield start
    for one in made:
        one.close()
        assert not one.faults


def says(status: int, body: bytes = b'{"error": {}}') -> Callable[[Seen], Iterator[bytes]]:
    """An upstream that always answers so."""
    return lambda seen: iter([b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body])


def hangs_up(seen: Seen) -> Iterator[bytes]:
    """It reads the question and goes away."""
    return iter(())


def counted(front: RunningEndpoint) -> tuple[int, int]:
    return front.front.counts.moved, front.front.counts.lost


def idle(front: RunningEndpoint, *lanes: object) -> bool:
    return front.usage.in_flight == 0 and all(getattr(lane, "in_flight", 0) == 0 for lane in lanes)


@pytest.mark.parametrize(
    "trouble", [says(401), says(502), says(503), hangs_up], ids=["401", "502", "503", "cut"]
)
def test_a_request_without_an_answer_goes_to_the_next_replica(
    trouble: Callable[[Seen], Iterator[bytes]], front: RunningEndpoint, upstream: Starting
) -> None:
    """FIRST 7: what one replica did not answer another one does, whole and unchanged."""
    bad = upstream(trouble, keep=False)
    first = front.fleet.known["m"][0]
    good = upstream()
    for lane in front.fleet.known["m"]:
        lane.speed = 1000.0 if lane is first else 1.0  # so that the bad one is asked first
    question = chat("word " * 50_000, model="m")
    answer = front.ask("POST", CHAT, body=question)
    assert answer.json() == {"target": CHAT, "bytes": len(question)}
    assert good.requests[0].body == question.encode() == bad.requests[0].body
    assert front.fleet.looked_at == [first.replica]
    wait_until(lambda: idle(front, first))
    assert counted(front) == (1, 0)
    assert front.used[-1][:3] == ("m", "m-2", 200)


def test_the_cluster_in_the_path_goes_first_and_another_serves_if_it_fails(
    front: RunningEndpoint, sockets: Path
) -> None:
    """FIRST 7: with two clusters that have the model."""
    one, two = Recorder(sockets, secret=KEY), Recorder(sockets, name="two.sock", secret=KEY)
    front.fleet.add("m", Place(one.socket, REPLICA_KEY), cluster="alpha")
    front.fleet.add("m", Place(two.socket, REPLICA_KEY), cluster="beta")
    for _ in range(4):
        assert front.ask("POST", f"/beta/simulated{CHAT}", body=chat(model="m")).status == 200
    assert (len(one.requests), len(two.requests)) == (0, 4)
    two.answer = hangs_up
    two.keep = False
    for _ in range(4):
        assert front.ask("POST", f"/beta/simulated{CHAT}", body=chat(model="m")).status == 200
    assert len(one.requests) == 4
    assert front.used[-1][1] == "m-1"
    for upstream in (one, two):
        upstream.close()


def test_a_replica_that_nobody_listens_for_is_passed_over(front: RunningEndpoint, upstream: Starting) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        front.fleet.add("m", Place(("127.0.0.1", free.getsockname()[1]), REPLICA_KEY))
        front.fleet.known["m"][0].speed = 1000.0
        upstream()
        front.fleet.known["m"][1].speed = 1.0
        assert front.ask("POST", CHAT, body=chat(model="m")).status == 200
    assert counted(front) == (1, 0)


def test_a_stream_that_has_not_begun_moves(front: RunningEndpoint, upstream: Starting) -> None:
    """Also when the head has come already, or the session's gateway says in the stream that its engine died."""
    event = broken_stream_event()
    upstream(lambda seen: iter([HEAD]), keep=False)
    upstream(lambda seen: iter([HEAD, b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)]))
    good = b"data: {}\n\ndata: [DONE]\n\n"
    upstream(lambda seen: iter([HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(good), good)]))
    for speed, lane in zip((1000.0, 500.0, 100.0), front.fleet.known["m"], strict=True):
        lane.speed = speed
    answer = front.ask("POST", CHAT, body=chat(model="m", stream=True))
    assert (answer.status, answer.body) == (200, good)


def test_a_stream_that_has_begun_ends_with_an_event_that_says_so(
    front: RunningEndpoint, upstream: Starting
) -> None:
    upstream(lambda seen: iter([HEAD + b"a\r\ndata: {}\n\n\r\n"]), keep=False)
    upstream(lambda seen: iter([HEAD + b"a\r\ndata: {}\n\n\r\n"]), keep=False)
    got = front.ask("POST", CHAT, body=chat(model="m", stream=True))
    assert got.status == 200
    assert events(got.body)[-1]["error"]["code"] == "engine_died"
    wait_until(lambda: idle(front))
    assert counted(front) == (0, 1)
    assert "launcher_endpoint_lost_total 1.0" in front.ask("GET", "/metrics").body.decode()


def test_without_any_other_replica_the_client_is_told_to_come_again(
    front: RunningEndpoint, upstream: Starting
) -> None:
    for _ in range(2):
        upstream(says(502))
    refused = front.ask("POST", CHAT, body=chat(model="m"))
    assert (refused.status, refused.header("Retry-After")) == (503, "5")
    assert sorted(front.fleet.looked_at) == ["m-1", "m-2"]
    assert counted(front) == (0, 1)


def test_a_request_that_ends_whatever_it_meets_does_not_meet_all(
    front: RunningEndpoint, upstream: Starting
) -> None:
    made = [upstream(hangs_up, keep=False) for _ in range(8)]
    refused = front.ask("POST", CHAT, body=chat(model="m"))
    assert (refused.status, refused.json()["error"]["code"]) == (502, "replica_lost")
    assert sum(len(one.requests) for one in made) == 4


def test_what_a_full_replica_does_not_take_goes_to_one_with_room(
    front: RunningEndpoint, upstream: Starting
) -> None:
    """FIRST 7: a 429 is nobody's failure: the replica is not looked at, and gets the next request all the same."""
    full, other = upstream(says(429)), upstream()
    first, _ = front.fleet.known["m"]
    question = chat("word " * 50_000, model="m")
    for _ in range(4):
        first.speed, front.fleet.known["m"][1].speed = 1e6, 1.0
        assert front.ask("POST", CHAT, body=question).json() == {"target": CHAT, "bytes": len(question)}
    assert len(full.requests) >= 3
    assert {seen.body for seen in (*full.requests, *other.requests)} == {question.encode()}
    assert front.fleet.looked_at == []
    wait_until(lambda: idle(front, *front.fleet.known["m"]))
    assert counted(front) == (len(full.requests), 0)


def test_where_every_replica_is_full_the_client_is_told_so(
    front: RunningEndpoint, upstream: Starting
) -> None:
    said = b'{"error": {"message": "The queue is full.", "code": "queue_full"}}'
    made = [upstream(says(429, said)) for _ in range(2)]
    refused = front.ask("POST", CHAT, body=chat(model="m"))
    assert (refused.status, refused.body, refused.header("Retry-After")) == (429, said, "5")
    assert [len(one.requests) for one in made] == [1, 1]
    made += [upstream(says(429, said)) for _ in range(6)]
    assert front.ask("POST", CHAT, body=chat(model="m")).body == said
    assert sum(len(one.requests) for one in made) == 6
    wait_until(lambda: idle(front, *front.fleet.known["m"]))
    assert (counted(front), front.fleet.looked_at) == ((0, 0), [])


def test_when_to_come_again_is_the_full_replicas_to_say(front: RunningEndpoint, upstream: Starting) -> None:
    upstream(lambda seen: iter([b"HTTP/1.1 429 No\r\nRetry-After: 17\r\nContent-Length: 2\r\n\r\n{}"]))
    refused = front.ask("POST", CHAT, body=chat(model="m"))
    assert [value for name, value in refused.headers if name.lower() == "retry-after"] == ["17"]


def test_a_leaving_replica_ends_what_it_has_and_gets_no_more(
    front: RunningEndpoint, upstream: Starting
) -> None:
    """FIRST 5: a replica that leaves drains, and no request fails."""
    go_on = threading.Event()

    def slow(seen: Seen) -> Iterator[bytes]:
        go_on.wait(20)
        return echo(seen)

    upstream(slow)
    (lane,) = front.fleet.known["m"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(front.ask, "POST", CHAT, None, chat(model="m"))
        wait_until(lambda: lane.in_flight == 1)
        lane.leaving = True
        second = upstream()
        for _ in range(5):
            assert front.ask("POST", CHAT, body=chat(model="m")).status == 200
        assert len(second.requests) == 5
        go_on.set()
        assert running.result(20).status == 200
    wait_until(lambda: lane.in_flight == 0)
    assert counted(front) == (0, 0)


def test_a_connection_that_was_just_closed_is_nobodys_loss(
    front: RunningEndpoint, upstream: Starting
) -> None:
    """An upstream that closes a kept connection is asked again, also with a POST, and not reported."""
    closing = threading.Event()

    def answer(seen: Seen) -> Iterator[bytes]:
        yield from echo(seen)
        closing.wait(0.2)

    one = upstream(answer)
    assert front.ask("POST", CHAT, body=chat(model="m")).status == 200
    one.keep = False
    for _ in range(10):
        assert front.ask("POST", CHAT, body=chat(model="m")).status == 200
    assert front.fleet.looked_at == []


def test_a_replica_that_is_given_up_loses_nothing_that_was_not_begun(
    front: RunningEndpoint, upstream: Starting
) -> None:
    """A node that is lost closes no connection: what hangs there moves when the fleet says so."""

    def hangs(seen: Seen) -> Iterator[bytes]:
        if b'"stream"' in seen.body:
            yield HEAD + b"a\r\ndata: {}\n\n\r\n"
        threading.Event().wait(20)

    first = upstream(hangs)
    (lane,) = front.fleet.known["m"]
    lane.speed = 1000.0
    body = chat(model="m", stream=True).encode()
    lines = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with ThreadPoolExecutor(1) as pool, front.connect() as stream:
        whole = pool.submit(front.ask, "POST", CHAT, None, chat(model="m"))
        stream.sendall(lines.encode() + body)
        received = b""
        while b"data: {}\n\n" not in received:
            received += stream.recv(65536)
        wait_until(lambda: len(first.requests) == 2)
        upstream()

        async def forsake() -> None:
            front.front.forsake("m-1")

        front.run(forsake)
        assert whole.result(20).json()["target"] == CHAT
        while not received.endswith(b"0\r\n\r\n"):
            received += stream.recv(65536)
        assert b'"code": "engine_died"' in received
    assert lane.in_flight == 0
    assert counted(front) == (1, 1)


def test_what_was_too_long_to_be_kept_is_counted_as_lost(
    front: RunningEndpoint, upstream: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.gateway.exchange.KEPT_BYTES", 100_000)
    long = chat("word " * 40_000, model="m")
    for trouble in (says(401), says(503), hangs_up):
        front.fleet.known["m"] = []
        upstream(trouble, keep=False)
        refused = front.ask("POST", CHAT, body=long)
        # Not what the replica said: its key is not the client's, and it is not the client's to wait for.
        assert (refused.status, refused.json()["error"]["code"]) == (502, "replica_lost")
    wait_until(lambda: idle(front))
    assert counted(front) == (0, 3)
    assert body.HELD.waiting == body.HELD.kept == 0


def test_a_recording_that_is_half_sent_moves_whole(front: RunningEndpoint, upstream: Starting) -> None:
    """The rest comes in while the first replica has gone already."""
    first = upstream(says(503), keep=False)
    second = upstream()
    front.fleet.known["m"][0].speed, front.fleet.known["m"][1].speed = 1000.0, 1.0
    head = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--XX\r\n'
    rest = [b"%06d" % number * 10_000 for number in range(60)]
    whole = head + b"".join(rest)
    lines = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
    lines += f"Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {len(whole)}\r\n\r\n"
    with front.connect() as connection:
        connection.sendall(lines.encode() + head)
        for piece in rest:
            connection.sendall(piece)
        answer = connection.recv(65536)
    assert b'"bytes": %d' % len(whole) in answer
    assert second.requests[0].body == whole
    assert len(first.requests) <= 1


def test_whatever_fails_in_between_each_request_has_its_own_answer(
    front: RunningEndpoint, upstream: Starting
) -> None:
    """Replicas that fail at any point of a request, bodies of any size in any pieces, chunked or not."""
    dice, lock = random.Random(7), threading.Lock()

    def unsteady(seen: Seen) -> Iterator[bytes]:
        with lock:
            fate = dice.choice(
                ("answers", "answers", "hangs up", "401", "429", "502", "503", "head", "cut head")
            )
        if fate == "answers":
            yield from echo(seen)
        elif fate.isdigit():
            yield from says(int(fate))(seen)
        elif fate == "head":
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        elif fate == "cut head":
            yield b"HTTP/1.1 200 OK\r\nContent-Le"

    def breaks_off(seen: Seen) -> Iterator[bytes]:
        pieces = list(unsteady(seen))
        yield from pieces
        if not pieces or not pieces[-1].endswith(b"}"):
            raise ConnectionError  # the recorder closes this connection

    for _ in range(4):
        upstream(breaks_off)
    lanes = list(front.fleet.known["m"])
    upstream()  # the one that always answers
    front.fleet.finds_well = True
    form = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--XX\r\n'

    def ask(number: int) -> tuple[int, int, bytes]:
        own = random.Random(number)
        body = chat("w" * own.choice((1, 1000, 70_000, 300_000)), model="m").encode()
        kind = "application/json"
        if number % 3 == 0:
            body, kind = form + body, "multipart/form-data; boundary=XX"
        head = f"POST {CHAT}?{number} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Type: {kind}\r\n"
        sent = body
        if number % 2:
            head += "Transfer-Encoding: chunked\r\n\r\n"
            cuts = sorted(own.sample(range(1, len(body)), 5))
            parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
            sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        else:
            head += f"Content-Length: {len(body)}\r\n\r\n"
        data, received = head.encode() + sent, b""
        with front.connect() as connection:
            while data:
                size = own.choice((1, 100, 20_000, 200_000))
                connection.sendall(data[:size])
                data = data[size:]
            while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                received += connection.recv(65536)
        return number, len(body), received

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(300)))
    good = 0
    for number, size, received in answers:
        if received.startswith(b"HTTP/1.1 200"):
            good += 1
            assert received.endswith(json.dumps({"target": f"{CHAT}?{number}", "bytes": size}).encode())
        else:  # it met four that failed, or had no room
            assert b"replica_lost" in received or received.startswith(b"HTTP/1.1 429")
    assert good > 200
    wait_until(lambda: idle(front, *lanes))
    assert body.HELD.waiting == body.HELD.kept == 0
    assert sum(counted(front)) >= 50

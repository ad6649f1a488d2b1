"""Answers that no engine should give: the client sees a whole and correct answer or sees that it is none.

An engine may be broken, or run a model's own code. Nothing that it writes may become a header, a second answer, or
the answer to somebody else's question.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs.front import RunningGateway, chat, events, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.wire import Reply, exchange, replies, request

pytestmark = pytest.mark.timeout(300)

OK = b"HTTP/1.1 200 OK\r\n"
POISON = b"HTTP/1.1 200 OK\r\nX-Poison: 1\r\nContent-Length: 6\r\n\r\npoison"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\n" + CHUNKED + b"\r\n"
HEADS = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "nothing": b"",
    "an empty line": b"\r\n\r\n",
    "a body alone": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 6\r\n\r\nhello!",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 6\r\n\r\nhello!",
    "another protocol": b"SMTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 6\r\n\r\npoison",
    "a negative status": b"HTTP/1.1 -20 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 6\r\n\r\npoison",
    "a list of lengths": OK + b"Content-Length: 2, 6\r\n\r\npoison",
    "a negative length": OK + b"Content-Length: -6\r\n\r\npoison",
    "a length of letters": OK + b"Content-Length: six\r\n\r\npoison",
    "a length past 64 bits": OK + b"Content-Length: 99999999999999999999999\r\n\r\npoison",
    "CL and TE": OK + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n6\r\npoison\r\n0\r\n\r\n",
    "TE and CL": OK + CHUNKED + b"Content-Length: 0\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
    "NUL in a header": OK + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bare CR in a header": OK + b"X-A: a\rX-Poison: 1\r\nContent-Length: 0\r\n\r\n",
    "bare LF in a header": OK + b"X-A: a\nX-Poison : 1\r\nContent-Length: 0\r\n\r\n",
    "a folded header": OK + b"X-A: a\r\n X-Poison: 1\r\nContent-Length: 0\r\n\r\n",
    "a name with a space": OK + b"X-Poison : 1\r\nContent-Length: 0\r\n\r\n",
    "a name with a NUL": OK + b"X\x00A: 1\r\nContent-Length: 0\r\n\r\n",
    "no colon": OK + b"nonsense\r\nContent-Length: 0\r\n\r\n",
    "an empty name": OK + b": 1\r\nContent-Length: 0\r\n\r\n",
    "a header of 1 MB": OK + b"X-A: " + b"a" * 2**20 + b"\r\nContent-Length: 0\r\n\r\n",
    "a hundred thousand headers": OK + b"X-A: 1\r\n" * 100_000 + b"Content-Length: 0\r\n\r\n",
    "a reason of 1 MB": b"HTTP/1.1 200 " + b"a" * 2**20 + b"\r\nContent-Length: 0\r\n\r\n",
    "a reason with a bare CR": b"HTTP/1.1 200 O\rX-Poison: 1\r\nContent-Length: 0\r\n\r\n",
    "a reason with an odd letter": b"HTTP/1.1 200 \xff\x01\r\nContent-Length: 0\r\n\r\n",
    "a header that is not UTF-8": OK + b"X-A: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
}
BODIES = {
    "chunk size of letters": b"zz\r\npoison\r\n0\r\n\r\n",
    "chunk size negative": b"-6\r\npoison\r\n0\r\n\r\n",
    "chunk size past 64 bits": b"10000000000000006\r\npoison\r\n0\r\n\r\n",
    "chunk size with 0x": b"0x6\r\npoison\r\n0\r\n\r\n",
    "chunk without end": b"2\r\npoison\r\n0\r\n\r\n",
    "bare LF": b"6\npoison\n0\n\n",
    "no chunk at all": b"poison",
    "an empty line": b"\r\n\r\n",
}


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def front(upstream: Recorder, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket)


def gives(upstream: Recorder, *pieces: bytes, pause_s: float = 0.0, keep: bool = False) -> None:
    """Let `/k` be answered by `pieces`, everything else correctly."""

    def answer(seen: Seen) -> Iterator[bytes]:
        upstream.keep = keep or seen.target != "/k"
        if seen.target != "/k":
            yield from echo(seen)
            return
        for piece in pieces:
            yield piece
            time.sleep(pause_s)

    upstream.answer = answer


def asked(front: RunningGateway, method: str = "GET", silence_s: float = 2.0) -> Reply:
    """The one answer to `/k`; status 0 when the gateway hung up without one."""
    sent = request("/k", method=method, extra=b"Connection: close\r\n")
    received, _ = exchange(front.port, sent, silence_s=silence_s)
    found = replies(received, [method])
    assert len(found) <= 1, f"two answers to one request: {found}"
    return found[0] if found else Reply(0, (), b"", False)


def goes_on(front: RunningGateway) -> None:
    """The next ones get their own answers, on new connections and on kept ones."""
    for number in range(3):
        answer = front.ask("GET", f"/next{number}")
        assert answer.status == 200
        assert answer.json()["target"] == f"/next{number}"
    wait_until(lambda: front.usage.in_flight == 0)


@pytest.mark.parametrize("name", HEADS)
def test_a_broken_head_is_a_502(name: str, front: RunningGateway, upstream: Recorder) -> None:
    gives(upstream, HEADS[name])
    reply = asked(front)
    # What can be put right may be passed on, but then it must be right.
    assert reply.status in (200, 502)
    assert reply.status == 502 or reply.whole
    assert b"poison" not in reply.body
    assert reply.header("X-Poison") is None
    if reply.status == 502:
        assert reply.json()["error"]["code"] == "engine_unreachable"
    goes_on(front)


@pytest.mark.parametrize("name", BODIES)
def test_broken_chunks_are_seen_to_be_broken(name: str, front: RunningGateway, upstream: Recorder) -> None:
    gives(upstream, OK + CHUNKED + b"\r\n" + BODIES[name])
    reply = asked(front)
    assert reply.status in (200, 502)
    assert reply.status == 502 or not reply.whole
    goes_on(front)


@pytest.mark.parametrize("name", BODIES)
def test_broken_chunks_end_a_stream_with_an_error_event(
    name: str, front: RunningGateway, upstream: Recorder
) -> None:
    good = b'data: {"a": 1}\n\n'
    gives(upstream, SSE + b"%x\r\n%s\r\n" % (len(good), good), BODIES[name], pause_s=0.1)
    reply = asked(front)
    assert (reply.status, reply.whole) == (200, True)
    assert b"HTTP/1" not in reply.body
    found = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n") if line.startswith("data: {")]
    assert found[0] == {"a": 1}
    assert found[-1]["error"]["code"] == "engine_died"
    goes_on(front)


@pytest.mark.parametrize("later_s", [None, 0.0, 0.3])
@pytest.mark.parametrize(
    "first",
    [
        OK + b"Content-Length: 2\r\n\r\n{}",
        OK + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
    ],
)
def test_a_second_answer_is_nobodys(
    first: bytes, later_s: float | None, front: RunningGateway, upstream: Recorder
) -> None:
    """Bytes left on a kept connection would become the answer to the next person's question."""
    sent: list[str] = []

    def answer(seen: Seen) -> Iterator[bytes]:
        if seen.target != "/k":
            yield from echo(seen)
            return
        try:
            if later_s is None:
                yield first + POISON
            else:
                yield first
                time.sleep(later_s)
                yield POISON
        finally:  # also where the gateway has hung up already
            sent.append(seen.target)

    upstream.answer = answer
    for _ in range(5):
        sent.clear()
        reply = asked(front, silence_s=0.1)
        assert reply.status in (200, 204, 304, 502)
        assert b"poison" not in reply.body
        wait_until(lambda: sent)
        goes_on(front)


def test_an_answer_to_head_has_no_body(front: RunningGateway, upstream: Recorder) -> None:
    gives(upstream, OK + b"Content-Length: 6\r\n\r\npoison", keep=True)
    for _ in range(3):
        reply = asked(front, "HEAD", silence_s=0.3)
        assert (reply.status, reply.header("Content-Length")) in (
            (200, "6"),
            (502, reply.header("Content-Length")),
        )
        goes_on(front)


def test_more_than_was_promised_is_cut(front: RunningGateway, upstream: Recorder) -> None:
    gives(upstream, OK + b"Content-Length: 2\r\n\r\n{}" + b"poison" * 1000, keep=True)
    reply = asked(front)
    assert reply.status == 502 or (reply.whole and reply.body == b"{}")
    goes_on(front)


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        b"HTTP/1.1 102 P\r\n\r\n",
    ],
)
@pytest.mark.parametrize("number", [1, 2000])
def test_interim_answers_are_not_the_answer(
    interim: bytes, number: int, front: RunningGateway, upstream: Recorder
) -> None:
    gives(upstream, interim * number, OK + b"Content-Length: 2\r\n\r\n{}")
    for method in ("GET", "POST"):
        reply = asked(front, method)
        assert (reply.status, reply.body) in ((200, b"{}"), (502, reply.body))
    goes_on(front)


def test_a_head_without_end_is_given_up(front: RunningGateway, upstream: Recorder) -> None:
    endless = itertools.chain([OK], itertools.repeat(b"X-A: " + b"a" * 1000 + b"\r\n"))
    upstream.answer = lambda seen: endless if seen.target == "/k" else echo(seen)
    assert asked(front, silence_s=20).status == 502
    goes_on(front)


def test_an_answer_byte_by_byte_is_whole(front: RunningGateway, upstream: Recorder) -> None:
    body = b"%x\r\n%s\r\n" % (7, b"data: x") + b"2\r\n\n\n\r\n" + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    gives(upstream, *(bytes([byte]) for byte in SSE + body), pause_s=0.001)
    reply = asked(front)
    assert (reply.status, reply.whole, reply.body) == (200, True, b"data: x\n\ndata: [DONE]\n\n")


JSON_BODY = b'{"choices": [{"message": {"content": "Paris"}}], "usage": {}}'
LENGTH = OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(JSON_BODY) + JSON_BODY
PARTS = (JSON_BODY[:20], JSON_BODY[20:])
CHUNKS = (
    OK + CHUNKED + b"\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in PARTS) + b"0\r\n\r\n"
)


@pytest.mark.parametrize("answer", [LENGTH, CHUNKS], ids=["length", "chunks"])
def test_an_engine_that_dies_at_any_byte_gives_no_answer_that_looks_whole(
    answer: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    for place in range(len(answer) + 1):
        gives(upstream, answer[:place])
        reply = asked(front, "POST")
        if place == len(answer):
            assert (reply.status, reply.whole, reply.body) == (200, True, JSON_BODY)
        elif reply.whole and reply.status == 200:
            # Only the last chunk's line end may be missing: the answer itself is all there.
            assert answer is CHUNKS
            assert reply.body == JSON_BODY
            assert place >= len(answer) - 5
        else:
            assert reply.status in (0, 200, 502), f"at byte {place}"
            assert reply.status != 502 or reply.whole
    assert len(upstream.requests) == len(answer) + 1, "a question was asked twice"
    goes_on(front)


def test_a_stream_that_dies_at_any_byte_says_so(front: RunningGateway, upstream: Recorder) -> None:
    parts = [b'data: {"a": 1}\n\n', b'data: {"b": 2}\n\n', b"data: [DONE]\n\n"]
    answer = SSE + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    done = answer.index(b"[DONE]\n\n") + 8
    for place in range(len(answer) + 1):
        gives(upstream, answer[:place])
        reply = asked(front, "POST")
        if place < len(SSE):
            assert reply.status == 502, f"at byte {place}"
        else:
            assert (reply.status, reply.whole) == (200, True), f"at byte {place}"
            last = reply.body.decode().rstrip("\n").split("\n\n")[-1].lstrip("\n")
            if place >= done:
                assert last == "data: [DONE]"
            else:
                assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died", (
                    f"at byte {place}"
                )
    goes_on(front)


def test_a_stream_without_length_that_ends_early_says_so(front: RunningGateway, upstream: Recorder) -> None:
    head = OK + b"Content-Type: text/event-stream\r\n\r\n"
    gives(upstream, head + b'data: {"a": 1}\n\n')
    answer = front.ask("POST", "/k", body=chat(stream=True))
    assert events(answer.body)[-1]["error"]["code"] == "engine_died"
    gives(upstream, head + b'data: {"a": 1}\n\ndata: [DONE]\n\n')
    answer = front.ask("POST", "/k", body=chat(stream=True))
    assert events(answer.body) == [{"a": 1}, "[DONE]"]


def test_an_engine_that_answers_before_it_has_read_the_question(
    front: RunningGateway, upstream: Recorder
) -> None:
    """vLLM refuses a body that is too long at once; the refusal must not be lost in the rest of the body."""
    refusal = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"

    def hasty(connection_seen: Seen) -> Iterator[bytes]:
        yield refusal

    upstream.answer, upstream.keep = hasty, False
    answer = front.ask("POST", "/k", body=b"x" * 1_000_000)
    assert (answer.status, answer.body) == (413, b"{}")

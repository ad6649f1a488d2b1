"""Requests whose end two readers could see in different places: whatever the gateway makes of them, it is one thing.

The upstream is a strict recorder (tests/programs/recorder.py): it keeps every byte, and finds fault with each that is
not in its only correct form. `/smuggled` stands for what an attacker wants the engine to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.programs.front import KEY, RunningGateway, wait_until
from tests.programs.recorder import Recorder
from tests.programs.wire import AUTH, CLOSE, HOST, Reply, exchange, replies, request

# It carries the right key: a body is a body, whoever wrote it.
SMUGGLED = request("/smuggled")
POST = b"POST /v1/x HTTP/1.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n0\r\n\r\n"
HELLO = b"\r\n5\r\nhello\r\n0\r\n\r\n"

# Heads and bodies that have no single meaning: refused, whatever stands before and after.
AMBIGUOUS = {
    "CL with a blank inside": b"Content-Length: 1 0\r\n\r\n",
    "CL with a parameter": b"Content-Length: 0;\r\n\r\n",
    "CL with an underscore": b"Content-Length: 1_0\r\n\r\n",
    "CL in another script": "Content-Length: ٠\r\n\r\n".encode(),
    "CL with an exponent": b"Content-Length: 0e1\r\n\r\n",
    "CL minus zero": b"Content-Length: -0\r\n\r\n",
    "CL in quotes": b'Content-Length: "0"\r\n\r\n',
    "CL empty": b"Content-Length: \r\n\r\n",
    "CL with a vertical tab": b"Content-Length: \x0b0\r\n\r\n",
    "CL folded": b"Content-Length:\r\n 0\r\n\r\n",
    "CL past 64 bits": b"Content-Length: 18446744073709551616\r\n\r\n",
    "CL twice, zero first": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "CL, case differs": b"Content-Length: 0\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED),
    "CL list of two": b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED),
    "CL then TE": b"Content-Length: 4\r\n" + CHUNKED + END,
    "TE then CL": CHUNKED + b"Content-Length: 4\r\n" + END,
    "TE identity and CL": b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "TE with a space before the colon": b"Transfer-Encoding : chunked\r\n" + END,
    "TE with a tab before the colon": b"Transfer-Encoding\t: chunked\r\n" + END,
    "TE with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n" + END,
    "TE with a NUL": b"Transfer-Encoding: chunked\x00\r\n" + END,
    "TE folded": b"Transfer-Encoding:\r\n chunked\r\n" + END,
    "TE in quotes": b'Transfer-Encoding: "chunked"\r\n' + END,
    "TE with a parameter": b"Transfer-Encoding: chunked;q=1\r\n" + END,
    "TE chunked twice": b"Transfer-Encoding: chunked, chunked\r\n" + END,
    "TE twice": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n" + END,
    "TE chunked and gzip": b"Transfer-Encoding: chunked, gzip\r\n" + END,
    "TE gzip": b"Transfer-Encoding: gzip\r\n" + END,
    "TE empty": b"Transfer-Encoding: \r\n" + END,
    "TE hidden behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n" + END,
    "TE hidden behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n" + END,
    "key hidden behind a bare CR": b"X: y\rX-Api-Key: z\r\n\r\n",
    "NUL in a name": b"X\x00-A: 1\r\n\r\n",
    "control in a value": b"X-A: \x01\r\n\r\n",
    "delete in a value": b"X-A: \x7f\r\n\r\n",
    "two Hosts": b"Host: elsewhere\r\n\r\n",
    "bare CRs end the head": b"X: y\r\r",
    "line end of CR CR LF": b"X: y\r\r\n\r\r\n",
    "chunk size with 0x": CHUNKED + b"\r\n0x0\r\n\r\n",
    "chunk size with a sign": CHUNKED + b"\r\n+0\r\n\r\n",
    "chunk size with a blank before": CHUNKED + b"\r\n 0\r\n\r\n",
    "chunk size with an underscore": CHUNKED + b"\r\n0_0\r\n\r\n",
    "chunk size empty": CHUNKED + b"\r\n\r\n\r\n",
    "chunk size past 64 bits": CHUNKED + b"\r\n10000000000000000\r\n\r\n",
    "chunk size past 64 bits, small below": CHUNKED + b"\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk with a bare LF": CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n",
    "chunk extension ends in a bare LF": CHUNKED + b"\r\n5;x\nhello\r\n0\r\n\r\n",
    "chunk extension with a bare CR": CHUNKED + b"\r\n5;x\ry\r\nhello\r\n0\r\n\r\n",
    "chunk data ends in other bytes": CHUNKED + b"\r\n5\r\nhelloXX0\r\n\r\n",
    "chunk data ends in a bare LF": CHUNKED + b"\r\n5\r\nhello\n0\r\n\r\n",
    "last chunk ends in a bare LF": CHUNKED + b"\r\n5\r\nhello\r\n0\n\n",
    "chunk longer than said": CHUNKED + b"\r\n3\r\nhello\r\n0\r\n\r\n",
}
# Odd, but of one meaning; passed on in the usual form or refused, never anything else.
UNUSUAL = {
    "CL twice, equal": (b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "CL with zeros before": (b"Content-Length: 005\r\n\r\nhello", b"hello"),
    "CL with blanks around": (b"Content-Length: \t 5 \t\r\n\r\nhello", b"hello"),
    "TE in capitals": (b"TRANSFER-ENCODING: CHUNKED\r\n" + HELLO, b"hello"),
    "TE with blanks around": (b"Transfer-Encoding:  chunked \t\r\n" + HELLO, b"hello"),
    "chunk extension": (CHUNKED + b'\r\n5;a=1;b="c d"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
    "chunk size with zeros before": (CHUNKED + b"\r\n000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "trailers": (CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n", b"hello"),
    "a length as trailer": (CHUNKED + b"\r\n5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n", b"hello"),
    "a length named in Connection": (
        b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    "a coding named in Connection": (b"Connection: Transfer-Encoding\r\n" + CHUNKED + HELLO, b"hello"),
    "the Host named in Connection": (b"Connection: Host\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "names with odd letters": (b"!#$%&'*+-.^_`|~: 1\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "a body that looks like requests": (
        b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        SMUGGLED,
    ),
    "a chunked body that looks like requests": (
        CHUNKED + b"\r\n%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n",
        SMUGGLED,
    ),
}


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def front(upstream: Recorder, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket, page=upstream.socket)


def ask(front: RunningGateway, sent: bytes) -> list[Reply]:
    """The answers to `sent`; the gateway must still answer others afterwards."""
    received, _ = exchange(front.port, sent, silence_s=0.7)
    found = replies(received)
    assert front.ask("GET", "/health", key=False).status == 200
    return found


def clean(upstream: Recorder) -> None:
    """What reached the upstream was in its one form, and was no smuggled request."""
    assert upstream.faults == []
    assert "/smuggled" not in upstream.targets


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("key", [True, False], ids=["key", "stranger"])
def test_what_has_no_single_meaning_is_refused(
    name: str, key: bool, front: RunningGateway, upstream: Recorder
) -> None:
    found = ask(front, POST + (AUTH if key else HOST) + AMBIGUOUS[name] + SMUGGLED)
    # 401 for the head, then no more; 502 when the body turned out to be broken while it was passed on.
    assert [reply.status for reply in found] in ([], [400], [401], [501], [502])
    clean(upstream)
    if not key:
        assert upstream.connections == 0
    else:
        assert upstream.requests == [], "a part of it was passed on as if it were whole"


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_odd_arrives_in_the_usual_form_or_not_at_all(
    name: str, front: RunningGateway, upstream: Recorder
) -> None:
    sent, body = UNUSUAL[name]
    found = ask(front, POST + AUTH + sent + request("/v1/next", key=False, extra=CLOSE))
    statuses = [reply.status for reply in found]
    clean(upstream)
    if statuses == [400]:
        assert upstream.requests == []
    else:
        assert statuses in ([200, 401], [200]), "the next request on the connection has no key"
        assert [(seen.target, seen.body) for seen in upstream.requests] == [("/v1/x", body)]


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_strangers_body_is_never_read_as_a_request(
    name: str, front: RunningGateway, upstream: Recorder
) -> None:
    found = ask(front, POST + HOST + UNUSUAL[name][0] + request("/health", key=False, extra=CLOSE))
    assert [reply.status for reply in found] in ([401, 200], [401], [400])
    assert upstream.connections == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH"])
@pytest.mark.parametrize("key", [True, False], ids=["key", "stranger"])
def test_a_body_where_none_is_expected_stays_a_body(
    method: str, key: bool, front: RunningGateway, upstream: Recorder
) -> None:
    sent = request("/v1/x", key=key, method=method, body=SMUGGLED)
    received, _ = exchange(front.port, sent + request("/health", key=False, extra=CLOSE), silence_s=20)
    replies(received, [method, "GET"])
    clean(upstream)
    assert [seen.body for seen in upstream.requests] in ([], [SMUGGLED] if key else [])


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue", b"200-ok", b"100-continue, x", b""])
def test_a_stranger_who_expects_gets_his_refusal_and_no_more(
    expect: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    head = POST + HOST + b"Expect: " + expect + b"\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    found = ask(front, head + SMUGGLED)
    # The body may or may not follow; if the gateway read on it would be a request with the right key.
    assert [reply.status for reply in found] in ([401], [400], [417])
    assert upstream.connections == 0


@pytest.mark.parametrize(
    "start",
    [
        b"POST\t/v1/x HTTP/1.1\r\n",
        b"POST /v1/x\tHTTP/1.1\r\n",
        b" POST /v1/x HTTP/1.1\r\n",
        b"POST /v1/x HTTP/1.1 \r\n",
        b"POST /v1/x http/1.1\r\n",
        b"POST /v1/x HTTP/1.10\r\n",
        b"POST /v1/x HTTP/01.1\r\n",
        b"POST /v1/x HTTP/3.1\r\n",
        b"POST /v1/x HTTP/0.9\r\n",
        b"POST /v1/x ICE/1.1\r\n",
        b"POST /v1/x SMTP/1.0\r\n",
        b"POST /v1/x\r\n",
        b"POST\r\n",
        b"post /v1/x HTTP/1.1\r\n",
        b"PO\x00ST /v1/x HTTP/1.1\r\n",
        b"POST /v1/\x00x HTTP/1.1\r\n",
        b"POST /v1/x\rHost: y HTTP/1.1\r\n",
        b"POST /v1/x\x0bHTTP/1.1\r\n",
        b"POST http:/v1/x HTTP/1.1\r\n",
        b"POST https://127.0.0.1/v1/x HTTP/1.1\r\n",
        b"POST file:///etc/passwd HTTP/1.1\r\n",
        b"SUBSCRIBE /v1/x HTTP/1.1\r\n",
        b"SOURCE /v1/x HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT /v1/x HTTP/1.1\r\n",
        b"CONNECT engine:443 HTTP/1.1\r\n",
        b"X: y\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\xff\xfe",
    ],
)
def test_request_lines_of_another_kind_go_nowhere(
    start: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    found = ask(front, start + AUTH + b"\r\n" + SMUGGLED)
    assert [reply.status for reply in found] in ([], [400], [405], [501], [505])
    assert upstream.requests == []
    clean(upstream)


def test_a_refusal_does_not_quote_the_request(front: RunningGateway) -> None:
    """A portal, a proxy or a script may log the answer, which must not hold a key then."""
    for end in (b"\n", b"\r", b"\x00", b" :"):
        sent = POST + b"Host: x" + end + b"X-Api-Key: " + KEY.encode() + b"\r\n\r\n"
        received, _ = exchange(front.port, sent, silence_s=0.3)
        assert KEY.encode() not in received, end


@pytest.mark.parametrize(
    "line", [b"POST  /v1/x HTTP/1.1", b"POST /v1/x  HTTP/1.1", b"POST   /v1/x   HTTP/1.1"]
)
def test_more_blanks_in_the_request_line_change_nothing(
    line: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    found = ask(front, line + b"\r\n" + AUTH + b"Content-Length: 0\r\n\r\n")
    clean(upstream)
    assert [reply.status for reply in found] in ([200], [400])
    assert upstream.targets in ([], ["/v1/x"])


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"7fffffffffffffff", b"ffffffff"])
def test_a_chunk_larger_than_any_file_is_never_whole(
    size: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    found = ask(front, POST + AUTH + CHUNKED + b"\r\n" + size + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED)
    assert [reply.status for reply in found] in ([], [400], [413], [502])
    assert upstream.requests == []
    assert not any("smuggled" in fault for fault in upstream.faults)
    wait_until(lambda: front.usage.in_flight == 0)


@pytest.mark.parametrize("bare", [b"\n", b"\r", b"\n\r"])
def test_other_line_ends_are_refused_or_read_as_one_thing(
    bare: bytes, front: RunningGateway, upstream: Recorder
) -> None:
    whole = request("/v1/x", method="POST", body=b"hello")
    for place in range(whole.count(b"\r\n")):
        parts = whole.split(b"\r\n")
        sent = b"\r\n".join(parts[: place + 1]) + bare + b"\r\n".join(parts[place + 1 :])
        ask(front, sent + SMUGGLED)
        clean(upstream)


def test_empty_lines_before_a_request_hide_nothing(front: RunningGateway, upstream: Recorder) -> None:
    for before in (b"\r\n", b"\r\n\r\n", b"\n", b"\r\n" * 5000):
        ask(front, before + request("/v1/x", key=False, extra=CLOSE))
        ask(front, before + request("/v1/y") + before + request("/v1/z", key=False, extra=CLOSE))
    clean(upstream)
    assert set(upstream.targets) <= {"/v1/y"}


def test_more_than_one_key_is_no_way_round(front: RunningGateway, upstream: Recorder) -> None:
    """However two readers choose among several headers, the engine sees none of them."""
    wrong, right = b"Authorization: Bearer sk-wrong\r\n", AUTH.removeprefix(HOST)
    for extra in (wrong + right, right + wrong, right + right, b"X-Api-Key: z\r\n" + right):
        ask(front, b"GET /v1/x HTTP/1.1\r\n" + HOST + extra + CLOSE + b"\r\n")
    clean(upstream)
    assert all(seen.header("Authorization") is None for seen in upstream.requests)


def test_ten_thousand_chunks_are_one_body(front: RunningGateway, upstream: Recorder) -> None:
    chunks = b"\r\n" + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
    found = ask(front, POST + AUTH + CHUNKED + chunks)
    assert [reply.json()["bytes"] for reply in found] == [10_000]
    clean(upstream)


def test_a_body_that_never_comes_leaves_nothing_behind(front: RunningGateway, upstream: Recorder) -> None:
    for sent in (b"Content-Length: 1000\r\n\r\nabc", CHUNKED + b"\r\n3e8\r\nabc"):
        exchange(front.port, POST + AUTH + sent, silence_s=0.3)
    wait_until(lambda: front.usage.in_flight == 0)
    assert upstream.requests == []
    wait_until(lambda: upstream.open == 0)

"""Raw bytes at the open port: smuggling, broken framing, odd targets. Nothing may reach the engine without the key."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.programs.front import KEY, RunningGateway, Upstream, wait_until

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
AUTH = b"Host: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def upstream(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream(OK)


@pytest.fixture
def front(upstream: Upstream, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket, page=upstream.socket)


def status(answer: bytes) -> int:
    """The status of the first answer; 0 when the connection was closed without one."""
    return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.") else 0


def still_works(front: RunningGateway) -> None:
    assert front.ask("GET", "/v1/models").status == 200


BROKEN = {
    "CL and TE": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length list": b"Content-Length: 5, 5\r\n\r\nhello",
    "negative length": b"Content-Length: -1\r\n\r\n",
    "signed length": b"Content-Length: +5\r\n\r\nhello",
    "hex length": b"Content-Length: 0x5\r\n\r\nhello",
    "huge length": b"Content-Length: 99999999999999999999999\r\n\r\n",
    "TE twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE odd": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "space before colon": b"Content-Length : 5\r\n\r\nhello",
    "folded": b"X-A: 1\r\n Content-Length: 5\r\n\r\nhello",
    "name with space": b"X A: 1\r\n\r\n",
    "empty name": b": 1\r\n\r\n",
    "no colon": b"nonsense\r\n\r\n",
    "NUL in value": b"X-A: a\x00b\r\n\r\n",
    "bare CR in value": b"X-A: a\rContent-Length: 5\r\n\r\nhello",
    "header too long": b"X-A: " + b"a" * 40000 + b"\r\n\r\n",
    "too many headers": b"X-A: 1\r\n" * 5000 + b"\r\n",
    "chunk size not hex": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk size huge": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk too long": b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "odd Expect": b"Expect: 200-ok\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_framing_with_the_key_is_refused_and_smuggles_nothing(
    name: str, front: RunningGateway, upstream: Upstream
) -> None:
    answer = front.raw(b"POST /v1/x HTTP/1.1\r\n" + AUTH + BROKEN[name])
    assert status(answer) in (0, 400, 417, 431), answer[:200]
    assert not any(b"/smuggled" in got.split(b"\r\n")[0] for got in upstream.received)
    assert KEY.encode() not in answer
    still_works(front)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_framing_without_the_key_never_reaches_the_engine(
    name: str, front: RunningGateway, upstream: Upstream
) -> None:
    answer = front.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\n" + BROKEN[name])
    assert status(answer) in (0, 400, 401, 417, 431), answer[:200]
    assert upstream.received == []
    still_works(front)


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://evil.example/v1/models HTTP/1.1",
        b"GET //evil.example/v1/models HTTP/1.1",
        b"GET /node/n1/1//evil HTTP/1.1",
        b"GET /ui/../v1/models HTTP/1.1",
        b"GET /ui/%2e%2e/v1/models HTTP/1.1",
        b"GET /ui/%2E./v1 HTTP/1.1",
        b"GET /ui/..%2fv1 HTTP/1.1",
        b"GET /ui/%252e%252e/v1 HTTP/1.1",
        b"GET /ui/..\\v1 HTTP/1.1",
        b"GET /ui/%5c..%5cv1 HTTP/1.1",
        b"GET /v1/./models HTTP/1.1",
        b"GET /v1/x%00y HTTP/1.1",
        b"GET /v1/x%0d%0aX-Evil:1 HTTP/1.1",
        b"GET /v1/caf\xc3\xa9 HTTP/1.1",
        b"GET /v1/caf\xe9 HTTP/1.1",
        b"GET /v1/x#fragment HTTP/1.1",
        b"GET v1/models HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /v1/two words HTTP/1.1",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1",
        b"GET /v1/models HTTP/2.0",
        b"GET /v1/models HTTP/1.1x",
        b"GET /v1/models",
        b"PRI * HTTP/2.0",
        b"CONNECT engine:80 HTTP/1.1",
        b"TRACE /v1/models HTTP/1.1",
        b"BREW /v1/models HTTP/1.1",
        b"G\x00T /v1/models HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_odd_request_lines_go_nowhere(line: bytes, front: RunningGateway, upstream: Upstream) -> None:
    answer = front.raw(line + b"\r\n" + AUTH + b"\r\n")
    assert status(answer) in (0, 400, 405, 431, 505), answer[:200]
    assert KEY.encode() not in answer
    assert upstream.received == []
    still_works(front)


def test_a_second_request_on_the_connection_needs_its_own_key(
    front: RunningGateway, upstream: Upstream
) -> None:
    first = b"POST /v1/a HTTP/1.1\r\n" + AUTH + b"Content-Length: 2\r\n\r\n{}"
    answer = front.raw(first + b"GET /v1/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 401") == 1
    assert [got.split(b" ")[1] for got in upstream.received] == [b"/v1/a"]


def test_pipelined_requests_are_answered_in_order(front: RunningGateway, upstream: Upstream) -> None:
    heads = [b"GET /v1/%d HTTP/1.1\r\n" % number + AUTH for number in range(20)]
    answer = front.raw(b"\r\n".join(heads) + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 20
    assert [got.split(b" ")[1] for got in upstream.received] == [b"/v1/%d" % number for number in range(20)]


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.0", b"websocket"])
def test_an_upgrade_opens_no_tunnel(upgrade: bytes, front: RunningGateway, upstream: Upstream) -> None:
    head = b"POST /v1/x HTTP/1.1\r\n" + AUTH + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
    answer = front.raw(head + b"Content-Length: 0\r\n\r\n" + SMUGGLED)
    assert b"101" not in answer.split(b"\r\n")[0]
    assert not any(b"/smuggled" in got.split(b"\r\n")[0] for got in upstream.received)
    assert not any(b"upgrade" in got.lower() for got in upstream.received)
    still_works(front)


def test_connect_opens_no_tunnel(front: RunningGateway, upstream: Upstream) -> None:
    answer = front.raw(b"CONNECT x:80 HTTP/1.1\r\n" + AUTH + b"\r\n" + SMUGGLED)
    assert status(answer) in (0, 400, 405)
    assert upstream.received == []
    still_works(front)


def test_a_connection_header_cannot_unframe_a_request(front: RunningGateway, upstream: Upstream) -> None:
    body = b"GET /smuggled HTTP/1.1\r\n\r\n"
    head = (
        b"POST /v1/x HTTP/1.1\r\n"
        + AUTH
        + b"Connection: close, Content-Length, Host\r\nContent-Length: %d\r\n\r\n"
    )
    assert status(front.raw(head % len(body) + body)) == 200
    assert len(upstream.received) == 1
    assert upstream.received[0].endswith(body)
    assert b"content-length: %d" % len(body) in upstream.received[0].lower()


def test_http_1_0_is_answered_and_closed(front: RunningGateway) -> None:
    answer = front.raw(b"GET /v1/models HTTP/1.0\r\nX-Api-Key: " + KEY.encode() + b"\r\n\r\n")
    assert status(answer) == 200
    assert answer.endswith(b"{}")


def test_a_client_that_closes_its_sending_side_or_dies_costs_nothing(front: RunningGateway) -> None:
    for number in range(50):
        connection = front.connect()
        connection.sendall(
            (b"POST /v1/x HTTP/1.1\r\n" + AUTH + b"Content-Length: 100\r\n\r\nabc")[: 10 + number * 3]
        )
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    still_works(front)
    wait_until(lambda: front.usage.in_flight == 0)


def test_half_open_connections_do_not_block_others(front: RunningGateway) -> None:
    connections = [front.connect() for _ in range(200)]
    for connection in connections:
        connection.sendall(b"GET /v1/mod")
    begun = time.monotonic()
    still_works(front)
    assert time.monotonic() - begun < 8.0, "it waited until they had to go"
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("value", ["x", '"><script>', "evil.example/a", "a b", "a,b\\", "[::1", "a:b:c"])
def test_forged_forwarding_headers_inject_nothing(
    value: str, front: RunningGateway, upstream: Upstream
) -> None:
    headers = dict.fromkeys(("X-Forwarded-Host", "X-Forwarded-Proto", "Referer", "Host"), value)
    assert front.ask("GET", "/ui/a", {**headers, "X-Forwarded-Escaped-Uri": "x"}).status == 200
    server = next(line for line in upstream.received[0].split(b"\r\n") if line.startswith(b"X-Gradio-Server"))
    assert not set(b"\"'<> \\,") & set(server.partition(b": ")[2])
    front.routes.page = None
    page = front.ask("GET", "/", {**headers, "Accept": "text/html"})
    assert b"<script" not in page.body

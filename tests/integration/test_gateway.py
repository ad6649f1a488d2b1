"""What passes through the gateway: streams, bodies of any size, paths, headers, WebSockets, counters."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.programs.front import (
    BEARER,
    KEY,
    RunningGateway,
    SimulatedEngine,
    Upstream,
    chat,
    events,
    gateway_process,
    resident_mb,
    wait_until,
)
from tests.programs.wire import replies

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]
StartUpstream = Callable[..., Upstream]
CHAT = "/v1/chat/completions"
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def send_chat(gateway: RunningGateway, **more: Any) -> socket.socket:
    body = chat(**more).encode()
    connection = gateway.connect()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_chat_answer_comes_through(front: RunningGateway) -> None:
    answer = front.ask("POST", CHAT, body=chat())
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Simulated answer: your question has 2 words."
    assert answer.json()["usage"]["completion_tokens"] == 7


def test_tokens_stream_one_by_one(start_engine: StartEngine, start_gateway: StartGateway) -> None:
    front = start_gateway(engine=start_engine("--first-token-ms", "10", "--token-rate", "20").socket)
    with send_chat(front, stream=True, stream_options={"include_usage": True}) as connection:
        times, received = [], b""
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
            times.append(time.monotonic())
    assert times[-1] - times[0] > 0.2, "the answer came in one piece"
    assert received.count(b"data: ") == 11  # role, seven tokens, finish reason, usage, [DONE]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_silent_engines_request(
    stream: bool, start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine("--first-token-ms", "60000")
    front = start_gateway(engine=engine.socket)
    with send_chat(front, stream=stream):
        wait_until(lambda: engine.counts()["running"] == 1)
    wait_until(lambda: engine.counts()["running"] == 0)
    assert engine.counts()["cancelled"] == 1
    wait_until(lambda: front.usage.in_flight == 0)
    assert front.usage.errors == 0


def test_a_client_that_leaves_in_mid_stream_ends_the_engines_request(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine("--tokens", "100000", "--token-rate", "50")
    front = start_gateway(engine=engine.socket)
    with send_chat(front, stream=True) as connection:
        assert b"200 OK" in connection.recv(65536)
    wait_until(lambda: engine.counts()["cancelled"] == 1)


def test_a_slow_reader_holds_the_engine_back_and_costs_no_memory(
    sockets: Path, start_engine: StartEngine
) -> None:
    engine = start_engine("--tokens", "90000")
    with gateway_process(sockets, "--engine", str(engine.socket)) as (pid, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", CHAT, chat(stream=True), BEARER)
        response = connection.getresponse()
        before_mb = resident_mb(pid)
        wait_until(lambda: _is_still(lambda: engine.counts()["generation_tokens"]))
        assert 0 < engine.counts()["generation_tokens"] < 90000, "the engine was not held back"
        assert resident_mb(pid) - before_mb < 10
        answer = response.read()
        connection.close()
    assert answer.count(b"data: ") == 90003
    assert answer.endswith(b"data: [DONE]\n\n")


def _is_still(count: Callable[[], int]) -> bool:
    before = count()
    time.sleep(1.5)
    return count() == before


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_upload_is_streamed(chunked: bool, sockets: Path, start_engine: StartEngine) -> None:
    size, block = 64 * 2**20, bytes(2**20)
    engine = start_engine()
    with gateway_process(sockets, "--engine", str(engine.socket)) as (pid, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        blocks = (block for _ in range(64))
        length = {} if chunked else {"Content-Length": str(size)}
        before_mb = resident_mb(pid)
        connection.request(
            "POST", "/v1/audio/transcriptions", blocks, {**BEARER, **length}, encode_chunked=chunked
        )
        response = connection.getresponse()
        assert response.read() == b'{"text": "Simulated transcription of %d bytes."}' % size
        connection.close()
        assert resident_mb(pid) - before_mb < 15


def test_more_than_a_hundred_streams_at_once(start_engine: StartEngine, start_gateway: StartGateway) -> None:
    engine = start_engine("--first-token-ms", "30000")
    front = start_gateway(engine=engine.socket)
    connections = [send_chat(front, stream=True, max_tokens=1) for _ in range(150)]
    wait_until(lambda: engine.counts()["running"] == 150)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/a%20b%2Fc?x=%2f&y=a+b&z=%C3%A9",
        "/v1//models",
        "/v1/x?a=|^`{}&b=%zz",
        "/v1/a;b=c,d/(e)!'*",
        "/node/other",
    ],
)
def test_path_and_query_arrive_byte_for_byte(
    path: str, start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    upstream = start_upstream(OK)
    front = start_gateway(engine=upstream.socket)
    for prefix in ("", "/node/host.example/4711"):
        sent = f"GET {prefix}{path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nConnection: close\r\n\r\n"
        assert b"200 OK" in front.raw(sent.encode())
    assert [got.split(b" ")[1] for got in upstream.received] == [path.encode()] * 2


def test_the_engine_never_sees_a_key(start_upstream: StartUpstream, start_gateway: StartGateway) -> None:
    upstream = start_upstream(OK)
    front = start_gateway(engine=upstream.socket)
    cookie = front.ask("POST", "/login", body=f"key={KEY}", key=False).header("Set-Cookie") or ""
    value = cookie.split(";")[0]
    headers = {
        "X-Api-Key": KEY,
        "Cookie": f"a=1; {value}; launcher_other_2=old; b=2",
        "X-Launcher-Probe": front.routes.probe_nonce,
        "Connection": "keep-alive, X-Private",
        "X-Private": "mine",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Proxy-Authorization": f"Bearer {KEY}",
        "X-Kept": "yes",
    }
    assert front.ask("POST", CHAT, headers, chat()).status == 200
    got = upstream.received[0].decode().lower()
    assert KEY.lower() not in got
    assert value.partition("=")[2].lower() not in got
    assert "cookie: a=1; b=2\r\n" in got
    assert "x-kept: yes" in got
    for name in ("authorization", "x-api-key", "x-launcher-probe", "x-private", "keep-alive:", "\r\nte:"):
        assert name not in got


def test_compressed_bodies_pass_unchanged_both_ways(
    start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    packed = gzip.compress(b"hello " * 1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    upstream = start_upstream(head + packed)
    front = start_gateway(engine=upstream.socket)
    answer = front.ask("POST", CHAT, {"Content-Encoding": "gzip"}, packed)
    assert answer.body == packed
    assert answer.header("Content-Encoding") == "gzip"
    assert upstream.received[0].endswith(packed)


def test_answers_keep_their_status_headers_and_redirects(
    start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    upstream = start_upstream(
        b"HTTP/1.1 307 Odd Reason\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"X-Latin: caf\xe9\r\nX-Utf: \xc3\xa9\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n"
    )
    front = start_gateway(engine=upstream.socket)
    answer = front.ask("GET", "/v1/x")
    assert answer.status == 307
    assert answer.header("Location") == "/elsewhere"
    assert [value for name, value in answer.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert answer.header("Keep-Alive") is None
    assert answer.header("X-Utf") is not None


def test_head_and_empty_answers(front: RunningGateway, start_upstream: StartUpstream) -> None:
    assert front.ask("HEAD", "/v1/models").body == b""
    assert int(front.ask("HEAD", "/v1/models").header("Content-Length") or 0) > 0
    upstream = start_upstream(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", None)
    front.routes.engine = upstream.socket
    answer = front.ask("DELETE", "/v1/x")
    assert (answer.status, answer.body, answer.header("X-A")) == (204, b"", "1")


def test_expect_100_continue_is_answered_after_the_key(
    front: RunningGateway,
) -> None:
    body = chat().encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    with front.connect() as connection:
        connection.sendall(f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    with front.connect() as connection:
        connection.sendall(f"{head}\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_an_engine_that_is_not_there_is_a_502(front: RunningGateway, sockets: Path) -> None:
    front.routes.engine = sockets / "nobody.sock"
    answer = front.ask("POST", CHAT, body=chat())
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "engine_unreachable"
    front.routes.engine = None
    assert front.ask("GET", "/v1/models").status == 502
    wait_until(lambda: front.usage.errors == 1)


def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error_event(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine("--tokens", "100000", "--token-rate", "50")
    front = start_gateway(engine=engine.socket)
    with send_chat(front, stream=True) as connection:
        received = b""
        while b"data: " not in received:
            received += connection.recv(65536)
        engine.kill()
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
    last = events(replies(received)[0].body)[-1]
    assert last["error"]["code"] == "engine_died"
    wait_until(lambda: front.usage.errors == 1)


def test_half_an_event_does_not_swallow_the_error_event(
    start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    upstream = start_upstream(SSE + piece(b'data: {"a":1}\n\ndata: {"b"'))
    front = start_gateway(engine=upstream.socket)
    answer = front.ask("POST", CHAT, body=chat(stream=True))
    assert b'\n\ndata: {"error"' in answer.body


def test_a_stream_that_was_done_gets_no_error_event(
    start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    upstream = start_upstream(SSE + piece(b"data: [DONE]\n\n"))
    front = start_gateway(engine=upstream.socket)
    assert front.ask("POST", CHAT, body=chat(stream=True)).body == b"data: [DONE]\n\n"
    assert front.usage.errors == 0


def test_other_answers_that_break_off_are_seen_to_be_incomplete(
    start_upstream: StartUpstream, start_gateway: StartGateway
) -> None:
    upstream = start_upstream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + piece(b"half"))
    front = start_gateway(engine=upstream.socket)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        front.ask("GET", "/v1/x")
    wait_until(lambda: front.usage.errors == 1)


def test_an_engine_restart_is_invisible(start_engine: StartEngine, start_gateway: StartGateway) -> None:
    engine = start_engine()
    front = start_gateway(engine=engine.socket)
    assert front.ask("POST", CHAT, body=chat()).status == 200
    engine.kill()
    assert front.ask("POST", CHAT, body=chat()).status == 502
    start_engine()
    assert front.ask("POST", CHAT, body=chat()).status == 200


def test_usage_counts_requests_tokens_and_errors(front: RunningGateway) -> None:
    front.ask("POST", CHAT, body=chat())
    front.ask("POST", CHAT, body=chat(stream=True, stream_options={"include_usage": True}))
    front.ask("POST", "/v1/embeddings", body='{"input": "three small words"}')
    front.ask("POST", CHAT, body="{broken")
    usage = front.ask("GET", "/status").json()["usage"]
    assert usage["requests"] == 4
    assert usage["errors"] == 1
    assert usage["prompt_tokens"] == 2 + 2 + 3
    assert usage["completion_tokens"] == 7 + 7
    assert usage["in_flight"] == 0


def test_only_use_renews_the_idle_clock(front: RunningGateway) -> None:
    front.usage.last_activity = 1.0
    for path in ("/health", "/status", "/metrics", "/version", "/login", "/favicon.ico"):
        front.ask("GET", path)
    front.ask("POST", CHAT, body=chat(), headers={"Authorization": "Bearer wrong"})
    assert front.usage.last_activity == 1.0
    front.ask("POST", CHAT, body=chat())
    assert front.usage.last_activity > 1.0


def test_the_log_has_one_line_per_request_and_no_secret(
    front: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        front.ask("POST", f"{CHAT}?token={KEY}", body=chat("my secret question"))
        front.raw(f"GET /v1 HTTP/1.1\r\nAuthorization : Bearer {KEY}\r\n\r\n".encode())
        wait_until(lambda: caplog.records)
    assert [record.message.split(" ")[:3] for record in caplog.records] == [["POST", CHAT, "200"]]
    assert KEY not in caplog.text
    assert "secret" not in caplog.text


def test_stopping_lets_a_stream_end_and_takes_no_new_request(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    front = start_gateway(engine=start_engine("--token-rate", "5").socket)
    with send_chat(front, stream=True) as connection:
        received = connection.recv(65536)
        stopping = threading.Thread(target=front.stop, args=(5.0,))
        stopping.start()
        # A connection in the very moment of the close meets CPython 3.11's gh-109564.
        wait_until(lambda: front.gateway.stopping)
        front.run(lambda: asyncio.sleep(0))
        assert not _accepts(front)
        while data := connection.recv(65536):
            received += data
        stopping.join(10)
    assert b"data: [DONE]" in received


def _accepts(front: RunningGateway) -> bool:
    try:
        front.connect().close()
    except OSError:
        return False
    return True


def test_stopping_does_not_wait_for_ever(start_engine: StartEngine, start_gateway: StartGateway) -> None:
    engine = start_engine("--first-token-ms", "60000")
    front = start_gateway(engine=engine.socket)
    with send_chat(front, stream=True):
        wait_until(lambda: engine.counts()["running"] == 1)
        begun = time.monotonic()
        front.stop(0.3)
        assert time.monotonic() - begun < 30.0, "the engine's first word comes after a minute"
        wait_until(lambda: engine.counts()["running"] == 0)

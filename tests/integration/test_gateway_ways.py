"""Which way a request goes and what it meets: keep-alive, limits of a body, usage, heartbeats."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.gateway import exchange
from tests.programs.front import (
    BEARER,
    KEY,
    RunningGateway,
    SimulatedEngine,
    Upstream,
    chat,
    events,
    wait_until,
)
from tests.programs.wire import read_all

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]
StartUpstream = Callable[..., Upstream]
CHAT = "/v1/chat/completions"


def test_keep_alive_renews_the_idle_clock_for_who_may(front: RunningGateway) -> None:
    front.usage.last_activity = 1.0
    assert front.ask("POST", "/keep-alive", key=False).status == 401
    cookie = (front.ask("POST", "/login", body=f"key={KEY}", key=False).header("Set-Cookie") or "").split(
        ";"
    )[0]
    foreign = {"Cookie": cookie, "Origin": "http://elsewhere.example"}
    assert front.ask("POST", "/keep-alive", foreign, key=False).status == 403
    assert front.usage.last_activity == 1.0
    assert front.ask("POST", "/node/n1/1/keep-alive", {"Cookie": cookie}, key=False).status == 204
    assert front.usage.last_activity > 1.0
    assert front.usage.requests == 0


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_beyond_the_limit_is_refused_and_the_client_hears_it(
    chunked: bool, front: RunningGateway
) -> None:
    front.gateway.body_max_bytes = 1_000_000
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 3000000"
    piece = b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n" if chunked else bytes(100_000)
    with front.connect() as connection:
        connection.sendall(f"{head}{framing}\r\n\r\n".encode())
        for _ in range(15):
            connection.sendall(piece)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    wait_until(lambda: front.usage.in_flight == 0)


def test_an_answer_before_the_end_of_a_long_upload_is_heard_at_once(
    start_upstream: StartUpstream, start_gateway: StartGateway, sockets: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(sockets / "early.sock"))
    listener.listen()

    def refuse() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 413 Too Long\r\nContent-Length: 3\r\n\r\nno!")
        connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    front = start_gateway(engine=sockets / "early.sock")
    with front.connect() as connection:
        head = f"POST /v1/x HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: {10**9}\r\n\r\n"
        connection.sendall(head.encode() + bytes(10_000))
        answer = b""
        while not answer.endswith(b"no!"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"Connection: close" in answer
    listener.close()


def test_a_kept_connection_that_the_engine_just_closed_costs_no_request(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine()
    front = start_gateway(engine=engine.socket)
    assert front.ask("POST", CHAT, body=chat()).status == 200
    engine.kill()
    start_engine()
    for _ in range(3):
        assert front.ask("POST", CHAT, body=chat()).status == 200
    assert front.usage.errors == 0


def test_a_client_that_did_not_ask_for_usage_sees_none_and_is_counted(front: RunningGateway) -> None:
    plain = events(front.ask("POST", CHAT, body=chat(stream=True)).body)
    assert not any(event.get("usage") for event in plain[:-1])
    asked = events(
        front.ask("POST", CHAT, body=chat(stream=True, stream_options={"include_usage": True})).body
    )
    assert asked[-2]["usage"]["completion_tokens"] == 7
    no = chat(stream=True, stream_options={"include_usage": False})
    assert not any(event.get("usage") for event in events(front.ask("POST", CHAT, body=no).body)[:-1])
    with front.connect() as connection:  # a question that comes in pieces
        body = chat(stream=True).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for byte in body:
            connection.sendall(b"1\r\n%c\r\n" % byte)
            time.sleep(0.001)
        connection.sendall(b"0\r\n\r\n")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
        assert b"_tokens" not in received
    wait_until(lambda: front.usage.in_flight == 0)
    assert front.usage.completion_tokens == 4 * 7


def test_a_silent_stream_is_kept_alive_between_events_only(
    start_upstream: StartUpstream, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.2)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream = start_upstream(head, b"e\r\ndata: one\n\ndat\r\n", None)
    front = start_gateway(engine=upstream.socket)
    with front.connect() as connection:
        body = chat(stream=True)
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {BEARER['Authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while b"data: one" not in received:
            received += connection.recv(65536)
        connection.settimeout(1.0)
        received += read_all(connection)[0]
    assert received.endswith(b"data: one\n\n\r\n"), "half an event was torn"
    upstream = start_upstream(head, b"b\r\ndata: one\n\n\r\n", None, name="whole.sock")
    front.routes.engine = upstream.socket
    with front.connect() as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {BEARER['Authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while received.count(b": keep-alive\n\n") < 2:
            received += connection.recv(65536)
    assert b"data: one\n\n" in received

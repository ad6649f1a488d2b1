"""Rarer turns of HTTP: upgrades that are not taken, early answers, leaving with two questions open, slow last bytes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.gateway import client
from tests.programs.front import KEY, RunningGateway, SimulatedEngine, Upstream, chat, wait_until

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]
StartUpstream = Callable[..., Upstream]
CHAT = "/v1/chat/completions"
HEAD = f"Host: x\r\nX-Api-Key: {KEY}\r\n"


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_a_post_that_also_offers_http_2_is_answered(
    chunked: bool, apart: bool, front: RunningGateway
) -> None:
    body = chat().encode()
    upgrade = (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    )
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with front.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\n{HEAD}{upgrade}{framing}\r\n\r\n".encode())
        if apart:
            time.sleep(0.1)
            connection.sendall(sent[:20])
            time.sleep(0.1)
            connection.sendall(sent[20:])
        else:
            connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"upgrade" not in received.lower()
    assert json.loads(received.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 7


def test_nothing_follows_a_post_that_offered_http_2(front: RunningGateway) -> None:
    body = chat().encode()
    head = f"POST {CHAT} HTTP/1.1\r\n{HEAD}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {len(body)}\r\n\r\n"
    received = front.raw(head.encode() + body + f"GET /v1/models HTTP/1.1\r\n{HEAD}\r\n".encode())
    assert received.count(b"HTTP/1.1 ") == 1
    assert front.usage.requests == 1


def test_an_engine_that_refuses_during_an_upload_and_hangs_up_is_heard(
    sockets: Path, start_gateway: StartGateway
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(sockets / "early.sock"))
    listener.listen()

    def refuse() -> None:
        for _ in range(10):
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Long\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
            connection.close()

    threading.Thread(target=refuse, daemon=True).start()
    front = start_gateway(engine=sockets / "early.sock")
    for _ in range(10):
        answer = front.ask("POST", "/v1/x", body=bytes(1_000_000))
        assert (answer.status, answer.body) == (413, b"no!")
    listener.close()


def test_a_client_that_leaves_with_two_questions_open_ends_the_engines_work(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine("--first-token-ms", "60000")
    front = start_gateway(engine=engine.socket)
    body = chat()
    asked = f"POST {CHAT} HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    with front.connect() as connection:
        connection.sendall(asked * 2)
        wait_until(lambda: engine.counts()["running"] == 1)
    wait_until(lambda: engine.counts()["running"] == 0)


def test_who_reads_slowly_gets_the_end_of_the_answer_too(
    start_upstream: StartUpstream, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KEEP_TIMEOUT_S", 1.0)
    size = 3_000_000
    upstream = start_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    front = start_gateway(engine=upstream.socket)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", front.port))
        connection.sendall(f"GET /v1/x HTTP/1.1\r\n{HEAD}\r\n".encode())
        received = 0
        while received < size and (piece := connection.recv(65536)):
            received += len(piece)
            time.sleep(0.05)
    assert received >= size


def test_bytes_behind_an_eager_websocket_all_arrive(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    front = start_gateway(engine=start_engine().socket)
    frame = b"\x82\xff" + (200_000).to_bytes(8, "big") + bytes(4) + bytes(200_000)  # masked with zeros
    with front.connect() as connection:
        connection.sendall(
            f"GET /v1/realtime HTTP/1.1\r\n{HEAD}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            + frame * 4
        )
        received = 0
        while received < 4 * 200_000:
            piece = connection.recv(65536)
            assert piece
            received += len(piece)


def test_a_limited_keys_refusals_are_counted(front: RunningGateway) -> None:
    front.usage.last_activity = 1.0
    front.usage.refuse("course", CHAT, 429)
    usage = front.ask("GET", "/status").json()["usage"]
    assert (usage["requests"], usage["errors"], usage["keys"]["course"]["errors"]) == (1, 1, 1)
    assert usage["last_activity"] == 1.0

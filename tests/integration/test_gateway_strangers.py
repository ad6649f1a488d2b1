"""Whoever has no key cannot make the gateway hold much: answers nobody reads, heads without end, places of others."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from tests.programs.front import KEY, RunningGateway, gateway_process, resident_mb, wait_until
from tests.programs.replicas import endpoint


@pytest.mark.parametrize("target", ["/", "/health"])
def test_answers_that_nobody_reads_do_not_pile_up(target: str, sockets: Path) -> None:
    padding = "X-Padding: " + "x" * 500
    asked = f"GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n{padding}\r\n\r\n".encode()
    with gateway_process(sockets) as (pid, port), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(1.0)
        before_mb = resident_mb(pid)
        with contextlib.suppress(OSError):  # it takes no more, or has closed: both are right
            for _ in range(150):
                connection.sendall(asked * 60)
                time.sleep(0.01)
        assert resident_mb(pid) - before_mb < 10


def test_heads_of_many_tiny_fields_are_refused_while_they_come(sockets: Path) -> None:
    with gateway_process(sockets) as (pid, port), contextlib.ExitStack() as stack:
        before_mb = resident_mb(pid)
        for _ in range(30):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            with contextlib.suppress(OSError):
                connection.sendall(b"GET / HTTP/1.1\r\n" + b"ab:cd\r\n" * 30_000)
        time.sleep(0.5)
        assert resident_mb(pid) - before_mb < 15


def test_who_has_a_key_gets_in_when_strangers_hold_every_place(front: RunningGateway) -> None:
    front.gateway._clients_max = 20
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(front.connect())
        owner.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
        assert b"200 OK" in owner.recv(65536)
        for _ in range(60):
            stack.enter_context(front.connect()).sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        wait_until(lambda: len(front.gateway._clients) == 20)
        assert front.ask("GET", "/v1/models").status == 200
        owner.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
        assert b"200 OK" in owner.recv(65536), "a stranger took the place of who had shown the key"


def test_who_has_a_key_gets_in_when_another_key_holds_every_place(tmp_path: Path) -> None:
    _, secret = keys.new(SessionPaths(tmp_path), "greedy", requests_per_minute=1)

    def asked(key: str) -> bytes:
        return f"GET /whoami HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n".encode()

    with endpoint(further=SessionPaths(tmp_path).further_keys) as front, contextlib.ExitStack() as stack:
        front.gateway._clients_max = 20
        owner = stack.enter_context(front.connect())
        owner.sendall(asked(KEY))
        assert b"200 OK" in owner.recv(65536)
        for _ in range(19):
            greedy = stack.enter_context(front.connect())
            greedy.sendall(asked(secret))
            assert b"200 OK" in greedy.recv(65536)
        assert len(front.gateway._clients) == 20
        for _ in range(5):
            other = stack.enter_context(front.connect())
            other.sendall(asked(KEY))
            assert b"200 OK" in other.recv(65536)
        owner.sendall(asked(KEY))
        assert b"200 OK" in owner.recv(65536), "who has few connections keeps them"

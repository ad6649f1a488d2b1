"""The local port of a connection: it stays, says where it leads, and never gives half an answer for a whole one."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.api.tunnel.relay import Relay
from launcher.errors import RequestError
from tests.programs.front import Answer, Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.close()


def ask(relay: Relay, body: bytes = b"{}") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body)
        with connection.getresponse() as response:
            return Answer(response.status, response.getheaders(), response.read())


def test_without_a_way_it_says_so_as_openais_clients_understand_it(relay: Relay) -> None:
    relay.hold("The session is PENDING.")
    answer = ask(relay, b"x" * 3_000_000)  # the rest of a long question does not take the answer away
    assert (answer.status, answer.header("Retry-After")) == (503, "2")
    assert answer.json()["error"] == {
        "message": "The session is PENDING.", "type": "server_error", "code": "not_connected", "param": None,
    }  # fmt: skip
    relay.hold("The session is over.", over=True)
    assert (ask(relay).header("X-Should-Retry"), ask(relay).header("Retry-After")) == ("false", None)


def test_it_leads_on_to_another_place_under_the_same_port(relay: Relay, sockets: Path) -> None:
    port = relay.port
    for name in ("one.sock", "two.sock"):
        upstream = Upstream(sockets, OK, name=name)
        relay.lead(str(upstream.socket))
        assert (ask(relay).body, relay.port) == (b"hello", port)
        assert len(upstream.received) == 1
        upstream.close()


def test_whose_place_is_gone_is_told_to_try_again_and_it_is_noticed(sockets: Path) -> None:
    noticed = threading.Event()
    with contextlib.closing(Relay(on_trouble=noticed.set)) as relay:
        relay.lead(str(sockets / "gone.sock"))
        assert ask(relay).status == 503
        assert noticed.is_set()
        noticed.clear()
        # What ssh does when the port at the other end is closed.
        with contextlib.closing(Upstream(sockets)) as silent:
            relay.lead(str(silent.socket))
            with pytest.raises(http.client.RemoteDisconnected):
                ask(relay)
        assert noticed.wait(20)


def test_an_answer_that_is_cut_off_breaks(relay: Relay, sockets: Path) -> None:
    started = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nThe answer is"  # its end is the connection's end
    with contextlib.closing(Upstream(sockets, started, None)) as upstream:
        relay.lead(str(upstream.socket))
        with socket.create_connection(("127.0.0.1", relay.port), 20) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b""
            while not got.endswith(b"answer is"):
                piece = client.recv(1000)
                assert piece, got
                got += piece
            relay.hold("The connection was lost.")
            with pytest.raises(ConnectionResetError):
                client.recv(1000)
        assert upstream.left.wait(20)


def test_a_port_that_is_taken_or_none_is_said(relay: Relay) -> None:
    for port in (relay.port, 70_000, -1):
        with pytest.raises(RequestError, match=f"Port {port} of this machine cannot be used"):
            Relay(port)


def test_it_ends_quietly_while_many_connect(caplog: pytest.LogCaptureFixture) -> None:
    def knock(port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                with socket.create_connection(("127.0.0.1", port), 20) as client:
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    client.recv(1000)

    for turn in range(20):
        relay = Relay()
        guests = [threading.Thread(target=knock, args=(relay.port,)) for _ in range(4)]
        for guest in guests:
            guest.start()
        for _ in range(turn % 5):
            ask(relay)
        relay.close()
        for guest in guests:
            guest.join(20)
            assert not guest.is_alive()
    assert caplog.text == ""  # asyncio's own troubles


def test_nothing_answers_after_the_end() -> None:
    relay = Relay()
    relay.close()
    relay.close()
    relay.hold(
        "The connection was lost."
    )  # as the thread may say that watches it, and is not to hang or fail
    relay.lead("/gone.sock")
    with pytest.raises(ConnectionRefusedError):
        ask(relay)

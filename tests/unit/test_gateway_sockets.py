"""The gateway's port belongs to it in both address families."""

from __future__ import annotations

import asyncio
import socket

import pytest

from launcher.gateway.sockets import listen


def test_nobody_else_can_have_the_same_port_of_the_other_family() -> None:
    sockets = listen("0.0.0.0")
    try:
        port = sockets[0].getsockname()[1]
        if len(sockets) == 1:
            pytest.skip("this machine has no IPv6")
        assert sockets[1].getsockname()[1] == port
        with socket.socket(socket.AF_INET6) as other:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("::", port))
    finally:
        for made in sockets:
            made.close()


def test_an_address_of_its_own_is_bound_alone() -> None:
    (only,) = listen("127.0.0.1")
    with only:
        assert only.getsockname()[0] == "127.0.0.1"


async def test_small_pieces_are_sent_at_once() -> None:
    """The event of a stream must not wait until the client has confirmed the one before (Nagle's algorithm)."""
    made: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(transport.get_extra_info("socket"))

    (only,) = listen("127.0.0.1")
    async with await asyncio.get_running_loop().create_server(Accepted, sock=only):
        with socket.create_connection(only.getsockname()):
            assert (await made).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_name_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError, match=r".+"):
        listen("no.such.host.invalid")

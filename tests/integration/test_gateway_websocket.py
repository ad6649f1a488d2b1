"""WebSockets through the gateway: relayed, refused, closed on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.programs.front import BEARER, KEY, RunningGateway, SimulatedEngine, wait_until

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]


def websocket(
    front: RunningGateway, headers: dict[str, str], *protocols: str, path: str = "/v1/realtime"
) -> Any:
    async def talk() -> tuple[str | None, list[Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(front.url + path, headers=headers, protocols=protocols) as connection,
        ):
            got: list[Any] = [(await connection.receive_json())["type"]]
            await connection.send_str("hello")
            got.append(await connection.receive_str())
            await connection.send_bytes(b"\x00" * 3_000_000)
            got.append(len(await connection.receive_bytes()))
            await connection.ping()
        return connection.protocol, got

    return asyncio.run(talk())


@pytest.mark.parametrize("path", ["/v1/realtime", "/node/n1/5000/v1/realtime"])
def test_a_websocket_is_relayed(path: str, front: RunningGateway) -> None:
    protocol, got = websocket(front, BEARER, "other", "realtime", path=path)
    assert protocol == "realtime"
    assert got == ["session.created", "hello", 3_000_000]
    wait_until(lambda: front.usage.websockets == 0)


def test_a_browsers_openai_client_sends_the_key_as_a_websocket_protocol(front: RunningGateway) -> None:
    protocol, _ = websocket(front, {}, "realtime", f"openai-insecure-api-key.{KEY}")
    assert protocol == "realtime"
    for name in ("realtime", "openai-insecure-api-key.wrong"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            websocket(front, {}, name)
        assert refused.value.status == 401


def test_a_websocket_that_the_engine_refuses(front: RunningGateway) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        websocket(front, BEARER, path="/v1/nothing")
    assert refused.value.status == 404


def test_a_websocket_whose_client_vanishes_is_closed_at_the_engine(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine()
    front = start_gateway(engine=engine.socket)
    with front.connect() as connection:
        connection.sendall(
            f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b"101" in connection.recv(65536)
        wait_until(lambda: engine.counts()["running"] == 1)
    wait_until(lambda: engine.counts()["running"] == 0)


def test_a_websocket_whose_engine_dies_is_closed(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine()
    front = start_gateway(engine=engine.socket)

    async def talk() -> aiohttp.WSMessage:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{front.url}/v1/realtime", headers=BEARER) as connection,
        ):
            await connection.receive_json()
            engine.kill()
            return await connection.receive(60)

    assert asyncio.run(talk()).type is aiohttp.WSMsgType.CLOSED

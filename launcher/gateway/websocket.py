"""Relays one WebSocket between the client and an upstream, message by message, with each side's pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMessage, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from launcher.gateway.keys import KEY_PROTOCOL

_LARGEST_MESSAGE_BYTES = 64 * 2**20
_CLOSE_TIMEOUT_S = 5.0
_HANDSHAKE = (
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
)
_Socket = ClientWebSocketResponse | web.WebSocketResponse


def wanted(request: web.BaseRequest) -> bool:
    """Whether the request asks for a WebSocket."""
    return (
        request.method == "GET"
        and request.headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in request.headers.get("Connection", "").lower()
    )


def protocols(request: web.BaseRequest) -> list[str]:
    """The subprotocols that the client offers."""
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    return [name.strip() for name in offered.split(",") if name.strip()]


async def relay(
    request: web.BaseRequest,
    session: ClientSession,
    url: URL,
    headers: CIMultiDict[str],
    touch: Callable[[], None],
) -> web.StreamResponse:
    """Open the upstream's WebSocket, then the client's, and relay until one closes; `touch` is called per message.

    Raises WSServerHandshakeError when the upstream refuses, and ClientError or OSError when it does not answer.
    """
    for name in _HANDSHAKE:
        headers.popall(name, None)
    offered = [name for name in protocols(request) if not name.startswith(KEY_PROTOCOL)]
    upstream = await session.ws_connect(
        url,
        protocols=offered,
        headers=headers,
        autoping=False,
        autoclose=False,
        max_msg_size=_LARGEST_MESSAGE_BYTES,
        timeout=ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
    )
    client = web.WebSocketResponse(
        protocols=[upstream.protocol] if upstream.protocol else (),
        autoping=False,
        autoclose=False,
        compress=False,
        max_msg_size=_LARGEST_MESSAGE_BYTES,
        timeout=_CLOSE_TIMEOUT_S,
    )
    pumps: list[asyncio.Task[tuple[int, bytes]]] = []
    try:
        await client.prepare(request)
        pumps = [
            asyncio.create_task(_pump(client, upstream, touch)),
            asyncio.create_task(_pump(upstream, client, touch)),
        ]
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        code, reason = next(iter(done)).result()
        await asyncio.gather(
            upstream.close(code=code, message=reason), client.close(code=code, message=reason)
        )
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        if not upstream.closed:  # the client is gone: no time for a closing handshake
            await upstream.close(code=1001)
    return client


async def _pump(source: _Socket, sink: _Socket, touch: Callable[[], None]) -> tuple[int, bytes]:
    """Pass messages on until `source` closes; the close code and reason for the other side."""
    while True:
        message: WSMessage = await source.receive()
        kind, data = message.type, message.data
        try:
            if kind is WSMsgType.TEXT:
                await sink.send_str(data)
            elif kind is WSMsgType.BINARY:
                await sink.send_bytes(data)
            elif kind is WSMsgType.PING:
                await sink.ping(data)
            elif kind is WSMsgType.PONG:
                await sink.pong(data)
            elif kind is WSMsgType.CLOSE:
                return _sendable(data), str(message.extra or "").encode()
            elif kind is WSMsgType.ERROR:
                return 1011, b""
            else:
                return 1001, b""
        except ConnectionError:
            return 1001, b""
        if kind in (WSMsgType.TEXT, WSMsgType.BINARY):
            touch()


def _sendable(code: object) -> int:
    """A close code that may be sent: 1005 and 1006 only stand for one that was not (RFC 6455 section 7.4.1)."""
    if not isinstance(code, int) or code in (0, 1005, 1006, 1015):
        return 1000
    return code

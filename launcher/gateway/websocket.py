"""What the gateway knows of WebSockets: after the handshake it passes bytes and looks at the first of each piece."""

from __future__ import annotations

from launcher.gateway.request import Headers, Request

_CONTROL_FRAME_BYTES = 2 + 4 + 125  # RFC 6455 section 5.5: the longest control frame, masked
_CLOSE_PING_PONG = (0x8, 0x9, 0xA)


def agreed(request: Request, answer: Headers) -> bool:
    """Whether a 101 with these headers is to the WebSocket that was asked for."""
    return request.wants_websocket and answer.text(b"upgrade").lower() == "websocket"


def shows_activity(data: bytes) -> bool:
    """Whether `data` is more than one control frame; pings of both sides' libraries must not keep a session awake."""
    return len(data) > _CONTROL_FRAME_BYTES or (data[0] & 0x0F) not in _CLOSE_PING_PONG

"""The heads that go on: a client's request for an upstream, an upstream's answer for the client.

Only whole fields are kept or left out; what the parser let pass goes on byte for byte. Each side gets framing of our
own, so that two programs never have to agree on where a message ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from launcher.gateway.keys import without_our_cookies
from launcher.gateway.request import KEY_PROTOCOL, Headers, Request

# RFC 9110 section 7.6.1, and what only older clients still send. Framing is written anew on each side.
_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length"),
    )
)
_OURS = frozenset((
    *(b"authorization", b"x-api-key", b"expect", b"cookie"),
    *(b"x-launcher-probe", b"x-launcher-own", b"x-launcher-for-others", b"x-launcher-hold"),
))  # fmt: skip
_NOT_SENT = _HOP_BY_HOP | _OURS
_FORGEABLE = frozenset((b"x-gradio-server", b"forwarded"))
_NEVER_NAMED = frozenset((b"host", b"content-type"))  # Connection cannot take these away
_HANDSHAKE = b"sec-websocket-protocol"


def request_head(
    request: Request, target: str, page_url: str | None, *, own: bool = False, key: str | None = None
) -> bytes:
    """The head for the upstream: no hop-by-hop fields, no key, no cookie of ours, nothing forged for the page.

    `page_url` is given for the page alone: its public address (facts on Gradio: the header X-Gradio-Server). `own`
    tells the upstream, in X-Launcher-Own, that the request came with the session's own key and not with a further one.
    `key` is given for another gateway: its own key, with which it must not take `own` to be the one who asks.
    """
    headers, websocket = request.headers, request.wants_websocket
    dropped = _NOT_SENT | _named(headers) if b"connection" in headers else _NOT_SENT
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), target.encode("ascii"))]
    for name, lower, value in headers.fields:
        if lower in dropped or lower == _HANDSHAKE:  # it may hold the key
            continue
        if page_url is not None and (lower in _FORGEABLE or lower.startswith(b"x-forwarded-")):
            continue
        lines.append(name + b": " + value)
    if b"host" not in headers:
        lines.append(b"Host: localhost")
    if b"cookie" in headers and (cookies := without_our_cookies("; ".join(headers.all(b"cookie")))):
        lines.append(b"Cookie: " + cookies.encode("latin-1"))
    if page_url is not None:
        lines.append(b"X-Gradio-Server: " + page_url.encode("ascii"))
    if key is not None:
        lines.append(b"Authorization: Bearer " + key.encode("ascii"))
        if not own:
            lines.append(b"X-Launcher-For-Others: 1")
    elif own:
        lines.append(b"X-Launcher-Own: 1")
    if websocket:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket")
        offered = [name for name in headers.words(_HANDSHAKE) if not name.startswith(KEY_PROTOCOL)]
        if offered:
            lines.append(b"Sec-WebSocket-Protocol: " + ", ".join(offered).encode("latin-1"))
    elif request.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif request.length or b"content-length" in headers:
        lines.append(b"Content-Length: %d" % request.length)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def framing(request: Request, status: int, headers: Headers, keep: bool) -> tuple[list[bytes], bool, bool]:
    """The fields that end an answer's head, whether its body comes in chunks, and whether the connection stays."""
    lines, chunked = [], False
    if b"content-length" in headers:
        if status != 204:
            lines.append(b"Content-Length: " + headers.text(b"content-length").encode())
    elif request.method != "HEAD" and status not in (204, 304):
        chunked = request.version == "1.1"
        keep &= chunked
        lines += [b"Transfer-Encoding: chunked"] if chunked else []
    if not keep:
        lines.append(b"Connection: close")
    return lines, chunked, keep


def answer_head(
    status: int, reason: bytes, headers: Headers, framing: Iterable[bytes], *, upgrade: bool = False
) -> bytes:
    """The head for the client; `framing` is what says where the body ends and whether the connection stays."""
    dropped = _HOP_BY_HOP | _named(headers) if b"connection" in headers else _HOP_BY_HOP
    lines = [b"HTTP/1.1 %d %s" % (status, reason or _phrase(status))]
    lines += [name + b": " + value for name, lower, value in headers.fields if lower not in dropped]
    if status == 429 and b"retry-after" not in headers:  # not every engine says when
        lines.append(b"Retry-After: 5")
    if upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket")
    lines += framing
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _named(headers: Headers) -> frozenset[bytes]:
    """The fields that Connection names: they belong to one connection too."""
    return frozenset(word.lower().encode("latin-1") for word in headers.words(b"connection")) - _NEVER_NAMED


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Unknown"

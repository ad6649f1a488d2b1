"""Streams one HTTP request to an upstream on a Unix socket and its answer back.

Nothing is held beyond a few buffers: each side is read only as fast as the other takes it. When the client leaves,
aiohttp cancels the request's task (`handler_cancellation`) and the upstream connection is closed on the way out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    UnixConnector,
    web,
)
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from launcher.gateway import answers
from launcher.gateway.keys import without_our_cookies
from launcher.gateway.usage import Tail

# RFC 9110 section 7.6.1, and what only older clients still send.
_HOP_BY_HOP = (
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)
_OURS = ("Authorization", "X-Api-Key", "X-Launcher-Probe", "Expect")
_PORTAL = ("X-Gradio-Server", "Forwarded")
_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
# A request or an answer known to be this small is sent in one piece: half the system calls of a streamed one.
_SMALL_BYTES = 65536
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRequestError(Exception):
    """The client's request cannot be passed on; the text says why."""


class Upstreams:
    """Connections to the engine and the page, kept open between requests."""

    def __init__(self) -> None:
        self._sessions: dict[Path, ClientSession] = {}

    def session(self, socket: Path) -> ClientSession:
        """The client for the upstream that listens on `socket`."""
        session = self._sessions.get(socket)
        if session is None:
            session = self._sessions[socket] = ClientSession(
                # uvicorn closes an idle connection after 5 s; ours must be dropped before, or a POST could meet the
                # close and fail. aiohttp's own limit of 100 connections would make the 101st stream wait.
                connector=UnixConnector(str(socket), limit=0, keepalive_timeout=3.0),
                timeout=ClientTimeout(total=None, sock_connect=10.0),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_AUTO_HEADERS,
                max_line_size=65536,
                max_field_size=65536,
            )
        return session

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def upstream_url(path: str, query: str) -> URL:
    """The URL whose path and query reach the upstream byte for byte."""
    return URL(f"http://engine{path}{query}", encoded=True)


def request_headers(request: web.BaseRequest, *, page_url: str | None) -> CIMultiDict[str]:
    """The headers for the upstream: no hop-by-hop ones, no key, no cookie of ours, nothing forged for the page.

    `page_url` is given for the page alone: its public address (facts on Gradio: the header X-Gradio-Server).
    """
    headers = _end_to_end(request.headers)
    if _unsendable(headers):
        raise BadRequestError("A header has bytes that are neither ASCII nor UTF-8.")
    for name in _OURS:
        headers.popall(name, None)
    if "Cookie" in headers:
        cookies = without_our_cookies("; ".join(headers.popall("Cookie")))
        if cookies:
            headers["Cookie"] = cookies
    if page_url is not None:
        for name in [name for name in headers if name.lower().startswith("x-forwarded-")]:
            headers.popall(name, None)
        for name in _PORTAL:
            headers.popall(name, None)
        headers["X-Gradio-Server"] = page_url
    return headers


async def forward(
    request: web.BaseRequest, session: ClientSession, url: URL, headers: CIMultiDict[str], tail: Tail
) -> tuple[web.StreamResponse, bool]:
    """Send the request to `url` and stream its answer; False beside it when the answer broke off.

    `tail` sees the end of the answer. Raises BadRequestError for a request that is no valid HTTP, and ClientError or
    OSError when the upstream does not answer.
    """
    await _continue(request)
    data = await _body(request)
    try:
        upstream = await session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        )
    except (ClientError, OSError) as error:
        if isinstance(request.content.exception(), web.RequestPayloadError):
            raise BadRequestError("The body is broken.") from error
        raise
    try:
        return await _answer(request, upstream, tail)
    finally:
        if upstream.content.at_eof():
            upstream.release()
        else:
            upstream.close()


async def _continue(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, which aiohttp leaves to its router; the key has been checked by now."""
    expect = request.headers.get("Expect")
    if expect is None:
        return
    if expect.lower() != "100-continue":
        raise BadRequestError("Only 'Expect: 100-continue' is understood.")
    if request.transport is not None and request.version >= (1, 1) and request.body_exists:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _body(request: web.BaseRequest) -> bytes | AsyncIterator[bytes] | None:
    if not request.body_exists:
        return None
    length = request.content_length
    if length is not None and length <= _SMALL_BYTES:
        try:
            return await request.content.read()
        except web.RequestPayloadError as error:
            raise BadRequestError("The body is broken.") from error
    return request.content.iter_any()


async def _answer(
    request: web.BaseRequest, upstream: ClientResponse, tail: Tail
) -> tuple[web.StreamResponse, bool]:
    headers = _end_to_end(upstream.headers)
    for name in _unsendable(headers):
        headers.popall(name, None)
    status, reason, length = upstream.status, upstream.reason, upstream.content_length
    if length is not None and length <= _SMALL_BYTES and request.method != "HEAD":
        body = await upstream.content.read()
        tail.feed(body)
        return web.Response(status=status, reason=reason, headers=headers, body=body), True
    response = web.StreamResponse(status=status, reason=reason, headers=headers)
    await response.prepare(request)
    content = upstream.content
    while True:
        try:
            chunk = await content.readany()
        except (ClientError, OSError):
            return response, await _broken_off(request, response, upstream, tail)
        if not chunk:
            break
        tail.feed(chunk)
        await response.write(chunk)
    await response.write_eof()
    return response, True


async def _broken_off(
    request: web.BaseRequest, response: web.StreamResponse, upstream: ClientResponse, tail: Tail
) -> bool:
    """End an answer whose upstream closed too early; True when it was whole all the same."""
    if upstream.content_type != "text/event-stream":
        # Without the last chunk or the promised length the client sees that the answer is not whole.
        if request.transport is not None:
            request.transport.abort()
        return False
    whole = tail.ends_with(b"data: [DONE]\n\n")
    if not whole:
        await response.write((b"" if tail.ends_with(b"\n\n") else b"\n\n") + answers.broken_stream_event())
    await response.write_eof()
    return whole


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """A copy without the headers that belong to one connection, among them those that Connection names."""
    kept = CIMultiDict(headers)
    for value in kept.getall("Connection", ()):
        for name in value.split(","):
            kept.popall(name.strip(), None)
    for name in _HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def _unsendable(headers: CIMultiDict[str]) -> list[str]:
    """The names of headers whose bytes are neither ASCII nor UTF-8: aiohttp can read but not write them."""
    return [name for name, value in headers.items() if not value.isascii() and _SURROGATE.search(value)]

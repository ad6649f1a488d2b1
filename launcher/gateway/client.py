"""One connection of a client: its requests one after the other, each in its own `Exchange`.

Parsing is llhttp's (`httptools`), strict; what it refuses is refused here. Owns the order of answers, the limits of a
head, and the time that a connection may take.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from typing import Protocol, cast

import httptools

from launcher.gateway.answers import Answer, refused
from launcher.gateway.exchange import Exchange
from launcher.gateway.keys import Holder
from launcher.gateway.request import Headers, Request

HEAD_TIMEOUT_S, KEEP_TIMEOUT_S, LINGER_S, WRITE_STALL_S = 10.0, 75.0, 5.0, 120.0
_TARGET_BYTES, _HEAD_BYTES, _FIELDS = 16384, 32768, 200
_IDLE_BYTES = 65536  # of a chunked body's framing or trailers, without any content
_PIPELINED = 64  # requests that came at once and wait for their turn
_WAITING = 8  # from so many on nothing more is read
_FOREVER = float("inf")


class Listener(Protocol):
    """What a connection needs of the gateway."""

    body_max_bytes: int
    stopping: bool

    def decide(self, exchange: Exchange) -> None:
        """Answer or forward."""

    def ending(self, exchange: Exchange) -> None:
        """The last byte of its answer goes out now."""

    def ended(self, exchange: Exchange) -> None:
        """The exchange is over."""

    def left(self, client: Client) -> None:
        """The connection is closed."""


class _TooBigError(Exception):
    """A head beyond the limits; the text is for the client."""


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._receiving: Exchange | None = None  # the exchange whose body is being parsed
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._idle_bytes = 0
        self._body_only = False  # the parser reads the head that `_read_body_anew` wrote for it
        # For what the parser or a limit refused; said after the answers to the requests before it.
        self._refusal: Answer | None = None
        self._lingering = self._raw = self._advancing = self._waits = self._in_head = False
        self._deadline = time.monotonic() + HEAD_TIMEOUT_S
        self.closing = self.held = False
        self._unsent_bytes, self._unsent_since = 0, 0.0
        self._connected = False
        self.holder: Holder | None = None  # whose right key has come by it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connected = True
        if self.closing:  # given up before it began
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        while self._waiting:
            self._waiting.popleft().incoming.drop()
        if self._current is not None:
            self._current.cancel()
        self.listener.left(self)
        # Both hold this object: rings that only the collector would find.
        self._receiving = None
        del self._parser

    # -- what came

    def data_received(self, data: bytes) -> None:
        if self._lingering or self.closing:
            return
        if self._raw and self._receiving is not None:
            self._receiving.incoming.feed(data)
        else:
            self._parse(data)
        self._advance()

    def _parse(self, data: bytes) -> None:
        self._idle_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooBigError):
                self._refuse(refused(431, str(error.__context__), "head_too_long", close=True))
            else:
                self._refuse(refused(400, "This is not valid HTTP.", "bad_request", close=True))
        if self._idle_bytes > _IDLE_BYTES:  # the parser's calls set it back
            self._refuse(refused(431, "Too much without any content.", "head_too_long", close=True))

    def _after_upgrade(self, rest: bytes) -> None:
        # llhttp reads no further after any Upgrade; without a body the request is an ordinary one all the same.
        exchange, self._raw = self._receiving, True
        if exchange is None:
            return
        exchange.request.keep_alive = False
        if not exchange.request.wants_websocket:
            self._read_body_anew(exchange, rest)
            return
        if not exchange.incoming.complete:
            exchange.broken_body = refused(
                400, "A WebSocket's request has no body.", "bad_request", close=True
            )
        if rest:
            exchange.incoming.feed(rest)

    def _read_body_anew(self, exchange: Exchange, rest: bytes) -> None:
        # Java's HttpClient asks for h2c with a POST too; who does not take it passes it over (RFC 9110 section 7.8).
        if exchange.incoming.complete:
            self._receiving = None
            return
        request = exchange.request
        framing = b"Transfer-Encoding: chunked" if request.chunked else b"Content-Length: %d" % request.length
        self._parser, self._raw, self._body_only = httptools.HttpRequestParser(self), False, True
        self._parser.feed_data(b"POST / HTTP/1.1\r\nConnection: close\r\n" + framing + b"\r\n\r\n")
        self._body_only = False
        self._parse(rest)

    def _refuse(self, answer: Answer) -> None:
        if self._receiving is not None and not self._receiving.incoming.complete:
            self._receiving.broken_body = answer
        elif self._refusal is None:
            self._refusal = answer

    def _advance(self) -> None:
        """Work on the requests in their order; one at a time."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while not self.closing:
                if self._current is not None:
                    self._current.flush()
                    if self._current is not None:
                        break
                if self.held or not self._waiting:  # who does not read the answers gets no more of them
                    break
                self._current = self._waiting.popleft()
                self._deadline = _FOREVER
                self.listener.decide(self._current)
        finally:
            self._advancing = False
        if self._current is None and self._refusal is not None and not (self.closing or self._waiting):
            self._say_refusal(self._refusal)
        self.update_reading()

    def _say_refusal(self, answer: Answer) -> None:
        self._refusal = None
        self.write(answer.head(False) + answer.body)
        self._linger()

    # -- llhttp

    def on_message_begin(self) -> None:
        if self._body_only:
            return
        if self._refusal is not None or len(self._waiting) >= _PIPELINED:
            raise _TooBigError("Too many requests at once on one connection.")
        self._target, self._fields, self._receiving, self._in_head = b"", [], None, True
        if self._current is None and not self._waiting:
            self._deadline = time.monotonic() + HEAD_TIMEOUT_S

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._fields) >= _FIELDS:
            raise _TooBigError("The request's head has too many fields.")
        self._fields.append((name, value))  # trailers too, which nobody looks at

    def on_headers_complete(self) -> None:
        if self._body_only:
            return
        fields = self._fields
        if len(self._target) > _TARGET_BYTES or (
            self._idle_bytes > _HEAD_BYTES and sum(len(n) + len(v) for n, v in fields) > _HEAD_BYTES
        ):
            raise _TooBigError("The request's head is too long.")
        parser = self._parser
        method, version, keep = parser.get_method(), parser.get_http_version(), parser.should_keep_alive()
        request = Request(method, self._target, version, Headers(fields), keep)
        self._idle_bytes, self._in_head = 0, False
        self._receiving = Exchange(self, request, self.listener.body_max_bytes)
        self._waiting.append(self._receiving)

    def on_body(self, data: bytes) -> None:
        self._idle_bytes = 0
        if self._receiving is not None:
            self._receiving.incoming.feed(data)

    def on_message_complete(self) -> None:
        self._idle_bytes = 0
        if self._receiving is not None and not self._parser.should_upgrade():
            self._receiving.incoming.complete = True

    # -- what goes

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def finished(self, exchange: Exchange, keep: bool, abort: bool) -> None:
        """`exchange` is over; with `keep` the next request of the connection may follow."""
        self.listener.ended(exchange)
        if exchange is not self._current:
            return
        self._current = None
        if abort:
            self.abort()
        elif self.closing:
            pass
        elif keep and not self.listener.stopping:
            patience_s = KEEP_TIMEOUT_S if self.holder is not None and not self._in_head else HEAD_TIMEOUT_S
            self._deadline = time.monotonic() + patience_s
            self._advance()
        elif exchange.incoming.complete:
            self.close()
        else:
            self._linger()

    def close(self) -> None:
        """Close after what was written."""
        self.closing = True
        self._deadline = time.monotonic() + WRITE_STALL_S
        if self._connected:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.closing = True
        if self._connected:
            self._transport.abort()

    def _linger(self) -> None:
        """Close after the answer, but read on for a moment: a reset would take the answer from who still sends."""
        self._lingering = self.closing = True
        self._deadline = time.monotonic() + LINGER_S
        self._transport.resume_reading()
        try:
            self._transport.write_eof()
        except OSError:  # it has gone already
            self.abort()

    # -- pace

    @property
    def idle(self) -> bool:
        """Whether no request is on its way."""
        return self._current is None

    @property
    def unsent_bytes(self) -> int:
        """What the client has not read yet and the kernel did not take."""
        return self._transport.get_write_buffer_size() if self._connected else 0

    def pause_writing(self) -> None:
        self.held = True
        if self._current is not None:
            self._current.hold_answer(True)

    def resume_writing(self) -> None:
        self.held = False
        if self._current is not None:
            self._current.hold_answer(False)
        else:
            self._advance()

    def update_reading(self) -> None:
        """Read on, or wait: for the upstream's pace, or for the answers to requests that came at once."""
        current = self._current
        wait = self._refusal is not None or (
            self.held if current is None else current.wants_pause or len(self._waiting) >= _WAITING
        )
        if wait == self._waits or self.closing:
            return
        self._waits = wait
        if wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _has_left(self) -> bool:
        # asyncio does not see the end of a connection that it does not read.
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLRDHUP)
        return bool(poll.poll(0))

    def check(self, now: float) -> None:
        """Called every second: end what takes too long."""
        unsent = self.unsent_bytes
        if unsent != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since = unsent, now
        if unsent:
            if now - self._unsent_since > WRITE_STALL_S:
                self.abort()
        elif now >= self._deadline or (self._waits and not self.closing and self._has_left()):
            self.abort()
        elif self._current is not None:
            self._current.check(now)
        if self._current is not None and (holder := self._current.holder) is not None and not holder.valid:
            self.abort()  # a revoked key's answers end too

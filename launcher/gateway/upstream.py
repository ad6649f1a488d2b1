"""Connections to the engine and the page: kept open between requests, parsed by llhttp (`httptools`).

Owns the reading of answers and the pool. What an answer means for the client is the taker's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import httptools

from launcher.gateway.place import Place
from launcher.gateway.proof import Question
from launcher.gateway.request import Headers

# uvicorn closes an idle connection after 5 s; ours must be dropped before, or a request could meet the close.
_IDLE_S = 3.0
_CONNECT_TIMEOUT_S, _PROOF_TIMEOUT_S = 10.0, 30.0
_HEAD_BYTES = 256 * 1024


@dataclass(slots=True)
class Head:
    """The head of an answer; `sized` when the upstream itself says where the body ends."""

    status: int
    reason: bytes
    headers: Headers
    sized: bool


class Taker(Protocol):
    """Who gets an answer."""

    @property
    def head_only(self) -> bool:
        """Whether the answer comes without its body (HEAD)."""

    def take(self, head: Head | None, data: bytes, ended: bool) -> None:
        """The next part of the answer: its head once, bytes of its body, its end."""

    def take_raw(self, data: bytes) -> None:
        """Bytes after a 101: no longer HTTP."""

    def lost(self, answered: bool) -> None:
        """The upstream is gone before the end; `answered` when at least a byte of the answer had come."""

    def hold(self, full: bool) -> None:
        """The upstream takes no more of the request for now, or takes it again."""


class Upstream(asyncio.Protocol):
    """One connection; serves one taker at a time."""

    def __init__(self, pool: list[Upstream]) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._taker: Taker | None = None
        self._raw = False
        self._reusable = True
        self.idle_since = 0.0

    def begin(self, taker: Taker) -> None:
        """A request of `taker` follows."""
        self._taker = taker
        self._answered = False
        self._fields: list[tuple[bytes, bytes]] = []
        self._unparsed_bytes = 0
        self._reason = b""
        self._head: Head | None = None
        self._head_told = False
        self._pieces: list[bytes] = []
        self._complete = self._interim = False

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def prove(self, key: str) -> None:
        """See whether the gateway there has `key`; raises OSError where it has not, or does not say so in time."""
        question = Question(key)
        try:
            self.begin(question)
            self.write(question.text)
            async with asyncio.timeout(_PROOF_TIMEOUT_S):
                await question.answered
            if not (self._reusable and self.open):
                raise ConnectionError("it hung up")
        except BaseException:
            self.abort()
            raise
        self._taker = None

    def release(self) -> None:
        """The answer is over and the whole request was sent: others may use the connection."""
        self._taker = None
        if self._reusable and self.open and not self._transport.get_write_buffer_size():
            self.idle_since = time.monotonic()
            self._pool.append(self)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Nobody wants the rest: the engine must see it at once."""
        self._taker = None
        self._transport.abort()

    def close(self) -> None:
        """End the connection after what was written."""
        self._taker = None
        self._transport.close()

    def pause(self, paused: bool) -> None:
        """Stop or go on reading: the client's pace."""
        if self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    @property
    def open(self) -> bool:
        """Whether it is not being closed, as far as is known."""
        return not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether nothing waits to be read: neither the upstream's end nor bytes that nobody asked for.

        The loop may not have come to it yet, and what lies there would be taken for the next request's answer.
        """
        waiting = select.poll()
        waiting.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not waiting.poll(0)

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:  # it speaks unasked
            self._transport.abort()
            return
        if self._raw:
            taker.take_raw(data)
            return
        self._answered = True
        rest = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._raw, rest = True, data[upgrade.args[0] :]
        except httptools.HttpParserError:
            # What came before the mistake is not believed either: the length is in doubt.
            if not self._complete:
                self.abort()
                taker.lost(True)
                return
            self._reusable = False
        if not self._complete and self._head is None:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > _HEAD_BYTES:
                self.abort()
                taker.lost(True)
            return
        head = None if self._head_told else self._head
        self._head_told = True
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        taker.take(head, body, self._complete and not self._raw)
        if rest and self._taker is taker:
            taker.take_raw(rest)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self._taker is not None:
            self._read_rest()
        del self._parser  # it holds this object's methods: a ring that only the collector would find
        taker, self._taker = self._taker, None
        if taker is None:
            if self in self._pool:
                self._pool.remove(self)
        elif error is None and self._head is not None and not self._head.sized and not self._raw:
            taker.take(None, b"", True)  # the end of the connection is the end of such a body
        else:
            taker.lost(self._answered)

    def _read_rest(self) -> None:
        # asyncio stops reading at a failed write; the answer that says why the engine hung up may lie there.
        with contextlib.suppress(OSError):
            while data := os.read(self._transport.get_extra_info("socket").fileno(), _HEAD_BYTES):
                self.data_received(data)

    def pause_writing(self) -> None:
        if self._taker is not None:
            self._taker.hold(True)

    def resume_writing(self) -> None:
        if self._taker is not None:
            self._taker.hold(False)

    # -- llhttp

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # more than was asked for

    def on_status(self, reason: bytes) -> None:
        if not (reason.isascii() and reason.decode("ascii").isprintable()):
            raise ValueError("the answer's reason is no text")
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))  # trailers too, which nobody looks at

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim = True
            return
        keep, headers = self._parser.should_keep_alive(), Headers(self._fields)
        self._reusable &= keep
        bodiless = status in (101, 204, 304)
        sized = bodiless or b"content-length" in headers or b"transfer-encoding" in headers
        self._head = Head(status, self._reason, headers, sized)
        if self._taker is not None and self._taker.head_only:
            self._complete = True
            self._reusable = False  # the parser would wait for the body

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim, self._reason, self._fields = False, b"", []
        else:
            self._complete = True


class Upstreams:
    """Pools of idle connections, one for each address, each kept for `idle_s`."""

    def __init__(self, idle_s: float = _IDLE_S) -> None:
        self._idle_s = idle_s
        self._idle: dict[Path | tuple[str, int], list[Upstream]] = {}

    def take(self, place: Place) -> Upstream | None:
        """An idle connection to `place` that is fresh enough to be trusted."""
        pool = self._idle.get(place.address)
        while pool:
            upstream = pool.pop()
            if time.monotonic() - upstream.idle_since < self._idle_s and upstream.open and upstream.silent:
                return upstream
            upstream.close()
        return None

    async def connect(self, place: Place) -> Upstream:
        """A new connection, behind which is who should be there; raises OSError."""
        address, loop = place.address, asyncio.get_running_loop()
        pool = self._idle.setdefault(address, [])
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if isinstance(address, tuple):
                _, upstream = await loop.create_connection(lambda: Upstream(pool), *address)
            else:
                _, upstream = await loop.create_unix_connection(lambda: Upstream(pool), str(address))
        if place.proves and place.key is not None:
            await upstream.prove(place.key)
        return upstream

    def tidy(self) -> None:
        """Close what has been idle for too long."""
        now = time.monotonic()
        for pool in self._idle.values():
            while pool and now - pool[0].idle_since >= self._idle_s:
                pool.pop(0).close()

    def close(self) -> None:
        """Close every idle connection."""
        for pool in self._idle.values():
            for upstream in pool:
                upstream.abort()
            pool.clear()

"""One request and its answer on their way through: from the client to an upstream and back.

Holds a few buffers at most, and a question of up to a megabyte that must be looked at; each side is read only as fast
as the other takes it. When one leaves, the other is told at once, the client in the form it can understand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from launcher.gateway import answers, websocket
from launcher.gateway.answers import Answer
from launcher.gateway.body import KEPT_BYTES, PENDING_BYTES, Body
from launcher.gateway.headers import answer_head, framing
from launcher.gateway.keys import Holder
from launcher.gateway.mistakes import went_well
from launcher.gateway.request import Request
from launcher.gateway.stream import Events, Tail
from launcher.gateway.upstream import Head, Upstream
from launcher.gateway.usage import CLIENT_LEFT, Call
from launcher.gateway.way import Way, elsewhere

if TYPE_CHECKING:
    from launcher.gateway.client import Client

_LOG = logging.getLogger("launcher.gateway")
HEARTBEAT_S = 15.0  # OOD's Apache gives up a connection that is silent for 60 s
_BODY_STALL_S = 300.0
_BYTES_PER_TOKEN = 4  # about, of English text
_LAST_CHUNK = b"0\r\n\r\n"
_HEARTBEAT = b": keep-alive\n\n"


class Exchange:
    """One request of `client`; who decides about it calls `reply` or `forward`, once."""

    holder: Holder | None = None
    call: Call | None = None
    task: asyncio.Task[None] | None = None  # what the decision waits for
    broken_body: Answer | None = None  # what the parser said of the body
    model = cluster = session = ""  # where it went, if its front has more than one place for it
    status, sent_bytes = CLIENT_LEFT, 0
    done = broken = engine_lost = False
    usage_wanted = True  # whether the client gets a stream's usage
    free = False  # a file that is stored or fetched costs no tokens, however long it is
    on_end: Callable[[], None] | None = None  # its front's; called before the last byte of its answer
    room_wanted: asyncio.Future[None] | None = None  # what a long answer of our own waits for
    _way: Way | None = None
    _upstream: Upstream | None = None
    _events: Events | None = None
    _early: Head | None = None  # of an answer that could still be another's
    _head = _first_head = b""
    _sent_all = _reused = _full = _told_to_go_on = _told_end = False
    _answered = _tunnel = _chunked = _keep = _sized = _repeatable = False

    def __init__(self, client: Client, request: Request, body_max_bytes: int) -> None:
        self.client = client
        self.request = request
        self.incoming = Body(not request.chunked and request.length == 0, body_max_bytes)
        self.begun = self._written_at = self._read_at = time.monotonic()
        self._tail = Tail()

    @property
    def head_only(self) -> bool:
        return self.request.method == "HEAD"

    @property
    def tokens(self) -> tuple[int, int]:
        """What the answer's usage said, prompt and completion."""
        return self._tail.tokens() if self.request.method == "POST" else (0, 0)

    @property
    def audio_s(self) -> float:
        """What the answer's usage said of a recording, in seconds."""
        return self._tail.audio_s if self.call is not None and self.call.audio else 0.0

    @property
    def spent_tokens(self) -> int:
        """What counts against a key's limit: the usage, else what went both ways, so that nobody saves by hiding it."""
        if self.free or self._way is None or (self.request.method != "POST" and not self._tunnel):
            return 0  # nor what was refused: who comes again would wait for longer each time
        events = self._events.count if self._events is not None else 0
        # A recording has a thousand times as many bytes as what is said in it.
        read = 0 if self.call is not None and self.call.audio else self.incoming.read_bytes
        return sum(self.tokens) or max(events, (read + self.sent_bytes) // _BYTES_PER_TOKEN)

    @property
    def wants_pause(self) -> bool:
        """Whether the client should send no more for now."""
        return self._full or (self.incoming.waiting_bytes > self.incoming.limit_bytes and not self.done)

    # -- from the client

    def flush(self) -> None:
        """Pass on what came; called once for each piece of the client's data, not for each part of it."""
        self._read_at = time.monotonic()
        if self.done:
            self.incoming.drop()
        elif self._tunnel:
            self._send_raw()
        elif self.broken_body is not None:
            self._fail(self.broken_body)
        elif self.incoming.left_bytes < 0 and not self.request.wants_websocket:
            self._fail(answers.refused(413, "The body is too long.", "body_too_long", close=True))
        elif self._upstream is not None and not self._sent_all:
            self._send(self._upstream)
        else:
            self.incoming.wake()

    async def body(self, limit_bytes: int) -> bytes | None:
        """The whole body, which stays to be sent; None: it is longer than `limit_bytes`, or long and `crowded`."""
        incoming = self.incoming
        incoming.limit_bytes = limit_bytes
        self.client.update_reading()
        while not incoming.complete and incoming.waiting_bytes <= limit_bytes and not incoming.crowded:
            await incoming.more()
        return incoming.waiting if incoming.complete and incoming.waiting_bytes <= limit_bytes else None

    def replace_body(self, body: bytes) -> None:
        """Send `body` instead of the one that came, which was whole."""
        self.incoming.replace(body)
        self.request.chunked, self.request.length = False, len(body)

    def hold_answer(self, held: bool) -> None:
        """The client reads too slowly, or again."""
        if self._upstream is not None:
            self._upstream.pause(held)
        if self.room_wanted is not None and not held and not self.room_wanted.done():
            self.room_wanted.set_result(None)

    def cancel(self) -> None:
        """The client left."""
        if self.done:
            return
        if not self._tunnel:  # leaving is how a conversation over a WebSocket ends
            self.status = CLIENT_LEFT
        self._drop_upstream()
        self._finish(keep=False)

    def check(self, now: float) -> None:
        """Called every second: keep a silent stream alive, end what nobody takes or sends."""
        if self._events is not None and now - self._written_at >= HEARTBEAT_S:
            if self._way is not None and self._way.engine and self._events.between_events:
                self._write(self._framed(_HEARTBEAT))
        elif not self.incoming.complete and not self.wants_pause and now - self._read_at > _BODY_STALL_S:
            self.client.abort()

    # -- the decision

    def reply(self, answer: Answer) -> None:
        """Answer by ourselves."""
        if self.done:
            return
        self.status, self.sent_bytes = answer.status, len(answer.body)
        keep = self._may_keep() and not answer.close and self.incoming.complete
        self._tell_end()
        self._write(answer.head(keep, lost=self.engine_lost) + (b"" if self.head_only else answer.body))
        self._finish(keep)

    def go_on(self) -> None:
        """Let a client that waits for it send its body; its key has been checked."""
        asked = b"expect" in self.request.headers and self.request.version == "1.1"
        if asked and not self.incoming.complete and not self._told_to_go_on:
            self._told_to_go_on = True
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def forward(self, way: Way, head: bytes) -> None:
        """Send the request on; its answer follows by itself."""
        self._way, self._head, self._first_head = way, head, head
        self._sent_all = self._full = False
        self._repeatable = way.again is not None or self.request.idempotent
        if self._repeatable:
            self.incoming.keep(PENDING_BYTES if way.again is None else KEPT_BYTES)
        self.go_on()
        upstream = way.upstreams.take(way.place)
        if upstream is not None:
            self._attach(upstream, fresh=False)
        else:
            self.task = asyncio.ensure_future(self._reach(way))

    async def _reach(self, way: Way) -> None:
        try:
            self._attach(await way.upstreams.connect(way.place), fresh=True)
        except Exception as error:
            if not isinstance(error, OSError):  # as for a host's name that is none
                _LOG.exception("an upstream could not be reached")
            self._drop_upstream()
            self._unreachable()

    def _attach(self, upstream: Upstream, *, fresh: bool) -> None:
        self._upstream, self._reused = upstream, not fresh
        upstream.begin(self)
        self._send(upstream)
        if self.client.held:
            upstream.pause(True)
        self.client.update_reading()

    def _send(self, upstream: Upstream) -> None:
        out = [self._head] if self._head else []
        self._head = b""
        if self.incoming and not self.request.wants_websocket:
            data = self.incoming.take()
            out += (b"%x\r\n" % len(data), data, b"\r\n") if self.request.chunked else (data,)
        if self.incoming.complete:
            self._sent_all = True
            if self.request.chunked:
                out.append(_LAST_CHUNK)
        if out:
            upstream.write(b"".join(out))

    # -- from the upstream

    def take(self, head: Head | None, data: bytes, ended: bool) -> None:
        """The next part of the answer."""
        out: list[bytes] = []
        if not self._answered and self._way is not None and self._way.again is not None:
            head = head or self._early
            if head is not None and self._elsewhere(head, data):
                return
            if not (data or ended) and head is not None and head.status != 101:
                self._early = head
                return
        if head is not None:
            self.incoming.settle()
            if head.status == 101 and not websocket.agreed(self.request, head.headers):
                self._fail(answers.unreachable())
                return
            out.append(self._begin_answer(head))
        if data:
            if self._events is not None:
                data = self._events.feed(data)
            elif self._way is not None and self._way.engine:
                self._tail.feed(data)
            if data:
                out.append(self._framed(data))
                if self.call is not None and self.sent_bytes == 0:
                    self.call.first_byte()
                self.sent_bytes += len(data)
        if ended and self._events is not None and self._cut_short(self._events):
            self._write(b"".join(out))
            self._release()
            self._end_broken_stream(self._events)
            return
        if ended:
            if self._events is not None:
                out += [self._framed(rest)] if (rest := self._events.rest()) else []
                self.broken = self._events.died
            if self._chunked:
                out.append(_LAST_CHUNK)
            self._tell_end()
        elif self._events is not None and self._events.done:
            self._tell_end()  # a client reads no further
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))
        if self._tunnel:
            self._send_raw()
        elif ended:
            self._release()
            self._finish(self._keep and self.incoming.complete)

    def take_raw(self, data: bytes) -> None:
        """Bytes of a WebSocket."""
        if self._way is not None and websocket.shows_activity(data):
            self._way.touch()
        self.sent_bytes += len(data)
        self._write(data)

    def lost(self, answered: bool) -> None:
        """The upstream went away before the end of its answer, or is known not to go on with it."""
        if not self._drop_upstream():  # who still connects will find out
            return
        if self._tunnel:
            self._finish(keep=False)
        elif not answered and self._reused and self._way is not None and self._taken_back():
            # A kept connection that was just being closed: ask again, once.
            self.task = asyncio.ensure_future(self._reach(self._way))
        elif not self._answered:
            self.engine_lost |= self._way is not None and self._way.up()
            self._unreachable()
        elif self._events is None:
            # Without the last chunk or the promised length the client sees that the answer is not whole.
            self._fail(answers.unreachable())
        else:
            self._end_broken_stream(self._events)

    def hold(self, full: bool) -> None:
        """The upstream takes no more of the body for now, or takes it again."""
        self._full = full
        self.client.update_reading()

    def _cut_short(self, events: Events) -> bool:
        # Where only the end of the connection ends a stream, a killed engine looks like a finished one.
        return not self._sized and not events.done and self._way is not None and self._way.engine

    def _begin_answer(self, head: Head) -> bytes:
        self._answered, self._sized, self.status = True, head.sized, head.status
        headers = head.headers
        if head.status == 101:
            self._tunnel = True
            return answer_head(101, head.reason, headers, (), upgrade=True)
        self._keep = self._may_keep() and self.incoming.complete
        lines, self._chunked, self._keep = framing(self.request, head.status, headers, self._keep)
        stream = headers.text(b"content-type").lower().startswith("text/event-stream") and not self.head_only
        if stream and b"content-length" not in headers:
            self._events = Events(self._tail, usage_wanted=self.usage_wanted)
        return answer_head(head.status, head.reason, headers, lines)

    def _end_broken_stream(self, events: Events) -> None:
        # Half an event is dropped: a client would fail on it instead of reading ours.
        self.broken = not events.done
        self._tell_end()
        gap = b"\n\n" if events.torn else b""
        out = self._framed(gap + answers.broken_stream_event()) if self.broken else b""
        self._write(out + (_LAST_CHUNK if self._chunked else b""))
        self._finish(self._keep)

    # -- ends

    def _taken_back(self) -> bool:
        """Make ready to send the request once more, from its first byte; False where it is too late for that."""
        self._head, self._early, self._sent_all, self._full = self._first_head, None, False, False
        return self._repeatable and self.incoming.rewind()

    def _elsewhere(self, head: Head, data: bytes) -> bool:
        """Whether this is no answer: the request goes to another upstream, or fails where it cannot be repeated."""
        if elsewhere(head, data):
            self.engine_lost |= answers.ENGINE_LOST in head.headers
            self.lost(True)
        elif head.status == 429 and self.incoming.repeatable and self._way is not None and self._way.spare():
            self._drop_upstream()
            self._unreachable(busy=True)
        else:
            return False
        return True

    def _unreachable(self, *, busy: bool = False) -> None:
        way = self._way
        assert way is not None
        if not busy:
            went_well(way.trouble)
        again = way.again is not None and self._taken_back() and way.again
        if not went_well(again or (lambda: self._fail(way.unreachable()))):
            self._fail(answers.unreachable())

    def _fail(self, answer: Answer) -> None:
        self._drop_upstream()
        if self._answered:
            self.broken = True
            self._finish(keep=False, abort=True)
        else:
            self.reply(answer)

    def _drop_upstream(self) -> bool:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        return upstream is not None

    def _release(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.pause(False)
            (upstream.release if self._sent_all else upstream.abort)()

    def _tell_end(self) -> None:
        if not self._told_end:
            self._told_end = True
            went_well(self.on_end or (lambda: None))
            went_well(lambda: self.client.listener.ending(self))

    def _finish(self, keep: bool, *, abort: bool = False) -> None:
        self.done = True
        self._tell_end()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self.incoming.drop()
        self.client.finished(self, keep, abort)
        self._way = self.on_end = None  # they hold this object: rings, which only the collector would find

    def _may_keep(self) -> bool:
        return self.request.keep_alive and not self.client.closing

    def _send_raw(self) -> None:
        if self.incoming and self._upstream is not None:
            data = self.incoming.take()
            if self._way is not None and websocket.shows_activity(data):
                self._way.touch()
            self._upstream.write(data)
            self.client.update_reading()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data

    def _write(self, data: bytes) -> None:
        self._written_at = time.monotonic()
        self.client.write(data)

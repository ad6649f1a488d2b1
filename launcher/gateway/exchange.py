"""One request and its answer on their way through: from the client to an upstream and back.

Holds a few buffers at most, and a question of up to a megabyte where it must be looked at before it goes on; each side
is read only as fast as the other takes it. When the client leaves, the upstream's connection is closed at once; when
the upstream leaves, the client is told in the form it can understand.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from launcher.gateway import answers, websocket
from launcher.gateway.answers import Answer
from launcher.gateway.headers import answer_head
from launcher.gateway.keys import Holder
from launcher.gateway.request import Request
from launcher.gateway.stream import Events, Tail
from launcher.gateway.upstream import Head, Upstream
from launcher.gateway.usage import CLIENT_LEFT, Call
from launcher.gateway.way import Way

if TYPE_CHECKING:
    from launcher.gateway.client import Client

HEARTBEAT_S = 15.0  # OOD's Apache gives up a connection that is silent for 60 s
_PENDING_BYTES = 65536
# RFC 9110 section 9.2.2: only these may be repeated.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_BODY_STALL_S = 300.0
_BYTES_PER_TOKEN = 4  # about, of English text
_LAST_CHUNK = b"0\r\n\r\n"
_HEARTBEAT = b": keep-alive\n\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """One request of `client`; who decides about it calls `reply` or `forward`, once."""

    holder: Holder | None = None
    call: Call | None = None
    task: asyncio.Task[None] | None = None  # what the decision waits for
    broken_body: Answer | None = None  # what the parser said of the body
    model = cluster = session = ""  # where it went, if its front has more than one place for it
    status, sent_bytes = CLIENT_LEFT, 0
    done = broken = False
    usage_wanted = True  # whether the client gets a stream's usage
    free = False  # a file that is stored or fetched costs no tokens, however long it is
    room_wanted: asyncio.Future[None] | None = None  # what a long answer of our own waits for
    _way: Way | None = None
    _upstream: Upstream | None = None
    _events: Events | None = None
    _body_wanted: asyncio.Future[None] | None = None
    _head = b""
    _replay = b""  # the whole request, as long as it may be sent once more
    _sent_all = _full = _told_to_go_on = _told_end = False
    _answered = _tunnel = _chunked = _keep = _sized = False
    _pending_bytes = _read_bytes = 0
    _pending_max_bytes = _PENDING_BYTES

    def __init__(self, client: Client, request: Request, body_max_bytes: int) -> None:
        self.client = client
        self.request = request
        self.body_complete = not request.chunked and request.length == 0
        self.begun = self._written_at = self._read_at = time.monotonic()
        self._body_left = body_max_bytes
        self._pending: list[bytes] = []
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
        if self.free or (self.request.method != "POST" and not self._tunnel):
            return 0
        events = self._events.count if self._events is not None else 0
        # A recording has a thousand times as many bytes as what is said in it.
        read = 0 if self.call is not None and self.call.audio else self._read_bytes
        return sum(self.tokens) or max(events, (read + self.sent_bytes) // _BYTES_PER_TOKEN)

    @property
    def wants_pause(self) -> bool:
        """Whether the client should send no more for now."""
        return self._full or (self._pending_bytes > self._pending_max_bytes and not self.done)

    # -- from the client

    def feed(self, data: bytes) -> None:
        """The next piece of the body, or of what follows a WebSocket's request."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self._body_left -= len(data)
        self._read_bytes += len(data)

    def flush(self) -> None:
        """Pass on what came; called once for each piece of the client's data, not for each part of it."""
        self._read_at = time.monotonic()
        if self.done:
            self._pending.clear()
        elif self._tunnel:
            self._send_raw()
        elif self.broken_body is not None:
            self._fail(self.broken_body)
        elif self._body_left < 0 and not self.request.wants_websocket:
            self._fail(answers.refused(413, "The body is too long.", "body_too_long", close=True))
        elif self._upstream is not None and not self._sent_all:
            self._send(self._upstream)
        elif self._body_wanted is not None and not self._body_wanted.done():
            self._body_wanted.set_result(None)

    async def body(self, limit_bytes: int) -> bytes | None:
        """The whole body of a small request, which stays to be sent; None when it is longer than `limit_bytes`."""
        self._pending_max_bytes = limit_bytes
        self.client.update_reading()
        while not self.body_complete and self._pending_bytes <= limit_bytes:
            self._body_wanted = asyncio.get_running_loop().create_future()
            await self._body_wanted
        return b"".join(self._pending) if self._pending_bytes <= limit_bytes else None

    @property
    def arrived(self) -> bytes | None:
        """The whole body where it is small and has come already."""
        pending = self._pending
        if not self.body_complete or self._pending_bytes > _PENDING_BYTES:
            return None
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def replace_body(self, body: bytes) -> None:
        """Send `body` instead of the one that came, which was whole."""
        self._pending, self._pending_bytes = [body], len(body)
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
        if self._upstream is not None:
            self._upstream.abort()
        self._finish(keep=False)

    def check(self, now: float) -> None:
        """Called every second: keep a silent stream alive, end what nobody takes or sends."""
        if self._events is not None and now - self._written_at >= HEARTBEAT_S:
            if self._way is not None and self._way.engine and self._events.between_events:
                self._write(self._framed(_HEARTBEAT))
        elif not self.body_complete and not self.wants_pause and now - self._read_at > _BODY_STALL_S:
            self.client.abort()

    # -- the decision

    def reply(self, answer: Answer) -> None:
        """Answer by ourselves."""
        if self.done:
            return
        self.status, self.sent_bytes = answer.status, len(answer.body)
        keep = self._may_keep() and not answer.close and self.body_complete
        self._tell_end()
        self._write(answer.head(keep) + (b"" if self.head_only else answer.body))
        self._finish(keep)

    def go_on(self) -> None:
        """Let a client that waits for it send its body; its key has been checked."""
        asked = b"expect" in self.request.headers and self.request.version == "1.1"
        if asked and not self.body_complete and not self._told_to_go_on:
            self._told_to_go_on = True
            self._write(_CONTINUE)

    def forward(self, way: Way, head: bytes) -> None:
        """Send the request on; its answer follows by itself."""
        self._way, self._head = way, head
        self.go_on()
        upstream = way.upstreams.take(way.place)
        if upstream is not None:
            self._attach(upstream, fresh=False)
        else:
            self._connect(way)

    def _connect(self, way: Way) -> None:
        self.task = asyncio.get_running_loop().create_task(self._reach(way))

    async def _reach(self, way: Way) -> None:
        try:
            upstream = await way.upstreams.connect(way.place)
        except OSError:  # TimeoutError is one
            self._unreachable()
        else:
            self._attach(upstream, fresh=True)

    def _attach(self, upstream: Upstream, *, fresh: bool) -> None:
        self._upstream = upstream
        upstream.begin(self)
        if fresh and self._replay:
            upstream.write(self._replay)
            self._replay = b""
        else:
            self._send(upstream)
            if fresh:
                self._replay = b""
        if self.client.held:
            upstream.pause(True)
        self.client.update_reading()

    def _send(self, upstream: Upstream) -> None:
        out = [self._head] if self._head else []
        first, self._head = bool(out), b""
        if self._pending and not self.request.wants_websocket:
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending, self._pending_bytes = [], 0
            out += (b"%x\r\n" % len(data), data, b"\r\n") if self.request.chunked else (data,)
        if self.body_complete:
            self._sent_all = True
            if self.request.chunked:
                out.append(_LAST_CHUNK)
        if out:
            written = b"".join(out)
            again = first and self._sent_all and self.request.method in _IDEMPOTENT
            self._replay = written if again and len(written) <= _PENDING_BYTES else b""
            upstream.write(written)

    # -- from the upstream

    def take(self, head: Head | None, data: bytes, ended: bool) -> None:
        """The next part of the answer."""
        out: list[bytes] = []
        if head is not None:
            self._replay = b""
            if head.status == 101 and not self._agreed(head):
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
            if self._events is not None and (rest := self._events.rest()):
                out.append(self._framed(rest))
            if self._chunked:
                out.append(_LAST_CHUNK)
            self._tell_end()
        if out:
            self._write(out[0] if len(out) == 1 else b"".join(out))
        if self._tunnel:
            self._send_raw()
        elif ended:
            self._release()
            self._finish(self._keep and self.body_complete)

    def take_raw(self, data: bytes) -> None:
        """Bytes of a WebSocket."""
        if self._way is not None and websocket.shows_activity(data):
            self._way.touch()
        self.sent_bytes += len(data)
        self._write(data)

    def lost(self, answered: bool) -> None:
        """The upstream went away before the end of its answer."""
        self._upstream = None
        if self._tunnel:
            self._finish(keep=False)
        elif not answered and self._replay and self._way is not None:
            self._connect(self._way)  # a kept connection that was just being closed: ask again, once
        elif not self._answered:
            self._unreachable()
        elif self._events is None:
            # Without the last chunk or the promised length the client sees that the answer is not whole.
            self.broken = True
            self._finish(keep=False, abort=True)
        else:
            self._end_broken_stream(self._events)

    def hold(self, full: bool) -> None:
        """The upstream takes no more of the body for now, or takes it again."""
        self._full = full
        self.client.update_reading()

    def _agreed(self, head: Head) -> bool:
        """Whether the upstream's 101 is to the WebSocket that was asked for."""
        return self.request.wants_websocket and head.headers.text(b"upgrade").lower() == "websocket"

    def _cut_short(self, events: Events) -> bool:
        # Where only the end of the connection ends a stream, a killed engine looks like a finished one.
        return not self._sized and not events.done and self._way is not None and self._way.engine

    def _begin_answer(self, head: Head) -> bytes:
        self._answered, self._sized, self.status = True, head.sized, head.status
        headers, framing = head.headers, []
        self._keep = self._may_keep()
        if head.status == 101:
            self._tunnel = True
            return answer_head(101, head.reason, headers, (), upgrade=True)
        if b"content-length" in headers:
            if head.status != 204:
                framing.append(b"Content-Length: " + headers.text(b"content-length").encode())
        elif not self.head_only and head.status not in (204, 304):
            if self.request.version == "1.1":
                self._chunked = True
                framing.append(b"Transfer-Encoding: chunked")
            else:
                self._keep = False
        if not self._keep or not self.body_complete:
            framing.append(b"Connection: close")
            self._keep = False
        stream = headers.text(b"content-type").lower().startswith("text/event-stream") and not self.head_only
        if stream and b"content-length" not in headers:
            self._events = Events(self._tail, usage_wanted=self.usage_wanted)
        return answer_head(head.status, head.reason, headers, framing)

    def _end_broken_stream(self, events: Events) -> None:
        # Half an event is dropped: a client would fail on it instead of reading ours.
        self.broken = not events.done
        self._tell_end()
        gap = b"\n\n" if events.torn else b""
        out = self._framed(gap + answers.broken_stream_event()) if self.broken else b""
        self._write(out + (_LAST_CHUNK if self._chunked else b""))
        self._finish(self._keep)

    # -- ends

    def _unreachable(self) -> None:
        assert self._way is not None
        self._way.trouble()
        self._fail(self._way.unreachable())

    def _fail(self, answer: Answer) -> None:
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None
        if self._answered:
            self.broken = True
            self._finish(keep=False, abort=True)
        else:
            self.reply(answer)

    def _release(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        upstream.pause(False)
        if self._sent_all:
            upstream.release()
        else:
            upstream.abort()

    def _tell_end(self) -> None:
        if not self._told_end:
            self._told_end = True
            self.client.listener.ending(self)

    def _finish(self, keep: bool, *, abort: bool = False) -> None:
        self.done = True
        self._tell_end()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self._pending.clear()
        self._pending_bytes = 0
        self.client.finished(self, keep, abort)

    def _may_keep(self) -> bool:
        return self.request.keep_alive and not self.client.closing

    def _send_raw(self) -> None:
        if self._pending and self._upstream is not None:
            data = b"".join(self._pending)
            self._pending, self._pending_bytes = [], 0
            if self._way is not None and websocket.shows_activity(data):
                self._way.touch()
            self._upstream.write(data)
            self.client.update_reading()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data

    def _write(self, data: bytes) -> None:
        self._written_at = time.monotonic()
        self.client.write(data)

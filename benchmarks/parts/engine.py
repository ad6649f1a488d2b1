"""The engine of the benchmarks: OpenAI's shapes at next to no cost, so that what lies before it is what is measured.

    python -m benchmarks.parts.engine --uds PATH [--rate N] [--first-token-ms MS]

It listens on PATH and on a port of 127.0.0.1, which it prints. A chat request gets one small answer; with
`"stream": true` as many events as `max_tokens`, paced to N a second for each stream. Uploads are read and dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httptools

# One byte that no other part of an event has: it counts events however the way to the client cuts and joins them.
MARK = b"~"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_BASE = {"id": "chatcmpl-bench", "created": 1, "model": "tiny"}
_MANY = 10_000_000
_SEPARATE, _JOINED = (
    8,
    64,
)  # so many late events are sent one by one; more are joined, up to so many in a round


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 2, "completion_tokens": tokens, "total_tokens": 2 + tokens}


def _event(choices: list[dict[str, Any]], **more: object) -> bytes:
    """One event in an HTTP chunk of its own."""
    data = (
        b"data: " + _json({**_BASE, "object": "chat.completion.chunk", "choices": choices, **more}) + b"\n\n"
    )
    return b"%x\r\n%s\r\n" % (len(data), data)


_MESSAGE = {"role": "assistant", "content": "Hello."}
_ANSWER = _json(
    {
        **_BASE,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(1),
    }
)
_TOKEN = _event(
    [{"index": 0, "delta": {"content": " " + MARK.decode()}, "logprobs": None, "finish_reason": None}]
)
_LAST = _event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}])
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Pace:
    """Writes to every stream the events that are due; the schedule is absolute, so a late round is made good."""

    def __init__(self, rate: float, first_token_s: float) -> None:
        self.rate = rate
        self.first_token_s = first_token_s
        self.streams: set[_Connection] = set()
        self._wake = asyncio.Event()

    def add(self, stream: _Connection) -> None:
        """Start to write to `stream`."""
        self.streams.add(stream)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            if not self.streams:
                self._wake.clear()
                await self._wake.wait()
            now = time.monotonic()
            for stream in tuple(self.streams):
                stream.write_due(now)
            await asyncio.sleep(1 / self.rate - (time.monotonic() - now))


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._begin()

    def _begin(self) -> None:
        self._url, self._body, self._size = b"", bytearray(), 0
        self._wanted = self._sent = 0
        self._with_usage, self._begun = False, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._pace.streams.discard(self)
        self._transport = None

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if b"/audio/" not in self._url:
            self._body += body

    def on_message_complete(self) -> None:
        if self._transport is None:
            return
        if b"/audio/" in self._url:
            self._answer(_json({"text": f"{self._size} bytes."}))
        elif b"/chat/completions" not in self._url:
            self._answer(_json({"object": "list", "data": [{"id": "tiny", "object": "model"}]}))
        elif b'"stream"' in self._body and (asked := json.loads(self._body)).get("stream"):
            self._wanted = asked.get("max_completion_tokens") or asked.get("max_tokens") or _MANY
            self._with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            self._begun = time.monotonic() + self._pace.first_token_s
            self._transport.write(_STREAM_HEAD)
            self._pace.add(self)
        else:
            self._answer(_ANSWER)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(_HEAD % len(body) + body)

    def write_due(self, now: float) -> None:
        """Write the events that are due and that the other side can take."""
        if self._transport is None or self._transport.is_closing() or not self._writable or now < self._begun:
            return
        due = min(self._wanted, 1 + int((now - self._begun) * self._pace.rate)) - self._sent
        if due <= _SEPARATE:
            for _ in range(due):
                self._transport.write(_TOKEN)
        else:
            due = min(due, _JOINED)
            self._transport.write(_TOKEN * due)
        self._sent += due
        if self._sent >= self._wanted:
            usage = _event([], usage=_usage(self._sent)) if self._with_usage else b""
            self._transport.write(_LAST + usage + _DONE)
            self._pace.streams.discard(self)


async def serve(uds: Path, rate: float, first_token_s: float) -> None:
    """Listen until TERM or INT."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pace = Pace(rate, first_token_s)
    os.umask(0o077)
    await loop.create_unix_server(lambda: _Connection(pace), str(uds), backlog=512)
    server = await loop.create_server(lambda: _Connection(pace), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    pacing = asyncio.create_task(pace.run())
    await stop.wait()
    pacing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pacing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uds", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second for each stream")
    parser.add_argument("--first-token-ms", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(serve(options.uds, options.rate, options.first_token_ms / 1000))


if __name__ == "__main__":
    main()

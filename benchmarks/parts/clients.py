"""The clients of the gateway's benchmark: one by one (P1), 32 at once (P2), 64 paced streams (P3), an upload (P4).

They are as lean as they can be, since they share the machine with what they measure.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice

from benchmarks.parts.engine import MARK
from benchmarks.parts.ways import KEY, Address, Way, connect

STREAMS, CHUNKS_PER_S = 64, 1000.0
_BEGUN_S = 10.0  # so long may a stream take to begin
_BLOCK = bytes(2**20)


def chat_request(model: str = "tiny", **more: object) -> bytes:
    """One chat request as bytes."""
    messages = [{"role": "user", "content": "Hello, you."}]
    return _request(json.dumps({"model": model, "messages": messages, "max_tokens": 1, **more}).encode())


def _request(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
    )


def _answer_size(head: bytes) -> int:
    """Bytes of the answer of which `head` is the beginning, or 0 while its head is not complete."""
    end = head.find(b"\r\n\r\n")
    if end < 0:
        return 0
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"Unexpected answer: {head[:200]!r}")
    lower = head[:end].lower() + b"\r\n"
    start = lower.index(b"content-length:") + 15
    return end + 4 + int(lower[start : lower.index(b"\r\n", start)])


def one_by_one(way: Way, count: int, requests: Iterable[bytes] = (chat_request(),)) -> None:
    """Ask `count` times over one connection and note how long each took."""
    with connect(way.address) as connection:
        for request in islice(cycle(requests), count):
            begun = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65536)
            while not (size := _answer_size(answer)) or len(answer) < size:
                piece = connection.recv(65536)
                if not piece:
                    raise RuntimeError(f"{way.name} hung up.")
                answer += piece
            way.latencies_s.append(time.perf_counter() - begun)


class _Asker(asyncio.Protocol):
    """Asks again as soon as an answer is whole."""

    def __init__(
        self, requests: Iterator[bytes], done: asyncio.Future[None], took_s: list[float] | None = None
    ) -> None:
        self._requests = requests
        self._took_s = took_s
        self._asked_at = 0.0
        self._done = done
        self._answer = b""
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            self._done.set_result(None)
            return
        self._answer, self._size = b"", 0
        self._asked_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        try:
            self._size = self._size or _answer_size(self._answer)
        except RuntimeError as error:
            self._fail(error)
            return
        if self._size and len(self._answer) >= self._size:
            if self._took_s is not None:
                self._took_s.append(time.perf_counter() - self._asked_at)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RuntimeError(f"The connection was closed: {exc}"))

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._transport.close()


async def many_at_once(
    way: Way,
    count: int,
    requests: Iterable[bytes] = (chat_request(),),
    concurrency: int = 32,
    took_s: list[float] | None = None,
) -> None:
    """Ask `count` times over so many connections and note the CPU time of the way's processes for each request.

    `took_s` gets how long each took.
    """
    loop = asyncio.get_running_loop()
    left = islice(cycle(requests), count)
    done = [loop.create_future() for _ in range(concurrency)]
    before, begun = way.cpu_ns(), time.perf_counter()
    for each in done:
        await _open(way.address, _Asker(left, each, took_s))
    await asyncio.gather(*done)
    way.cpu_s.append((way.cpu_ns() - before) / 1e9 / count)
    way.rates.append(count / (time.perf_counter() - begun))


async def _open(address: Address, protocol: asyncio.Protocol) -> None:
    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        await loop.create_unix_connection(lambda: protocol, address)
    else:
        await loop.create_connection(lambda: protocol, "127.0.0.1", address)


class _Listener(asyncio.Protocol):
    """Asks for a stream and counts its events."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.chunks = 0
        self.whole = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(MARK)

    def connection_lost(self, exc: Exception | None) -> None:
        self.whole = False


async def streams(way: Way, seconds: float) -> None:
    """Read 64 streams at once and note how many events a second came, and the cores used, once all have begun."""
    listeners = [_Listener(chat_request(stream=True, max_tokens=10_000_000)) for _ in range(STREAMS)]
    for listener in listeners:
        await _open(way.address, listener)
    until = time.perf_counter() + _BEGUN_S
    await asyncio.sleep(0.5)
    while not all(listener.chunks for listener in listeners) and time.perf_counter() < until:
        await asyncio.sleep(0.1)
    silent = sum(not listener.chunks for listener in listeners)
    begun, cpu_ns = time.perf_counter(), way.cpu_ns()
    before = sum(listener.chunks for listener in listeners)
    await asyncio.sleep(seconds)
    chunks = sum(listener.chunks for listener in listeners) - before
    took_s = time.perf_counter() - begun
    way.chunk_rates.append(chunks / took_s)
    way.stream_cores.append((way.cpu_ns() - cpu_ns) / 1e9 / took_s)
    broken = sum(not listener.whole for listener in listeners)
    for listener in listeners:
        listener.transport.abort()
    if broken or silent:
        print(
            f"{way.name}: {broken} of {STREAMS} streams broke off, {silent} were silent for {_BEGUN_S:.0f} s"
        )
    await asyncio.sleep(0.05)


def upload(address: Address, size: int) -> None:
    """Post a form with a file of `size` zero bytes and read the answer; raises RuntimeError unless it is 200."""
    line = b"\r\n--bench\r\nContent-Disposition: form-data; name="
    start = line[2:] + b'"model"\r\n\r\ntiny-whisper' + line + b'"file"; filename="a.wav"\r\n'
    start += b"Content-Type: audio/wav\r\n\r\n"
    end = b"\r\n--bench--\r\n"
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: multipart/form-data; boundary=bench\r\nContent-Length: %d\r\n\r\n"
        % (KEY.encode(), len(start) + size + len(end))
    )
    with connect(address) as connection:
        connection.settimeout(120)
        connection.sendall(head + start)
        for _ in range(size // len(_BLOCK)):
            connection.sendall(_BLOCK)
        connection.sendall(_BLOCK[: size % len(_BLOCK)] + end)
        answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"The upload was answered with {answer[:200]!r}")

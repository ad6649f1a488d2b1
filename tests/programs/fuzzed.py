"""One gateway that a fuzzer gives one stream after the other; imported under the fuzzer's eyes (fuzz.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway
from tests.programs.front import KEY
from tests.programs.recorder import Recorder
from tests.programs.wire import AUTH, HOST, replies, request

# An input is: number of cuts, the cuts (two bytes each), then the stream.
CUTS_MAX = 3
KEPT = 20  # how many inputs later one is judged: what the client left behind may still be on its way
RECENT = 1000
TOKENS = [AUTH, HOST, b"\r\n", b"\n", b"GET ", b"POST ", b"HEAD ", b"/k", b"/n", b" HTTP/1.1", b" HTTP/1.0"]
TOKENS += [
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"Upgrade: websocket",
]
TOKENS += [
    b"Connection: Upgrade",
    b"Connection: close",
    b"Expect: 100-continue",
    b"/health",
    b"/login",
    b"/node/a/1",
]
TOKENS += [
    b"%2e%2e",
    b"\\",
    b"//",
    b"\x00",
    b"ffffffffffffffff",
    b"Sec-WebSocket-Protocol: x",
    b"key=sk-wrong",
]


class Found(Exception):  # noqa: N818 - what a fuzzer is there for, not an error of ours
    """What was found, with the input."""


class Trial:
    """A gateway that is given one stream after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = KEY.encode()
        self._number = 0
        self._judged: deque[tuple[Recorder, bytes]] = deque()
        self._recent: deque[bytes] = deque(maxlen=RECENT)
        self._trouble: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self._trouble.append(repr(context)))
        self._routes = Routes(ready=True)

        async def start() -> tuple[Gateway, int]:
            gateway = Gateway(keys=Keys(KEY), front=SessionFront(self._routes, dict), name="tiny-1")
            return gateway, await gateway.start("127.0.0.1")

        self._gateway, self._port = self.loop.run_until_complete(start())

    def __call__(self, data: bytes) -> None:
        """One input."""
        count = data[0] % (CUTS_MAX + 1) if data else 0
        cuts, stream = data[1 : 1 + 2 * count], data[1 + 2 * count :]
        places = sorted(
            int.from_bytes(cuts[at : at + 2], "big") % (len(stream) + 1) for at in range(0, len(cuts), 2)
        )
        pieces = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
        # A damaged field may hold a key where nobody looks for one, so that it goes on.
        upstream = Recorder(self._folder, name=f"{self._number}.sock", secret=None)
        self._number += 1
        self._routes.engine = self._routes.page = upstream.socket
        received = self.loop.run_until_complete(self._talk(pieces))
        if b"HEAD" not in stream:
            try:
                replies(received)
            except AssertionError as error:
                raise Found(f"{error}: {stream!r} was answered {received!r}") from error
        if self._trouble:
            raise Found(f"{self._trouble}: {stream!r}")
        self._judged.append((upstream, stream))
        self._recent.append(stream)
        while len(self._judged) > KEPT:
            self._judge(*self._judged.popleft())

    async def _talk(self, pieces: list[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        received = bytearray()
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            await asyncio.sleep(0.003)  # a client that says at once that it sends no more is soon let go
            writer.write_eof()
            while more := await asyncio.wait_for(reader.read(65536), 0.1):  # a wrong key waits for seconds
                received += more
        writer.transport.abort()
        if self._number % 100 == 0:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(request("/health", key=False))
            if not (await asyncio.wait_for(reader.read(100), 10)).startswith(b"HTTP/1.1 200"):
                raise Found("the gateway answers no more")
            writer.close()
        return bytes(received)

    def _judge(self, upstream: Recorder, stream: bytes) -> None:
        upstream.close()
        upstream.socket.unlink(missing_ok=True)
        if upstream.faults:
            raise Found(f"{upstream.faults}: {stream!r}")
        for seen in upstream.requests:
            # What waited behind a wrong key's delay comes seconds later, to the upstream of that time.
            if not any(self._has_key(seen.target.encode(), recent) for recent in (stream, *self._recent)):
                raise Found(f"{seen.target} got in: {stream!r}")

    def _has_key(self, target: bytes, stream: bytes) -> bool:
        at = stream.find(target)
        return at >= 0 and self._key in stream[at:].partition(b"\r\n\r\n")[0]


def write_seeds(folder: Path) -> None:
    """Put a few correct streams into `folder`, to begin with."""
    body = b"hello"
    streams = [
        request("/k1"),
        request("/n1", key=False),
        request("/k1", method="POST", body=body) + request("/n2", key=False),
        request("/k1", method="POST", extra=b"Transfer-Encoding: chunked\r\n")
        + b"5\r\nhello\r\n0\r\n\r\n"
        + request("/k2"),
        request("/login", method="POST", key=False, body=b"key=x"),
        request("/node/a/1/ui/x?y", extra=b"Accept: text/html\r\nCookie: a=b\r\n"),
        request("/k1", extra=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        request("/k1", method="PUT", body=body, extra=b"Expect: 100-continue\r\n"),
    ]
    for number, stream in enumerate(streams):
        (folder / f"seed{number}").write_bytes(b"\x00" + stream)

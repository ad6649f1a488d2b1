"""An HTTP/1.1 client as thin as can be, which shows how an answer ended; for the soak.

The ready-made clients hide just what the soak is about: whether an answer was whole, and who closed first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

_HEAD_BYTES = 2**16


class CutError(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer; names are lower case."""

    status: int
    headers: dict[str, str]


class Connection:
    """One connection to the gateway, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.closing = False  # the other side said that it closes after its answer
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, receive_buffer: int | None = None) -> Self:
        """Connect; a small `receive_buffer` makes the gateway feel at once that this client reads slowly."""
        plain = socket.socket()
        plain.setblocking(False)
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        limit = receive_buffer or _HEAD_BYTES
        return cls(*await asyncio.open_connection(sock=plain, limit=max(limit, 4096)))

    async def send(self, data: bytes) -> None:
        """Send bytes; raises CutError when the other side has closed."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise CutError(str(error)) from error

    async def head(self) -> Head:
        """The head of the next answer; raises CutError when there is none."""
        try:
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CutError(str(error)) from error
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        self.closing = headers.get("connection", "").lower() == "close"
        return Head(int(lines[0].split()[1]), headers)

    async def pieces(self, head: Head, size: int = 2**16) -> AsyncIterator[bytes]:
        """The body as it comes, at most `size` bytes at once; raises CutError unless it came to its own end."""
        try:
            if head.headers.get("transfer-encoding", "").lower() == "chunked":
                while length := int((await self._reader.readline()).partition(b";")[0] or b"x", 16):
                    data = await self._reader.readexactly(length + 2)
                    yield data[:-2]
                await self._reader.readexactly(2)
                return
            missing = int(head.headers["content-length"])
            while missing > 0:
                data = await self._reader.read(min(size, missing))
                if not data:
                    raise CutError(f"{missing} bytes are missing")
                missing -= len(data)
                yield data
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise CutError(str(error)) from error

    async def body(self, head: Head) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces(head)])

    async def close(self) -> None:
        """Close, whatever was sent or read so far."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return


def request(method: str, path: str, key: str, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A request's bytes; `length` promises more bytes than `body` has."""
    promised = len(body) if length is None else length
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {promised}\r\n\r\n"
    ).encode() + body

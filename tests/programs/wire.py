"""The client's side of a raw connection: bytes out in any pieces, answers read strictly."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.programs.front import KEY

HOST = b"Host: x\r\n"
AUTH = HOST + b"Authorization: Bearer " + KEY.encode() + b"\r\n"
CLOSE = b"Connection: close\r\n"  # in the last request of several: then nobody waits for a silence
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)")


@dataclass(frozen=True)
class Reply:
    """One answer; `whole` is False when the connection ended before the promised end."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool = True

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    target: str, *, key: bool = True, method: str = "GET", body: bytes | None = None, extra: bytes = b""
) -> bytes:
    """One correct request."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    line = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    return line + (AUTH if key else HOST) + extra + length + b"\r\n" + (body or b"")


def exchange(
    port: int, sent: bytes | Iterable[bytes], *, silence_s: float = 3.0, limit: int = 2**26
) -> tuple[bytes, bool]:
    """Send, then read until the other closes or is silent for `silence_s`; also whether it closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=max(silence_s, 5.0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces go as they are
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in [sent] if isinstance(sent, bytes) else sent:
                connection.sendall(piece)
        connection.settimeout(silence_s)
        return read_all(connection, limit)


def read_all(connection: socket.socket, limit: int = 2**26) -> tuple[bytes, bool]:
    """Read until the other closes, or its silence lasts longer than the socket's timeout."""
    received = bytearray()
    try:
        while len(received) < limit and (piece := connection.recv(65536)):
            received += piece
    except TimeoutError:
        return bytes(received), False
    except ConnectionError:
        pass
    return bytes(received), True


def replies(received: bytes, methods: Iterable[str] = ()) -> list[Reply]:
    """Split what came into final answers; AssertionError where a strict reader would refuse it.

    `methods` are those of the requests, since an answer to HEAD has no body.
    """
    found: list[Reply] = []
    asked = iter(methods)
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        if not end:
            assert b"\n" not in head.replace(b"\r\n", b""), head[:200]
            return [*found, Reply(0, (), head, False)]
        line, *fields = head.split(b"\r\n")
        status = _STATUS.fullmatch(line)
        assert status is not None, f"status line {line[:200]!r}"
        headers = tuple(_header(field) for field in fields)
        code = int(status[1])
        if code < 200 and code != 101:
            continue
        body, received, whole = _body(code, next(asked, "GET"), headers, received)
        found.append(Reply(code, headers, body, whole))
        if code == 101:
            return found
    return found


def _header(line: bytes) -> tuple[str, str]:
    found = _FIELD.fullmatch(line)
    assert found is not None, f"header line {line[:200]!r}"
    return found[1].decode(), found[2].decode("latin-1")


def _body(
    code: int, method: str, headers: tuple[tuple[str, str], ...], rest: bytes
) -> tuple[bytes, bytes, bool]:
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value for name, value in headers if name.lower() == "transfer-encoding"]
    assert len(lengths) + len(codings) <= 1, f"two lengths: {headers}"
    if code in (101, 204, 304) or method == "HEAD":
        return b"", rest, True
    if lengths:
        assert re.fullmatch("[0-9]+", lengths[0]), lengths
        size = int(lengths[0])
        return rest[:size], rest[size:], len(rest) >= size
    if not codings:
        return rest, b"", True
    assert codings == ["chunked"]
    body = bytearray()
    while True:
        line, end, after = rest.partition(b"\r\n")
        if not end:
            return bytes(body), b"", False
        assert re.fullmatch(rb"[0-9a-fA-F]+", line), f"chunk size {line[:100]!r}"
        size = int(line, 16)
        if len(after) < size + 2:
            return bytes(body + after[:size]), b"", False
        assert after[size : size + 2] == b"\r\n"
        body += after[:size]
        rest = after[size + 2 :]
        if size == 0:
            return bytes(body), rest, True


def reset(connection: socket.socket) -> None:
    """Close with RST, as a client that was killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drip(connection: socket.socket, data: bytes, every_s: float, seconds: float) -> float:
    """Send `data` byte by byte for at most `seconds`; how long the other end let it go on."""
    begun = time.monotonic()
    connection.settimeout(every_s)
    for number in range(len(data)):
        if time.monotonic() - begun > seconds:
            break
        try:
            connection.sendall(data[number : number + 1])
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun

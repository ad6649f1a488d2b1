"""Requests as bytes, for what a well-behaved client does not do: leave in the middle, lie about the length, forge."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.programs.front import Answer

BOUNDARY = "5a5a"
TRANSCRIPTIONS = "/v1/audio/transcriptions"


def part(name: str, value: bytes | str, filename: str | None = None) -> bytes:
    """One part of a form."""
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"


def form(fields: Mapping[str, str], file: bytes | None, filename: str = "a.wav") -> bytes:
    """A whole form."""
    parts = [part(name, value) for name, value in fields.items()]
    parts += [part("file", file, filename)] if file is not None else []
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def begun(
    server: Path, body: bytes, *, length: int | None = None, content_type: str | None = None
) -> socket.socket:
    """A connection on which a transcription was asked for; `length` is what the client says, not what it sends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(server))
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: session\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def chunked(server: Path, pieces: Iterable[bytes]) -> Answer:
    """The answer to a body that does not tell its length; sending ends where the server has answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(server))
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        connection.sendall(
            f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: session\r\nContent-Type: {kind}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        with contextlib.suppress(BrokenPipeError):  # it has answered, and reads no more
            for piece in pieces:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
        return _answer(connection)


def ask(server: Path, body: bytes, *, length: int | None = None, content_type: str | None = None) -> Answer:
    """The answer to a transcription that was asked for so."""
    with begun(server, body, length=length, content_type=content_type) as connection:
        return _answer(connection)


def _answer(connection: socket.socket) -> Answer:
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return Answer(response.status, response.getheaders(), response.read())

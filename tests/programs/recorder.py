"""An upstream that keeps every byte it was sent and says where they could be read in two ways.

Owns the strict reading: each line ends with CR LF, a body has exactly one kind of length, and that is written in one
way only. What the gateway sends must never need a lenient reader, whatever a client sent to the gateway.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.programs.front import KEY

LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~]*) HTTP/1\.1")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; `connection` counts the connections from 1."""

    connection: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)


Answering = Callable[[Seen], Iterator[bytes]]


def echo(seen: Seen) -> Iterator[bytes]:
    """Say which request this answers, so that a swapped answer is noticed."""
    body = json.dumps({"target": seen.target, "bytes": len(seen.body)}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    yield head if seen.method == "HEAD" else head + body


class FaultError(Exception):
    """Bytes that a careful reader refuses."""


class Recorder:
    """Listens on a Unix socket; `answer` gives the pieces of an answer; with `keep` the connection stays open after it.

    `requests` is what came, `faults` what was not in its one form (`secret` must stand in no head), `cut` counts
    requests that ended too early.
    """

    def __init__(
        self,
        folder: Path,
        answer: Answering = echo,
        *,
        keep: bool = True,
        name: str = "",
        secret: str | None = KEY,
    ) -> None:
        self.socket = folder / (name or "recorder.sock")
        self.answer = answer
        self.keep = keep
        self.secret = secret
        self.requests: list[Seen] = []
        self.faults: list[str] = []
        self.cut = 0
        self.connections = 0
        self.open = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def targets(self) -> list[str]:
        return [seen.target for seen in self.requests]

    def forget(self) -> None:
        """Begin anew with empty lists."""
        self.requests, self.faults, self.cut = [], [], 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        self.open += 1
        reader = Strict(connection, self.secret)
        try:
            with connection, contextlib.suppress(OSError):
                while (seen := reader.request(number)) is not None:
                    self.requests.append(seen)
                    for piece in self.answer(seen):
                        connection.sendall(piece)
                    if not self.keep:
                        return
                self.cut += bool(reader.left)
        except FaultError as fault:
            self.faults.append(f"{fault}: {bytes(reader.raw[-300:])!r}")
        finally:
            self.open -= 1


class Strict:
    """Reads requests from a socket; `raw` is all that came, `left` what no whole request was made of."""

    def __init__(self, connection: socket.socket, secret: str | None) -> None:
        self._connection = connection
        self._secret = secret
        self.raw = bytearray()
        self.left = b""

    def request(self, number: int) -> Seen | None:
        """The next request; None at the end, also in the middle of one."""
        try:
            head = self._until(b"\r\n\r\n", 2**20)
            if self._secret is not None and self._secret.encode() in head:
                raise FaultError("the key was passed on")
            line, *fields = head.split(b"\r\n")
            found = LINE.fullmatch(line)
            if found is None:
                raise FaultError(f"request line {line[:200]!r}")
            headers = tuple(_field(field) for field in fields)
            return Seen(
                number, found[1].decode(), found[2].decode(), headers, self._body(found[1].decode(), headers)
            )
        except EOFError:
            return None

    def _body(self, method: str, headers: tuple[tuple[str, str], ...]) -> bytes:
        values = {
            name: [value for found, value in headers if found.lower() == name]
            for name in ("host", "content-length", "transfer-encoding", "upgrade", "expect", "connection")
        }
        if len(values["host"]) != 1:
            raise FaultError(f"Host: {values['host']}")
        length, coding = values["content-length"], values["transfer-encoding"]
        if len(length) + len(coding) > 1:
            raise FaultError(f"two lengths: {length} {coding}")
        if values["expect"]:
            raise FaultError("Expect was passed on")
        if [value.lower() for value in values["upgrade"]] not in ([], ["websocket"]):
            raise FaultError(f"Upgrade: {values['upgrade']}")
        if coding:
            if coding[0].lower() != "chunked":
                raise FaultError(f"Transfer-Encoding: {coding}")
            return self._chunks()
        if not length:
            return b""
        if not LENGTH.fullmatch(length[0].encode()):
            raise FaultError(f"Content-Length: {length}")
        return self._exactly(int(length[0]))

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = self._until(b"\r\n", 64)
            if not SIZE.fullmatch(line):
                raise FaultError(f"chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                break
            body += self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise FaultError("chunk without its end")
        if self._exactly(2) != b"\r\n":
            raise FaultError("trailers were passed on")
        return bytes(body)

    def _until(self, end: bytes, limit: int) -> bytes:
        while end not in self.left:
            if len(self.left) > limit:
                raise FaultError("a line without end")
            self._more()
        found, _, self.left = self.left.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        if size > 2**26:  # more than any test sends: a length that somebody misread
            raise FaultError(f"{size} bytes announced")
        while len(self.left) < size:
            self._more()
        found, self.left = self.left[:size], self.left[size:]
        return found

    def _more(self) -> None:
        piece = self._connection.recv(65536)
        if not piece:
            raise EOFError
        self.raw += piece
        self.left += piece


def _field(line: bytes) -> tuple[str, str]:
    found = FIELD.fullmatch(line)
    if found is None:
        raise FaultError(f"header line {line[:200]!r}")
    return found[1].decode(), found[2].decode("latin-1").strip(" \t")

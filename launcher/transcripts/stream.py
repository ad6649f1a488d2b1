"""One recording's way to a session and back: the request, and the pieces of the transcript as they are finished.

Owns the HTTP and what its answers mean. `http.client` is enough: the `openai` client is not among the core's
dependencies, and takes no event of its own kind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from launcher.sessions.connection import Connection
from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Piece, Source, open_regular
from launcher.whisper.segments import Segment

_CONNECT_S = 10.0
_SILENCE_S = 120.0  # the server says something every ten seconds while it works
_LINE_MAX_BYTES = 64 * 2**20
_BODY_MAX_BYTES = 2**20
_UPLOAD_STEP_BYTES = 2**20
_RETRY_S = 2.0


class Refused(Exception):  # noqa: N818 - an answer of the session, and no fault of this program
    """The session will not transcribe this: `param` is the field of the request at fault, where it named one."""

    def __init__(self, status: int, message: str, code: str | None, param: str | None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class Broken(Exception):  # noqa: N818
    """The stream ended in the middle, or the session failed at this; it may be tried again after `wait_s`.

    `gone`: nobody answers there any more. `mine`: the session was well until it had this recording.
    """

    def __init__(
        self, message: str, *, wait_s: float | None = None, gone: bool = False, mine: bool = False
    ) -> None:
        super().__init__(message)
        self.message, self.gone, self.mine = message, gone, mine
        self.wait_s = _RETRY_S if wait_s is None else wait_s


class Stopped(Exception):  # noqa: N818
    """This program ended the request."""


class Stream:
    """One request; `stop` ends it from another thread, and its session drops the work at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it; whoever reads it gets Stopped."""
        self._stopped.set()
        if (open_socket := self._socket) is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def pieces(
        self,
        source: Source,
        asked: Asked,
        after: str | None,
        *,
        upload: bool = False,
        sent: Callable[[int], None] | None = None,
    ) -> Iterator[Piece]:
        """The pieces after the cursor `after`; `upload` sends the file, whose bytes so far go to `sent`.

        Without it the session reads the file itself. Raises Refused, Broken, Stopped, and OSError for the file.
        """
        fields = [("model", self._connection.model), *asked.fields(), ("stream", "true")]
        fields += [("response_format", "verbose_json")]
        if after is not None:
            fields.append(("resume_from", after))
        route = "/audio/translations" if asked.translate else "/audio/transcriptions"
        began = False
        try:
            if upload:
                response = self._send_file(route, fields, Path(source.path), sent)
            else:
                # The same path may be another file on the session's node: /tmp is every node's own.
                fields += [("path", source.path), ("path_version", f"{source.size}-{source.modified_ns}")]
                body = urlencode(fields, errors="strict").encode()
                response = self._send(route, body, {"Content-Type": "application/x-www-form-urlencoded"})
            with response:
                if response.status != http.client.OK:
                    raise _answer(response)
                began = True
                yield from _pieces(_events(response))
        except (OSError, http.client.HTTPException, ValueError, Broken) as error:
            if self._stopped.is_set():
                raise Stopped from None
            if isinstance(error, Broken):
                raise
            if isinstance(error, _FileError):
                raise error.error from None
            refused = isinstance(error, ConnectionRefusedError | socket.gaierror) or (
                not began and isinstance(error, OSError)
            )
            raise Broken(f"The connection was lost ({_why(error)}).", gone=refused, mine=began) from None
        finally:
            if self._http is not None:
                self._http.close()

    def ask(self, route: str) -> Any:
        """The JSON that a GET of `route` answers; raises Broken."""
        try:
            response = self._send(route, None, {}, "GET")
            with response:
                if response.status != http.client.OK:
                    raise _answer(response)
                return json.loads(response.read(_BODY_MAX_BYTES))
        except (OSError, http.client.HTTPException, ValueError, Refused) as error:
            raise Broken(f"The session does not answer ({_why(error)}).", gone=True) from None
        finally:
            if self._http is not None:
                self._http.close()

    def _send(
        self, route: str, body: Any, headers: Mapping[str, str], method: str = "POST"
    ) -> http.client.HTTPResponse:
        base = urlsplit(self._connection.base_url)
        # No proxy of the environment: those are for the world outside, and would be given the key.
        self._http = http.client.HTTPConnection(base.hostname or "", base.port, timeout=_CONNECT_S)
        self._http.connect()
        self._socket = self._http.sock
        if self._stopped.is_set():
            raise OSError
        self._socket.settimeout(_SILENCE_S)
        sent = {**headers, "Authorization": f"Bearer {self._connection.key}", "Accept": "text/event-stream"}
        # It may answer before it has the whole file, and close.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._http.request(method, base.path + route, body, sent)
        return self._http.getresponse()

    def _send_file(
        self, route: str, fields: list[tuple[str, str]], path: Path, sent: Callable[[int], None] | None
    ) -> http.client.HTTPResponse:
        boundary = uuid.uuid4().hex
        head = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields
        )
        # The real name is nobody's business there, and could hold anything.
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="recording"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        try:
            file = open_regular(path, links=True)  # a pipe in its place would wait for its writer
        except OSError as error:
            raise _FileError(error) from None
        with file:
            size = os.fstat(file.fileno()).st_size

            def body() -> Iterator[bytes]:
                yield head
                done = 0
                while done < size:
                    try:
                        data = file.read(min(_UPLOAD_STEP_BYTES, size - done))
                    except OSError as error:
                        raise _FileError(error) from None
                    if not data:
                        raise _FileError(OSError(0, "It became shorter while it was read"))
                    yield data
                    done += len(data)
                    if sent is not None:
                        sent(done)
                yield tail

            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head) + size + len(tail)),
            }
            return self._send(route, body(), headers)


class _FileError(ValueError):
    """The recording itself cannot be read, as opposed to the connection."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The data of each server-sent event (WHATWG HTML, 9.2.6); comments are heartbeats."""
    data: list[bytes] = []
    while line := response.readline(_LINE_MAX_BYTES):
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            text, data = b"\n".join(data), []
            if text != b"[DONE]":
                event = json.loads(text)
                if not isinstance(event, dict):
                    raise ValueError("an event is no object")
                yield event


def _pieces(events: Iterator[dict[str, Any]]) -> Iterator[Piece]:
    segments: list[Segment] = []
    try:
        for event in events:
            if "error" in event:
                raise _error(0, event["error"])
            match event.get("type"):
                case "transcript.text.segment":
                    segments.append(Segment.from_dict(event))
                case "transcript.text.progress":
                    yield Piece(
                        str(event["cursor"]), float(event["done_s"]), event.get("duration_s"),
                        event.get("language"), tuple(segments),
                    )  # fmt: skip
                    segments = []
                case "transcript.text.done":
                    return
    except (KeyError, TypeError) as error:
        raise ValueError(f"an event without {error}") from None
    raise Broken("The answer ended in the middle.", mine=True)


def _answer(response: http.client.HTTPResponse) -> Refused | Broken:
    wait = response.getheader("Retry-After") or ""
    wait_s = float(wait) if wait.isdigit() and len(wait) < 4 else None
    try:
        error = json.loads(response.read(_BODY_MAX_BYTES))["error"]
    except (ValueError, KeyError, TypeError):
        error = {}
    return _error(response.status, error, wait_s)


def _error(status: int, error: Any, wait_s: float | None = None) -> Refused | Broken:
    """What an OpenAI-shaped error means; `status` 0 is one in the middle of a stream."""
    found = error if isinstance(error, dict) else {}
    message = str(found.get("message") or f"The session answered with HTTP {status}.")
    if status in (401, 403) and found.get("param") is None:
        return Broken(message, gone=True)  # the session was started again, with another key
    if found.get("code") == "session_ending":
        return Broken(message, wait_s=wait_s, gone=True)  # no fault of this recording
    if status in (429, 502, 503, 504):
        return Broken(message, wait_s=wait_s)
    ours = found.get("type") == "invalid_request_error" or 400 <= status < 500 or status == 507
    if not ours:
        return Broken(message, wait_s=wait_s, mine=True)
    return Refused(status, message, found.get("code"), found.get("param"))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it is silent"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__

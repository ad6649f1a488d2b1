"""The lines of the input: checked in one pass, remembered by their places, read again one by one.

Owns what a good line is. Keeps no text: a line costs its place, its state and its id's hash, whatever is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.batch.ids import Ids
from launcher.batch.spec import URLS, Spec
from launcher.errors import RequestError, StorageError

LINE_MAX_BYTES = 64 * 2**20
# Parsed, the least values take thirty times the memory that they take in the line (launcher.fleet.question).
_VALUES_MAX = 2**20
_ID_MAX = 512
_SETTLED_S = 3.0  # a network file system counts in seconds
TODO, DONE, REPORTED, FAULTY, BLANK = range(5)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line (counted from 1), before anything was sent: OpenAI's code and a sentence."""

    line: int
    custom_id: str | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Request:
    """One line as it is sent: `body` is JSON."""

    number: int
    custom_id: str
    url: str
    body: bytes


class Input:
    """The lines of `path`; each has a state."""

    def __init__(self, path: Path, spec: Spec) -> None:
        self._spec = spec
        self._path = path
        try:
            # A pipe without a writer would be waited for.
            self._file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise RequestError(
                f"{path} cannot be read: {error.strerror}.",
                "Name a file of requests, one JSON object a line.",
            ) from error
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise RequestError(f"{path} is no file.", "Name a file of requests, one JSON object a line.")
        self._starts = array("Q")
        self._states = bytearray()
        self._ids = Ids(self._id_at)

    @property
    def lines(self) -> int:
        """All lines, good and bad, but not the empty ones."""
        return len(self._states) - self._states.count(BLANK)

    @property
    def left(self) -> int:
        """How many are still to be done."""
        return self._states.count(TODO)

    @property
    def faults(self) -> int:
        """How many are bad."""
        return self._states.count(FAULTY)

    def stamp(self) -> list[int] | None:
        """What changes whenever the file does; None so soon after a change that another might look the same."""
        found = os.fstat(self._file.fileno())
        if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED_S:
            return None
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]

    def digest(self) -> str:
        """The SHA-256 of the file."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def check(self, tell: Callable[[Fault], None]) -> None:
        """Read all lines once; `tell` gets the first fault of each bad one."""
        at = 0
        self._starts, self._states, self._ids = array("Q"), bytearray(), Ids(self._id_at)
        self._file.seek(0)
        while text := self._file.readline(LINE_MAX_BYTES):
            size, whole = len(text), text.endswith(b"\n") or len(text) < LINE_MAX_BYTES
            while not (whole or not (more := self._file.readline(LINE_MAX_BYTES))):
                size, whole = size + len(more), more.endswith(b"\n")
            self._starts.append(at)
            at += size
            self._states.append(TODO)
            self._states[-1] = self._judged(text, size, tell)
        self._starts.append(at)

    def find(self, custom_id: str) -> int | None:
        """The number of the good line with this id."""
        return self._ids.find(custom_id)

    def state(self, number: int) -> int:
        return self._states[number] if 0 <= number < len(self._states) else BLANK

    def settle(self, number: int, state: int = DONE) -> None:
        """Line `number` needs nothing more."""
        self._states[number] = state

    def requests(self) -> Iterator[Request]:
        """What is to be done, in the order of the file, each read when it is asked for."""
        number = self._states.find(TODO)
        while number >= 0:
            yield self._request(number)
            number = self._states.find(TODO, number + 1)

    def close(self) -> None:
        self._file.close()

    def _judged(self, text: bytes, size: int, tell: Callable[[Fault], None]) -> int:
        number = len(self._states) - 1
        if not text.strip():
            return BLANK
        custom_id = None
        try:
            if size > LINE_MAX_BYTES:
                raise _WrongError(
                    "line_too_long", f"The line has {size} bytes; {LINE_MAX_BYTES} are allowed."
                )
            data = _parsed(text)
            custom_id = _custom_id(data)
            _sent(data, self._spec)
            if (earlier := self._ids.add(custom_id, number)) is not None:
                raise _WrongError(
                    "duplicate_custom_id", f'Line {earlier + 1} has the custom_id "{custom_id[:80]}" too.'
                )
        except _WrongError as wrong:
            tell(Fault(number + 1, custom_id, wrong.code, wrong.message))
            return FAULTY
        return TODO

    def _request(self, number: int) -> Request:
        try:
            data = _parsed(self._text(number))
            custom_id = _custom_id(data)
            url, body = _sent(data, self._spec)
        except _WrongError:
            custom_id = url = ""
            body = {}
        if not url or not self._ids.holds(custom_id, number):
            raise StorageError(
                f"{self._path} was changed while its requests were being sent (line {number + 1}).",
                "Put back the file that the run began with, then resume it.",
            )
        return Request(number, custom_id, url, json.dumps(body).encode())

    def _text(self, number: int) -> bytes:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else start + LINE_MAX_BYTES
        return os.pread(self._file.fileno(), end - start, start).partition(b"\n")[0]

    def _id_at(self, number: int) -> str | None:
        try:
            return _custom_id(_parsed(self._text(number)))
        except _WrongError:
            return None


def empty(path: Path) -> bool:
    """Whether nothing but blank lines is in a file; one that cannot be read is told when it is."""
    try:
        with path.open("rb") as file:
            return not any(
                part.strip(b" \t\r\n\xef\xbb\xbf") for part in iter(lambda: file.read(1 << 16), b"")
            )
    except OSError:
        return False


class _WrongError(ValueError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def _parsed(text: bytes) -> dict[str, Any]:
    if len(text) > _VALUES_MAX and sum(map(text.count, (b",", b"[", b"{"))) > _VALUES_MAX:
        raise _WrongError("too_many_values", f"The line has more than {_VALUES_MAX} values.")
    try:
        data = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise _WrongError("invalid_json_line", f"The line is not JSON: {why}.") from None
    if not isinstance(data, dict):
        raise _WrongError("invalid_json_line", "The line must be a JSON object.")
    return data


def _custom_id(data: dict[str, Any]) -> str:
    custom_id = data.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise _WrongError(
            "missing_custom_id", "custom_id must be a text, and each line needs one of its own."
        )
    if len(custom_id) > _ID_MAX:
        raise _WrongError(
            "invalid_custom_id", f"custom_id may have {_ID_MAX} characters, not {len(custom_id)}."
        )
    return custom_id


def _sent(data: dict[str, Any], spec: Spec) -> tuple[str, dict[str, Any]]:
    """Url and body of a good line."""
    method, url, body = data.get("method", "POST"), data.get("url"), data.get("body")
    if method != "POST":
        raise _WrongError("invalid_method", f"method must be POST, not {str(method)[:40]}.")
    allowed = URLS if spec.endpoint is None else (spec.endpoint,)
    if url not in allowed:
        raise _WrongError("invalid_url", f"url must be {' or '.join(allowed)}, not {str(url)[:80]}.")
    if not isinstance(body, dict):
        raise _WrongError("invalid_body", "body must be a JSON object.")
    if body.get("stream"):
        raise _WrongError("invalid_body", "body.stream is not possible in a batch.")
    model = body.get("model")
    if model is None and spec.served is None and len(spec.models) != 1:
        raise _WrongError("missing_model", "body.model is missing.")
    if model is not None and not isinstance(model, str):
        raise _WrongError("invalid_model", "body.model must be a text.")
    if model is not None and spec.models and model not in spec.models:
        named = " or ".join(name[:80] for name in spec.models[:3])
        raise _WrongError("model_mismatch", f"body.model must be {named}, not {model[:80]}.")
    sent = spec.served or model or spec.models[0]
    return str(url), body if sent == model else {**body, "model": sent}

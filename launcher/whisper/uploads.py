"""The body of an audio request on its way in: fields into memory, a few kilobytes each; the file onto the disk.

Owns the bounds of what a client may send. The file has no name: it lies in the scratch folder without an entry there,
so that nothing can be left behind, whatever happens to the request, the server or the node.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import parse_qsl

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from launcher.whisper.refusal import Refusal

_STEP_BYTES = 256 * 1024
_FIELD_BYTES = 64 * 1024  # Whisper looks at the last 224 tokens of a prompt
_FIELDS_BYTES = 256 * 1024
_MOST_PARTS = 100
_MULTIPART, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"

Part = Field | File | Data
BeforeFile = Callable[[dict[str, list[str]]], None]


class Body(Protocol):
    """What a WSGI server gives to read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end, or when the client is gone."""


@dataclass(frozen=True, slots=True)
class Head:
    """What was said of the body before it came; `length` is None where the client does not tell."""

    content_type: str
    length: int | None


@dataclass(slots=True)
class Received:
    """Fields by name, in the order they came, and the file, where one was sent."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file: BinaryIO | None = None

    def close(self) -> None:
        """Give the file's space back."""
        if self.file is not None:
            self.file.close()


@dataclass(frozen=True, slots=True)
class Uploads:
    """Where uploads go and how large one may be."""

    scratch: Path
    max_bytes: int

    @contextmanager
    def received(self, body: Body, head: Head, before_file: BeforeFile) -> Iterator[Received]:
        """The whole body; its file is gone afterwards. Raises Refusal.

        `before_file` is called with the fields so far when the file begins, which may be gigabytes: what it refuses
        need not be sent.
        """
        kind, options = parse_options_header(head.content_type)
        got = Received()
        try:
            if kind == _MULTIPART and options.get("boundary"):
                self._check_length(head.length)
                self._read_parts(body, options["boundary"], head.length, got, before_file)
            elif kind == _URLENCODED:
                _read_pairs(body, got)
            else:
                raise _malformed(f"Send the request as {_MULTIPART}, with the audio in the field file.")
            yield got
        finally:
            got.close()

    def _check_length(self, length: int | None) -> None:
        if length is None:
            return
        if length > self.max_bytes + _FIELDS_BYTES:
            raise self._too_large()
        place = os.statvfs(self.scratch)
        if length > place.f_bavail * place.f_frsize:
            raise _disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _read_parts(
        self, body: Body, boundary: str, length: int | None, got: Received, before_file: BeforeFile
    ) -> None:
        parts = _parts(body, boundary, length)
        for part in parts:
            if isinstance(part, Field):
                got.fields.setdefault(part.name or "", []).append(_value(part, parts))
            elif isinstance(part, File) and part.name == "file":
                if got.file is not None:
                    raise Refusal(
                        400, "There are two files. Send one a request.", "too_many_files", param="file"
                    )
                before_file(got.fields)
                got.file = _nameless_file(self.scratch)
                self._store(got.file, parts)
            # Data that nobody took belongs to a file with a name that nobody knows: it goes nowhere.

    def _store(self, file: BinaryIO, parts: Iterator[Part]) -> None:
        size = 0
        for data in _data(parts):
            size += len(data)
            if size > self.max_bytes:
                raise self._too_large()
            rest = memoryview(data)
            try:
                while rest:  # a write to a nearly full disk takes what fits
                    rest = rest[file.write(rest) :]
            except OSError as error:
                raise _disk_full(error) from error
        file.seek(0)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            f"The file is larger than the {self.max_bytes / 1e9:g} GB that may be uploaded. Send compressed audio"
            " (flac, mp3, opus), or have the session read the file from the cluster.",
            "file_too_large",
            param="file",
        )


def _parts(body: Body, boundary: str, length: int | None) -> Iterator[Part]:
    """The heads of the form's parts, each followed by its data."""
    try:
        mark = b"--" + boundary.encode("ascii")
        decoder = MultipartDecoder(mark[2:], 2 * _STEP_BYTES, max_parts=_MOST_PARTS)
        tail = b""
        while True:
            data = _read(body, _STEP_BYTES if length is None else min(_STEP_BYTES, length))
            tail = (tail + data)[-len(mark) - 3 :]
            # A piece must not end right behind a mark: werkzeug (issue 3285, open) would add a byte to the file.
            while mark in tail and (more := _read(body, 1)):
                data += more
                tail = (tail + more)[-len(mark) - 3 :]
            length = None if length is None else length - len(data)
            decoder.receive_data(data or None)
            while not isinstance(event := decoder.next_event(), NeedData):
                if isinstance(event, Epilogue):
                    return
                if isinstance(event, Field | File | Data):
                    yield event
    except RequestEntityTooLarge:
        raise _too_long("The form has too many parts, or one with too long a head.", None) from None
    except (ValueError, AttributeError):
        # AttributeError: werkzeug takes a line break after a part's head for granted.
        raise _malformed("The form ends in the middle or is not well-formed. Send it again.") from None


def _data(parts: Iterator[Part]) -> Iterator[bytes]:
    """The data of the part whose head came last."""
    for event in parts:
        assert isinstance(event, Data), "werkzeug ends a part's data before the next head"
        yield event.data
        if not event.more_data:
            return


def _value(part: Field, parts: Iterator[Part]) -> str:
    value = bytearray()
    for data in _data(parts):
        value += data
        if len(value) > _FIELD_BYTES:
            limit = f"{_FIELD_BYTES // 1024} KiB"
            raise _too_long(
                f"A field is longer than {limit}. Of a prompt, Whisper reads the last 224 tokens.", part.name
            )
    return _text(part.name or "", bytes(value))


def _read_pairs(body: Body, got: Received) -> None:
    data = bytearray()
    while piece := _read(body, _STEP_BYTES):
        data += piece
        if len(data) > _FIELDS_BYTES:
            raise _too_long(
                f"The form is longer than {_FIELDS_BYTES // 1024} KiB. Send files as {_MULTIPART}.", None
            )
    try:
        # Latin-1 both ways leaves every byte as it is: what they mean is for `_text` to say.
        text = data.decode("latin-1")
        pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1", max_num_fields=_MOST_PARTS)
    except ValueError:
        raise _too_long("The form has too many fields.", None) from None
    for name, value in pairs:
        got.fields.setdefault(name, []).append(_text(name, value.encode("latin-1")))


def _text(name: str, value: bytes) -> str:
    # The name of a file on the cluster may be any bytes; what the model reads may not.
    return value.decode("utf-8", "surrogateescape" if name == "path" else "replace")


def _read(body: Body, size: int) -> bytes:
    try:
        return body.read(size)
    except OSError:  # the client left or is silent; gunicorn's own errors about chunks are OSErrors too
        raise _malformed("The upload stopped before its end. Send it again.") from None


def _nameless_file(scratch: Path) -> BinaryIO:
    try:
        return tempfile.TemporaryFile(dir=scratch, buffering=0)
    except OSError as error:
        raise _disk_full(error) from error


def _disk_full(error: OSError) -> Refusal:
    return Refusal(
        507,
        f"The session's node could not store the file: {error.strerror}. Try again later, send compressed"
        " audio, or have the session read the file from the cluster.",
        "storage_full",
        param="file",
    )


def _too_long(message: str, param: str | None) -> Refusal:
    return Refusal(413, message, "request_too_large", param=param)


def _malformed(message: str) -> Refusal:
    return Refusal(400, message, "malformed_form")

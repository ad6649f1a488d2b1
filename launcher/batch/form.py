"""An upload on its way in: the parts of a multipart/form-data body (RFC 7578), as the pieces come.

Owns the grammar and its bounds; what the parts mean and where they go is for who asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message

_HEAD_BYTES = 8192
_PARTS = 64
_LINE_BYTES = 256  # what may stand behind a boundary: white space
_BOUNDARY = re.compile(r"[ -~]{1,70}")
_KIND = "multipart/form-data"


class FormError(ValueError):
    """The body is not a form; the text is for the client."""


@dataclass(frozen=True, slots=True)
class Part:
    """The head of a part: the field's name, and the file's where it is a file."""

    name: str
    filename: str | None


def boundary(content_type: str) -> bytes:
    """The boundary that a Content-Type names; raises FormError when it is no form's."""
    head = Message()
    head["content-type"] = content_type
    named = head.get_param("boundary")
    if head.get_content_type() != _KIND or not isinstance(named, str) or not _BOUNDARY.fullmatch(named):
        raise FormError(f"Send the file as {_KIND}.")
    return named.encode("ascii")


class Form:
    """Reads the parts; `feed` gives what a piece of the body brought: a Part, and then its bytes."""

    def __init__(self, mark: bytes) -> None:
        self._mark = b"\r\n--" + mark
        self._rest = b"\r\n"  # so that the first boundary is one like the others
        self._state: Callable[[], Part | bytes | None] = self._preamble
        self._count = 0
        self.complete = False

    @property
    def held_bytes(self) -> int:
        """How much of what was fed it has not looked at, or not given yet."""
        return len(self._rest)

    @property
    def in_part(self) -> bool:
        """Whether the bytes that come next are of the last Part."""
        return self._state == self._body

    def feed(self, data: bytes) -> Iterator[Part | bytes]:
        """What `data` brought; raises FormError."""
        self._rest += data
        while True:
            before = self._state, len(self._rest)
            found = self._state()
            if found is not None:
                yield found
            elif before == (self._state, len(self._rest)):
                return

    def _preamble(self) -> None:
        at = self._rest.find(self._mark)
        if at < 0:
            self._rest = self._rest[-len(self._mark) :]
        else:
            self._rest = self._rest[at + len(self._mark) :]
            self._state = self._after_mark

    def _after_mark(self) -> None:
        if self._rest.startswith(b"--"):
            self._rest, self._state = b"", self._epilogue
            return
        at = self._rest.find(b"\r\n")
        if at < 0 and len(self._rest) < _LINE_BYTES:
            return
        if at < 0 or self._rest[:at].strip(b" \t"):
            raise FormError("The form's boundary also stands in a part.")
        self._rest, self._state = self._rest[at:], self._head

    def _epilogue(self) -> None:
        self.complete, self._rest = True, b""

    def _head(self) -> Part | None:
        at = self._rest.find(b"\r\n\r\n")
        if at < 0:
            if len(self._rest) > _HEAD_BYTES:
                raise FormError("The head of a part of the form is too long.")
            return None
        self._count += 1
        if at > _HEAD_BYTES or self._count > _PARTS:
            raise FormError("The form has too many parts, or one with too long a head.")
        part = _part(self._rest[:at])
        self._rest, self._state = self._rest[at + 4 :], self._body
        return part

    def _body(self) -> bytes | None:
        at = self._rest.find(self._mark)
        if at >= 0:
            data, self._rest = self._rest[:at], self._rest[at + len(self._mark) :]
            self._state = self._after_mark
            return data or None
        keep = len(self._mark) - 1  # the beginning of a boundary may be at the end
        if len(self._rest) <= keep:
            return None
        data, self._rest = self._rest[:-keep], self._rest[-keep:]
        return data


def _part(head: bytes) -> Part:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            said = Message()
            said["content-disposition"] = value.decode("utf-8", "replace").strip()
            field = said.get_param("name", header="content-disposition")
            if isinstance(field, str) and said.get_content_disposition() == "form-data":
                return Part(field, said.get_filename())
    raise FormError("A part of the form has no name.")

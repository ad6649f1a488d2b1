"""What a body says of where it should go: the `model` of JSON, and the `model` field of a form with a recording.

Pure: bytes in, bytes out. A body is changed only where it must be (another name for the model, a stream's usage), and
what is not understood goes on as it is.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

_BOUNDARY = re.compile(r'multipart/form-data\s*;.*?\bboundary="?([!-~]{1,70}?)"?\s*(?:;|$)', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*(?:;|\r?$)', re.I | re.M)
_PART_HEAD_BYTES, _NAME_BYTES = 16384, 1024
_PARTS_MAX, _VALUES_MAX = 1000, 2**20


class Question:
    """A JSON body, parsed; raises ValueError with a sentence for one that no engine would read.

    `streams` says that its path answers with a stream of events if it is asked to; `usage_wanted` whether the client
    gets the stream's usage, which is always asked for. The body itself is not kept: it may be long.
    """

    __slots__ = ("_end", "_options", "model", "usage_wanted")

    def __init__(self, body: bytes, *, streams: bool) -> None:
        # Parsed, the least values take a hundred times the memory that they take here, and everybody waits meanwhile.
        if len(body) > _VALUES_MAX and sum(map(body.count, (b",", b"[", b"{"))) > _VALUES_MAX:
            raise ValueError(f"The body has more than {_VALUES_MAX} values.")
        try:
            asked: Any = json.loads(body.decode())
        except (ValueError, RecursionError):
            raise ValueError("The body is not JSON in UTF-8.") from None
        model = asked.get("model") if isinstance(asked, dict) else None
        if not isinstance(model, str) or not model:
            raise ValueError('The body must be a JSON object with a "model".')
        self._end = body.rindex(b"}")
        self.model: str = model
        self._options: dict[str, Any] | None = None
        self.usage_wanted = True
        if streams and asked.get("stream"):  # vLLM takes 1 and "yes" for true
            options = asked.get("stream_options") or {}
            if isinstance(options, dict):  # else the engine will say what is wrong with it
                self.usage_wanted = bool(options.get("include_usage"))
                self._options = None if self.usage_wanted else {**options, "include_usage": True}

    def written(self, body: bytes, served: str) -> bytes:
        """The body for a replica that knows the model as `served`, from the one that came or was written before.

        New words are put last, where JSON's readers let them win; the client's own bytes stay.
        """
        more = []
        if served and served != self.model:
            more.append(f'"model":{_quoted(served)}')
        if self._options is not None:
            more.append(f'"stream_options":{json.dumps(self._options)}')
        if not more and body.startswith(b"}", self._end):
            return body
        return body[: self._end] + "".join(f",{one}" for one in more).encode() + b"}"


_quoted = functools.lru_cache(maxsize=1024)(json.dumps)


def boundary(content_type: str) -> bytes | None:
    """What stands between the parts of a form; None: the body is no such form."""
    found = _BOUNDARY.match(content_type)
    return found[1].encode("ascii") if found else None


class ModelField:
    """Finds the `model` in a form that comes in pieces, wherever it stands; holds a part's head at most.

    `value` is the first one found, which stands from `start` to `end` in the body; `failed` says that there will be
    none, because the body is no form of this boundary, has too many parts, or its field is too long.
    """

    def __init__(self, between: bytes) -> None:
        self._mark = b"\r\n--" + between
        self._held = b"\r\n"  # before the first boundary there may be none
        self._at = -2  # where in the body what is held begins
        self._next = 0  # so much of it has been looked at
        self._step = self._steps()
        self.value: str | None = None
        self.start = self.end = 0
        self.failed = False
        next(self._step)

    def feed(self, piece: bytes) -> bool:
        """Take the next piece; True once it is known whether there is such a field."""
        if self.value is None and not self.failed:
            self._held = self._held[self._next :] + piece
            self._at += self._next
            self._next = 0
            if next(self._step, None) is None and self.value is None:
                self.failed = True
        return self.value is not None or self.failed

    def _steps(self) -> Iterator[bool]:
        """Go on as far as what came allows, and yield for more; ends when it is decided."""
        yield True
        for _ in range(_PARTS_MAX):
            while (found := self._held.find(self._mark, self._next)) < 0:
                self._next = max(self._next, len(self._held) - len(self._mark))
                yield True
            self._next = found + len(self._mark)
            while (found := self._found(b"\r\n\r\n", 0, _PART_HEAD_BYTES)) < 0:
                if self._held.startswith(b"--", self._next) or self._left > _PART_HEAD_BYTES:
                    return
                yield True
            is_model = _NAME.search(self._held, self._next, found) is not None
            self._next = found + 2  # an empty part's end begins with the same line's end
            if is_model:
                while (found := self._found(self._mark, 2, _NAME_BYTES)) < 0:
                    if self._left > _NAME_BYTES + len(self._mark):
                        return
                    yield True
                self.start, self.end = self._at + self._next + 2, self._at + found
                self.value = self._held[self._next + 2 : found].decode("utf-8", "replace")
                return

    @property
    def _left(self) -> int:
        return len(self._held) - self._next

    def _found(self, what: bytes, after: int, within: int) -> int:
        begin = self._next + after
        return self._held.find(what, begin, begin + within + len(what))

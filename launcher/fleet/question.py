"""What a body says of where it should go: the `model` of JSON, and the `model` field of a form with a recording.

Pure: bytes in, bytes out. A body is changed only where it must be (another name for the model, a stream's usage), and
what is not understood goes on as it is.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from launcher.batch.form import Form, FormError, Part, boundary

_NAME_BYTES, _VALUES_MAX = 1024, 2**20


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
                sure = options.get("include_usage") is True  # engines read "no" and "off" as false
                self._options = None if sure else {**options, "include_usage": True}

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


class ModelField:
    """Finds the `model` in a form that comes in pieces, wherever it stands.

    `value` is the first one found, which stands from `start` to `end` in the body. What is no form raises FormError.
    """

    def __init__(self, content_type: str) -> None:
        self._form = Form(boundary(content_type))
        self._fed_bytes = 0
        self._found: bytes | None = None
        self.value: str | None = None
        self.start = self.end = 0

    def feed(self, piece: bytes) -> bool:
        """Take the next piece; True once the field is known."""
        self._fed_bytes += len(piece)
        for what in self._form.feed(piece):
            if isinstance(what, bytes) and self._found is not None:
                self._found += what
                if len(self._found) > _NAME_BYTES:
                    raise FormError('The field "model" of the form is too long.')
                if not self._form.in_part:
                    return self._know(self._found)
            elif self._found is not None:
                return self._know(self._found)
            elif isinstance(what, Part) and what.name == "model":
                self._found, self.start = b"", self._fed_bytes - self._form.held_bytes
        return self._found is not None and not self._form.in_part and self._know(self._found)

    def _know(self, found: bytes) -> bool:
        self.value, self.end = found.decode("utf-8", "replace"), self.start + len(found)
        return True

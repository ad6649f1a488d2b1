"""What the gateway reads in an answer that passes: its token counts, how it ended, and where an event ends.

Never more than a few kilobytes are held, and nothing is kept when the answer is over.
"""

from __future__ import annotations

import json
import re
from typing import Any

from launcher.gateway.answers import broken_stream_event

_TAIL_BYTES = 8192
_LONGEST_EVENT = 65536
# JSON's numbers may be larger than any sum could take, or than a division.
_TOKENS_MAX, _SECONDS_MAX = 1 << 40, 1e9
# `"usage"` with bare quotes cannot occur inside a JSON text, where quotes are escaped. One level of nesting: details.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_NO_CHOICES = re.compile(rb'(?<!\\)"choices"\s*:\s*\[\s*\]')
_ENDS = (b"\n\n", b"\r\n\r\n")
_EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n)|.+\Z", re.DOTALL)
_DONE = (b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n")


class Tail:
    """The last few kilobytes of an answer and the counts seen before: enough to read them, too few to store it."""

    __slots__ = ("_bytes", "_read", "_seen")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen = 0, 0, 0.0
        self._read: tuple[int, int, float] | None = None  # what `_counts` said, until more comes

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the answer."""
        self._bytes += chunk
        self._read = None
        if len(self._bytes) > 2 * _TAIL_BYTES:
            self._seen = self._counts()  # vLLM can put lists of tokens behind its usage
            del self._bytes[:-_TAIL_BYTES]

    def ends_with(self, *ends: bytes) -> bool:
        """Whether the answer so far ends with one of `ends`."""
        return self._bytes.endswith(ends)

    def __bool__(self) -> bool:
        return bool(self._bytes)

    def tokens(self) -> tuple[int, int]:
        """The prompt and completion tokens that the engine's last `usage` names; 0 where it names none."""
        return self._counts()[:2]

    @property
    def audio_s(self) -> float:
        """The seconds of audio that it names."""
        return self._counts()[2]

    def _counts(self) -> tuple[int, int, float]:
        if self._read is None:
            self._read = self._found()
        return self._read

    def _found(self) -> tuple[int, int, float]:
        last = self._bytes.rfind(b'"usage"')
        while last >= 0:
            if found := _USAGE.match(self._bytes, last):
                return _counts(found.group(1))
            last = self._bytes.rfind(b'"usage"', 0, last)  # `"usage":null`: look at the event before
        return self._seen


class Events:
    """An event stream on its way to the client.

    Every stream is asked for its usage (`asking_for_usage`); a client that did not ask itself does not get the event
    that brings it, whose list of choices is empty. The rest goes on byte for byte.
    """

    __slots__ = ("_held", "_tail", "_usage_wanted", "count")

    def __init__(self, tail: Tail, *, usage_wanted: bool) -> None:
        self._tail = tail
        self._usage_wanted = usage_wanted
        self.count = 0
        self._held = b""  # the beginning of an event

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; what of it may go on now. Half an event waits: no client does anything with it."""
        self.count += data.count(b"\n\n")
        if self._held:
            data, self._held = self._held + data, b""
        if not data.endswith(_ENDS):
            cut = max((data.rfind(end) + len(end) for end in _ENDS if end in data), default=0)
            if len(data) - cut <= _LONGEST_EVENT:
                data, self._held = data[:cut], data[cut:]
        self._tail.feed(data)
        if not self._usage_wanted and b'"usage"' in data and _NO_CHOICES.search(data):
            data = b"".join(event for event in _EVENT.findall(data) if not _is_usage(event))
        return data

    def rest(self) -> bytes:
        """What was held back when the stream ends by itself in the middle of an event."""
        held, self._held = self._held, b""
        self._tail.feed(held)
        return held

    @property
    def between_events(self) -> bool:
        """Whether a comment of ours would stand between two events."""
        return not self._held and not self.torn

    @property
    def torn(self) -> bool:
        """Whether half an event went on, because it was too long to wait for."""
        return bool(self._tail) and not self._tail.ends_with(*_ENDS)

    @property
    def died(self) -> bool:
        """Whether another gateway before this one has ended it with the event that says so."""
        return self._tail.ends_with(broken_stream_event())

    @property
    def done(self) -> bool:
        """Whether the stream has said that it is over."""
        return self._tail.ends_with(*_DONE)


def asking_for_usage(body: bytes) -> tuple[bytes, bool]:
    """The body of a chat or completion request, asking for a stream's usage; and whether the client itself did.

    Engines tell a stream's usage only on request. The words are put last, where JSON's readers let them win.
    """
    if b'"stream"' not in body:
        return body, True
    try:
        asked = json.loads(body)
        if not asked.get("stream"):  # vLLM takes 1 and "yes" for true
            return body, True
        options = asked.get("stream_options") or {}
        wanted = bool(options.get("include_usage"))
        sure = options.get("include_usage") is True  # engines read "no" and "off" as false
        more = json.dumps({**options, "include_usage": True}).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return body, True  # the engine will say what is wrong with it
    end = body.rindex(b"}")
    return (body, True) if sure else (body[:end] + b',"stream_options":' + more + b"}", wanted)


def _is_usage(event: bytes) -> bool:
    return _NO_CHOICES.search(event) is not None and _USAGE.search(event) is not None


def _counts(usage: bytes) -> tuple[int, int, float]:
    try:
        values = json.loads(usage.decode())
    except ValueError:
        return 0, 0, 0.0
    prompt = values.get("prompt_tokens", values.get("input_tokens"))
    completion = values.get("completion_tokens", values.get("output_tokens"))
    return _count(prompt), _count(completion), _seconds(values.get("seconds"))


def _count(value: Any) -> int:
    return int(value) if type(value) is int and 0 < value < _TOKENS_MAX else 0


def _seconds(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 < value < _SECONDS_MAX else 0.0

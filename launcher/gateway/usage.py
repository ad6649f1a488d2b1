"""What passed through the gateway: requests, errors, tokens and the time of the last activity. Never any text."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field

_TAIL_BYTES = 8192
# `"usage"` with bare quotes cannot occur inside a JSON text, where quotes are escaped. One level of nesting: details.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


@dataclass(slots=True)
class Usage:
    """Counters of a session's engine requests.

    `requests` counts when one begins, `errors` (status 400 or more, or an answer that broke off) and tokens when it
    ends. `in_flight` are running HTTP requests; `websockets` are open ones, which keep a session awake only while
    messages pass. `last_activity` is the time of the last engine request's begin or end.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    websockets: int = 0
    last_activity: float = field(default_factory=time.time)

    def touch(self) -> None:
        """Renew the idle clock."""
        self.last_activity = time.time()

    def begin(self, is_websocket: bool, *, active: bool) -> None:
        """A request starts; `active` when it shows that somebody uses the session."""
        self.requests += 1
        if is_websocket:
            self.websockets += 1
        elif active:
            self.in_flight += 1
        if active:
            self.touch()

    def end(self, is_websocket: bool, *, active: bool, failed: bool, tokens: tuple[int, int]) -> None:
        """The same request ends."""
        if is_websocket:
            self.websockets -= 1
        elif active:
            self.in_flight -= 1
        if active:
            self.touch()
        self.errors += failed
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]

    def as_json(self) -> dict[str, float]:
        """The counters for `GET /status`."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "in_flight": self.in_flight,
            "websockets": self.websockets,
            "last_activity": self.last_activity,
        }


class Tail:
    """The last few kilobytes of an answer: enough to read its token counts and how it ended, too few to store it."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the answer."""
        self._bytes += chunk[-_TAIL_BYTES:]
        if len(self._bytes) > 2 * _TAIL_BYTES:
            del self._bytes[:-_TAIL_BYTES]

    def ends_with(self, end: bytes) -> bool:
        """Whether the answer so far ends with `end`."""
        return self._bytes.endswith(end)

    def tokens(self) -> tuple[int, int]:
        """The prompt and completion tokens that the engine's last `usage` names; 0 where it names none."""
        last = self._bytes.rfind(b'"usage"')
        while last >= 0:
            if found := _USAGE.match(self._bytes, last):
                return _counts(found.group(1))
            last = self._bytes.rfind(b'"usage"', 0, last)  # `"usage":null`: look at the event before
        return 0, 0


def _counts(usage: bytes) -> tuple[int, int]:
    try:
        values = json.loads(usage)
    except ValueError:
        return 0, 0
    prompt = values.get("prompt_tokens", values.get("input_tokens"))
    completion = values.get("completion_tokens", values.get("output_tokens"))
    return _count(prompt), _count(completion)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0

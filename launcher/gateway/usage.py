"""What passed through the gateway, by key: requests, errors, tokens, durations, the last activity. Never any text."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# The API's paths, which become labels of metrics: anything else is `other`, or a client could make labels without end.
ROUTES = frozenset((
    "/classify", "/detokenize", "/generative_scoring", "/invocations", "/load", "/metrics", "/ping", "/pooling",
    "/rerank", "/score", "/tokenize", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/models", "/v1/realtime", "/v1/rerank", "/v1/responses", "/v1/score", "/v2/embed", "/v2/rerank", "/version",
))  # fmt: skip
OTHER = "other"
_AUDIO = frozenset(("/v1/audio/transcriptions", "/v1/audio/translations"))
# What monitoring reads: a scrape every minute must not keep an unused session awake.
_NO_ACTIVITY = frozenset(("/metrics", "/load", "/ping", "/version"))
# Upper bounds in seconds, from the first byte of a small model to a long answer of a big one.
BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
CLIENT_LEFT = 499  # nginx's number for it
BROKEN_OFF = 502


class Histogram:
    """Counts of durations: `counts[i]` are those up to `BOUNDS[i]` and above the bound before, the last the rest."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Counters:
    """What was used, by everybody or with one key.

    `requests` counts when one begins, `errors` (status 400 or more, or an answer that broke off), tokens and seconds of
    audio when it ends. `in_flight` are running HTTP requests; `websockets` are open ones, which keep a session awake
    only while messages pass. `last_activity` is the time of the last engine request's begin or end.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_s: float = 0.0
    in_flight: int = 0
    websockets: int = 0
    last_activity: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        """The counters for `GET /status`."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "audio_s": round(self.audio_s, 2),
            "in_flight": self.in_flight,
            "websockets": self.websockets,
            "last_activity": self.last_activity,
        }


@dataclass(slots=True)
class KeyUsage(Counters):
    """The counters of one key, and what only metrics show of it: by route and status, and how long it took."""

    ended: dict[tuple[str, int], int] = field(default_factory=dict)
    request_s: dict[str, Histogram] = field(default_factory=dict)
    first_byte_s: dict[str, Histogram] = field(default_factory=dict)


@dataclass(slots=True)
class Usage(Counters):
    """The counters of a session and, in `keys`, of each key that was used, by its name."""

    keys: dict[str, KeyUsage] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter

    def touch(self) -> None:
        """Renew the idle clock."""
        self.last_activity = time.time()

    def begin(self, key: str, path: str, *, websocket: bool = False) -> Call:
        """A request with `key` for the engine's `path` (without the query) starts."""
        of_key = self.keys.get(key)
        if of_key is None:
            of_key = self.keys[key] = KeyUsage()
        return Call(self, of_key, path, websocket)

    def refuse(self, key: str, path: str, status: int) -> None:
        """Count a request that the gateway itself refused: an error, and no activity."""
        last = self.last_activity
        self.begin(key, path).end(status, (0, 0))
        self.last_activity = last

    def as_json(self) -> dict[str, Any]:
        """The counters for `GET /status`, those of each key under `keys`."""
        # Counters.as_json by name: a slots dataclass is made anew, and super() without arguments means the first one.
        keys = {name: of_key.as_json() for name, of_key in self.keys.items()}
        return {**Counters.as_json(self), "keys": keys}


class Call:
    """One request on its way; whoever began it must `end` it, and only the first end counts."""

    __slots__ = ("_active", "_begun", "_first_s", "_of_key", "_open", "_route", "_usage", "_websocket")

    def __init__(self, usage: Usage, of_key: KeyUsage, path: str, websocket: bool) -> None:
        self._usage = usage
        self._of_key = of_key
        self._route = path if path in ROUTES else OTHER
        self._active = active = path not in _NO_ACTIVITY
        self._websocket = websocket
        self._open = True
        self._first_s = -1.0
        usage.requests += 1
        of_key.requests += 1
        if websocket:
            usage.websockets += 1
            of_key.websockets += 1
        elif active:
            usage.in_flight += 1
            of_key.in_flight += 1
        if active:
            usage.last_activity = of_key.last_activity = time.time()
        self._begun = usage.clock()

    def first_byte(self) -> None:
        """The first byte of the answer's body has come; later calls are passed over."""
        if self._first_s < 0.0:
            self._first_s = self._usage.clock() - self._begun

    @property
    def route(self) -> str:
        """The path, `other` where it is none of the API's."""
        return self._route

    @property
    def first_s(self) -> float | None:
        """How long the first byte of the answer's body took; None as long as there is none."""
        return self._first_s if self._first_s >= 0.0 else None

    @property
    def audio(self) -> bool:
        """Whether it brings a recording, whose bytes are no text."""
        return self._route in _AUDIO

    def end(
        self, status: int, tokens: tuple[int, int], *, audio_s: float = 0.0, broken: bool = False
    ) -> None:
        """The request has ended with `status`, these prompt and completion tokens and seconds of audio.

        `broken`: the answer broke off. With CLIENT_LEFT as `status` the client went away, which is nobody's error.
        """
        if not self._open:
            return
        self._open = False
        usage, of_key, route = self._usage, self._of_key, self._route
        left = status == CLIENT_LEFT
        answered = status < 400 or left  # a refusal comes at once and says nothing of the model's speed
        if broken and status < 400:
            status = BROKEN_OFF
        if self._websocket:  # it is open as long as a person talks: that is no latency
            usage.websockets -= 1
            of_key.websockets -= 1
        else:
            _histogram(of_key.request_s, route).add(usage.clock() - self._begun)
            if answered and self._first_s >= 0.0:
                _histogram(of_key.first_byte_s, route).add(self._first_s)
            if self._active:
                usage.in_flight -= 1
                of_key.in_flight -= 1
        if self._active:
            usage.last_activity = of_key.last_activity = time.time()
        if status >= 400 and not left:
            usage.errors += 1
            of_key.errors += 1
        prompt, completion = tokens
        usage.prompt_tokens += prompt
        usage.completion_tokens += completion
        of_key.prompt_tokens += prompt
        of_key.completion_tokens += completion
        usage.audio_s += audio_s
        of_key.audio_s += audio_s
        place = (route, status)
        of_key.ended[place] = of_key.ended.get(place, 0) + 1


def _histogram(of: dict[str, Histogram], route: str) -> Histogram:
    found = of.get(route)
    if found is None:
        found = of[route] = Histogram()
    return found

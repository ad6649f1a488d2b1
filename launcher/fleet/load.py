"""What was asked of one model lately: how many requests at once, for how long, and how many still wait.

Owns the memory that `scale.decide` has none of. The clock is the caller's, so that a simulated week runs the same code.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from launcher.fleet.scale import STEADY_S, calm_s
from launcher.fleet.scene import Demand

# A client that was told to come back is expected until then, but within these bounds.
_EXPECTED_MIN_S, _EXPECTED_MAX_S = 5.0, 60.0
_SPAN_S = 1.0


@dataclass(slots=True)
class _Span:
    """The fewest and the most requests at once in a second that begins at `begin`."""

    begin: float
    low: int
    high: int


class Load:
    """The load of one model. A moment before the last one is of a clock that was set back, and takes all with it.

    `idle_s` is the offer's idle limit (0: none): a peak is forgotten before that.
    """

    def __init__(self, idle_s: float = 0.0) -> None:
        self._calm_s = calm_s(idle_s)
        self._in_flight = 0
        self._held = 0
        self._count = 0
        self._last_asked_at = 0.0
        self._watched_from: float | None = None
        self._refused: deque[float] = deque()  # until when each is expected again, in order
        self._spans: deque[_Span] = deque()
        self._latest = 0.0

    def asked(self, now: float) -> None:
        """A request came, whatever becomes of it."""
        self._last_asked_at = max(self._last_asked_at, now)

    def refused(self, now: float, retry_after_s: float) -> None:
        """A request was told to come back after `retry_after_s`: it counts until then, and not twice when it does."""
        self._seen(now)
        until = now + min(max(retry_after_s, _EXPECTED_MIN_S), _EXPECTED_MAX_S)
        place = len(self._refused)
        while place and self._refused[place - 1] > until:
            place -= 1
        self._refused.insert(place, until)
        self._seen(now)

    def changed(self, now: float, *, in_flight: int | None = None, held: int | None = None) -> None:
        """So many requests are at replicas now, or held back until one is ready."""
        self._in_flight = self._in_flight if in_flight is None else in_flight
        self._held = self._held if held is None else held
        self._seen(now)

    def demand(self, now: float) -> Demand:
        """What `scale.decide` is told of it."""
        self._seen(now)
        waiting = self._held + len(self._refused)
        lately = [span.low for span in self._spans if span.begin + _SPAN_S > now - STEADY_S]
        return Demand(
            waiting=waiting,
            in_flight=self._in_flight,
            last_asked_at=max(self._last_asked_at, now if self._count else 0.0),
            steady=min(lately),
            busiest=max(span.high for span in self._spans),
            watched_from=self._watched_from or 0.0,
        )

    def _set_back(self, by_s: float) -> None:
        assert self._watched_from is not None
        self._watched_from -= by_s
        self._last_asked_at -= by_s
        self._refused = deque(until - by_s for until in self._refused)
        for span in self._spans:
            span.begin -= by_s

    def _seen(self, now: float) -> None:
        if self._watched_from is None:
            self._watched_from = now
        elif now < self._latest:
            self._set_back(self._latest - now)
        self._latest = now
        while self._refused and self._refused[0] <= now:
            self._refused.popleft()
        before, self._count = self._count, self._in_flight + self._held + len(self._refused)
        last = self._spans[-1] if self._spans else None
        if last is None or now >= last.begin + _SPAN_S:
            # As it was until now, it was through all the time since the last look.
            if last is not None and last.low == last.high == before:
                last.begin = now  # of many alike the latest is remembered for the longest: it stands for all
            else:
                self._spans.append(last := _Span(now, before, before))
        last.low, last.high = min(last.low, self._count), max(last.high, self._count)
        while len(self._spans) > 1 and self._spans[0].begin + _SPAN_S <= now - max(self._calm_s, STEADY_S):
            self._spans.popleft()

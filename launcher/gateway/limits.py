"""How much one key may use in a minute: requests, and tokens, which are known only when an answer has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

_MINUTE_S = 60.0
_ROUNDING = 1e-6  # waiting exactly as long as it was told must be enough


class Share:
    """Among how many gateways of one endpoint limits are divided: what one lets through the others do not know."""

    __slots__ = ("gateways",)

    def __init__(self) -> None:
        self.gateways = 1


ALONE = Share()


class Budget:
    """Two buckets that hold a minute's worth and fill up evenly; None is no limit. One of several has its `share`.

    Answers that run at the same time may together use more tokens than there are: the bucket is then below zero, and
    the next request waits until it has filled again.
    """

    __slots__ = ("_clock", "_last", "_requests", "_requests_max", "_share", "_tokens", "_tokens_max")

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
        share: Share = ALONE,
    ) -> None:
        self._share = share
        self._requests_max = requests_per_minute
        self._tokens_max = tokens_per_minute
        self._requests = float(requests_per_minute or 0)
        self._tokens = float(tokens_per_minute or 0)
        self._clock = clock
        self._last = clock()

    def admit(self) -> float:
        """0.0: a request may go on and is counted. Else the seconds until it may; nothing is counted then."""
        self._fill()
        wait_s = 0.0
        if self._requests_max is not None:
            wait_s = _missing(self._requests) * _MINUTE_S * self._share.gateways / self._requests_max
        if self._tokens_max is not None:
            wait_s = max(wait_s, _missing(self._tokens) * _MINUTE_S * self._share.gateways / self._tokens_max)
        if not wait_s and self._requests_max is not None:
            self._requests -= 1.0
        return wait_s

    def give_back(self) -> None:
        """A request that was admitted did not go on after all."""
        if self._requests_max is not None:
            self._requests = self._full(self._requests + 1.0, self._requests_max)

    def spend(self, tokens: int) -> None:
        """Take what an answer has used, its prompt included."""
        if self._tokens_max is not None:
            self._fill()
            self._tokens -= tokens

    def _fill(self) -> None:
        now = self._clock()
        minutes = max(0.0, now - self._last) / _MINUTE_S
        self._last = now
        minutes /= self._share.gateways
        if self._requests_max is not None:
            self._requests = self._full(self._requests + minutes * self._requests_max, self._requests_max)
        if self._tokens_max is not None:
            self._tokens = self._full(self._tokens + minutes * self._tokens_max, self._tokens_max)

    def _full(self, level: float, maximum: int) -> float:
        # A bucket in which there is no room for one would never let anything through.
        return min(level, max(1.0, maximum / self._share.gateways))


def _missing(level: float) -> float:
    """How much is missing to one whole request or token."""
    return 0.0 if level >= 1.0 - _ROUNDING else 1.0 - level

"""Where one request goes. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.gateway.answers import Answer
from launcher.gateway.place import Place
from launcher.gateway.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes, what to say when nobody answers there, and who wants to know.

    `again` decides anew about a request of which no byte was answered: its upstream could not be reached, was lost, or
    cannot answer for now. It forwards the request or replies, now or later; None: there is no other upstream. `up` says
    whether the upstream is an engine that was to go on, so that its end now is none that somebody wanted.
    """

    upstreams: Upstreams
    place: Place
    unreachable: Callable[[], Answer]
    engine: bool
    touch: Callable[[], None]
    trouble: Callable[[], None]
    again: Callable[[], None] | None = None
    up: Callable[[], bool] = lambda: False

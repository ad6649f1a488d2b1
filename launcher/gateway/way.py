"""Where one request goes. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.gateway import answers
from launcher.gateway.answers import Answer
from launcher.gateway.place import Place
from launcher.gateway.upstream import Head, Upstreams

# What says that this upstream does not answer for now: it lost its engine, starts or stops, or has another key.
_ELSEWHERE = frozenset((401, 502, 503))


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes, what to say when nobody answers there, and who wants to know.

    `again` decides anew about a request of which no byte was answered: its upstream could not be reached, was lost, or
    cannot answer for now. It forwards the request or replies, now or later; None: there is no other upstream. `up` says
    whether the upstream is an engine that was to go on, so that its end now is none that somebody wanted; `spare` says
    whether `again` knows another upstream, which may have room where this one has none (429).
    """

    upstreams: Upstreams
    place: Place
    unreachable: Callable[[], Answer]
    engine: bool
    touch: Callable[[], None]
    trouble: Callable[[], None]
    again: Callable[[], None] | None = None
    up: Callable[[], bool] = lambda: False
    spare: Callable[[], bool] = lambda: False


def elsewhere(head: Head, data: bytes) -> bool:
    """Whether what an upstream began to say is no answer to the request."""
    return head.status in _ELSEWHERE or (
        head.status == 200 and data.startswith(answers.broken_stream_event())
    )

"""Where one request goes. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.gateway.answers import Answer
from launcher.gateway.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes: the upstream's socket, what to say when it does not answer, and who wants to know."""

    upstreams: Upstreams
    socket: Path
    unreachable: Callable[[], Answer]
    engine: bool
    touch: Callable[[], None]
    trouble: Callable[[], None]

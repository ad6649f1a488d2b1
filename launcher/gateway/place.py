"""Where an upstream listens, and the key that it wants. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A Unix socket, or a host and a port; `key` goes there instead of the client's, which never goes on.

    `proves`: a session's gateway, which must show that it has that key before anything is sent.
    """

    address: Path | tuple[str, int]
    key: str | None = field(default=None, repr=False)
    proves: bool = False

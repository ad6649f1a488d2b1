"""How to reach a ready session: the content of `connection.json`, which exists only while the session answers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from launcher.sessions.paths import write_private

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the gateway of a ready session is, and the key that opens it; never print the whole of it.

    `proves`: it shows that it has the key to whoever asks (launcher.gateway.proof); an older launcher's does not.
    """

    id: str
    host: str
    port: int
    base_url: str
    page_url: str | None  # None without a page
    model: str
    key: str = dataclasses.field(repr=False)
    ends_at: float | None = None
    job_id: str | None = None
    proves: bool = False

    def write(self, path: Path) -> None:
        """Replace `path` (0600) atomically."""
        write_private(path, json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The connection in `path`, or None where there is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in dataclasses.fields(cls)}  # a newer launcher may say more
            said = {name: value for name, value in data.items() if name in known}
            return cls(**said) if data["schema"] == SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

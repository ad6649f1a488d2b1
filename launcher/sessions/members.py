"""Which sessions were launched together as one batch: `members.json`, in the directory of each of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from launcher.sessions.paths import write_private

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Members:
    """The directories of a batch's sessions in their order; `together`: when one ends, all end."""

    roots: tuple[str, ...]
    together: bool = False

    def write(self, path: Path) -> None:
        """Replace `path` atomically."""
        write_private(path, json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The batch in `path`, or None where there is none that can be read."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                return None
            return cls(tuple(map(str, data["roots"])), bool(data["together"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

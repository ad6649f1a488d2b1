"""The broken site files of broken_sites.yml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Five lines that are right; what a case adds to them begins in line 6.
SOUND = "clusters:\n  main: {}\nprofiles:\n  small:\n    cluster: main\n"
FILE = Path(__file__).with_name("broken_sites.yml")


@dataclass(frozen=True)
class Broken:
    """One broken file: its text, the sentence from the line's number on, the advice, and whether a schema sees it."""

    name: str
    text: str
    says: str
    advice: str
    schema: bool

    def __str__(self) -> str:
        return self.name


def broken_sites() -> list[Broken]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [
        Broken(name, case.get("site") or SOUND + case["more"], case["says"], case["advice"], case.get("schema", True))
        for name, case in found.items()
    ]  # fmt: skip

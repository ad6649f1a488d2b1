"""Write docs/parity.md from tests/parity/items.yml and the docstrings of the tests: `scripts/parity.py [--check]`.

A test belongs to the items that the first line of its docstring names: `vec-inf 9: …`, `vec-inf 4, 8: …; della 9: …`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
ITEMS = ROOT / "tests" / "parity" / "items.yml"
NEEDS = {"F": "simulated engine", "C": "real engine on CPU", "S": "real Slurm", "G": "GPU"}

_SYSTEM = r"(?:vec-inf|Blackfish|della|FIRST)"
_NAMED = re.compile(rf"(?:^|; )({_SYSTEM} \d+(?:, (?:{_SYSTEM} )?\d+)*): ")
_HEAD = """\
# What has a test

What users of vec-inf, Blackfish, della-inference and FIRST (ALCF's inference endpoints) can do there, as behaviours of
this launcher, each with the tests that show it. Made by `scripts/parity.py` from `tests/parity/items.yml` and the
docstrings of the tests. How to switch is in [switching.md](switching.md).

*Shown by* is what the item needs at least: the simulated engine, a real engine on CPU, a real Slurm. What would need a
GPU is said in the last column, and is not verified."""


@dataclass(frozen=True, slots=True)
class Item:
    """One behaviour of one system; `missing` says in words what of it is not there or not verified."""

    system: str
    number: int
    needs: tuple[str, ...]
    says: str
    missing: str | None = None

    @property
    def name(self) -> str:
        return f"{self.system} {self.number}"

    @property
    def testable(self) -> bool:
        """Whether anything but a GPU can show it."""
        return self.needs != ("G",)


def items() -> list[Item]:
    """The lists, in their order."""
    found = []
    for system, numbered in yaml.safe_load(ITEMS.read_text(encoding="utf-8")).items():
        for number, item in numbered.items():
            needs = item["needs"] if isinstance(item["needs"], list) else [item["needs"]]
            found.append(Item(system, number, tuple(needs), item["says"], item.get("not")))
    return found


def tests() -> dict[str, list[str]]:
    """For each item that is named, its tests as `tests/unit/test_x.py::test_y`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for name in named(ast.get_docstring(node) or ""):
                    found[name].append(f"{path.relative_to(ROOT)}::{node.name}")
    return dict(found)


def named(docstring: str) -> list[str]:
    """The items that the first line of a docstring names, at its beginning or after a semicolon."""
    found, system = [], ""
    for group in _NAMED.findall(docstring.partition("\n")[0]):
        for word in group.split(", "):
            system = word.rpartition(" ")[0] or system
            found.append(f"{system} {word.rpartition(' ')[2]}")
    return found


def page() -> str:
    """The text of docs/parity.md."""
    shown = tests()
    parts = [_HEAD]
    for system in dict.fromkeys(item.system for item in items()):
        lines = ["| | What | Shown by | Tests | Not there, or not verified |", "|---|---|---|---|---|"]
        for item in (one for one in items() if one.system == system):
            needs = ", ".join(NEEDS[need] for need in item.needs if need != "G") or "–"
            files: dict[str, list[str]] = defaultdict(list)
            for test in shown.get(item.name, []):
                files[test.partition("::")[0]].append(test.partition("::")[2])
            told = "<br>".join(
                f"[{path.removeprefix('tests/')}](../{path}): {_count(names)}"
                for path, names in files.items()
            )
            missing = item.missing or ""
            lines.append(f"| {item.number} | {item.says} | {needs} | {told or '–'} | {missing} |")
        parts.append(f"## {system}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _count(names: list[str]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"{len(names)} tests"


def main() -> int:
    """Write the page when it is old; with --check only say so, and exit 1."""
    asked = argparse.ArgumentParser(description=(inspect.getdoc(sys.modules[__name__]) or "").splitlines()[0])
    asked.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is old")
    check = asked.parse_args().check
    text = page()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is {'old: run scripts/parity.py' if check else 'written'}")
    if check:
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

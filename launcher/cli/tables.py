"""Tables and colours for terminals; plain text everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

RED, GREEN, YELLOW = 31, 32, 33
_LINES = "─│┌┬┐├┼┤└┴┘"
_PLAIN = "-|+++++++++"


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str]) -> str:
    """`rows` under `head`, in a frame; the columns are as wide as their widest text."""
    shown = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(head))]
    across, down, *corners = list(_LINES if _can_draw() else _PLAIN)

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join(across * (width + 2) for width in widths) + right

    def line(row: Sequence[str]) -> str:
        return down + down.join(f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True)) + down

    return "\n".join(
        [rule(*corners[0:3]), line(shown[0]), rule(*corners[3:6]), *map(line, shown[1:]), rule(*corners[6:9])]
    )


def coloured(text: str, colour: int, stream: TextIO) -> str:
    """`text` in one of the terminal's colours, where `stream` is a terminal."""
    return f"\033[{colour}m{text}\033[0m" if stream.isatty() and "NO_COLOR" not in os.environ else text


def one_line(text: str) -> str:
    """`text` without line breaks and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _can_draw() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"

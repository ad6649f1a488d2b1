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
    widths = [max(width(row[i]) for row in shown) for i in range(len(head))]
    across, down, *corners = list(_LINES if _can_draw() else _PLAIN)

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join(across * (wide + 2) for wide in widths) + right

    def line(row: Sequence[str]) -> str:
        return (
            down + down.join(f" {filled(cell, wide)} " for cell, wide in zip(row, widths, strict=True)) + down
        )

    return "\n".join(
        [rule(*corners[0:3]), line(shown[0]), rule(*corners[3:6]), *map(line, shown[1:]), rule(*corners[6:9])]
    )


def coloured(text: str, colour: int, stream: TextIO) -> str:
    """`text` in one of the terminal's colours, where `stream` is a terminal."""
    return f"\033[{colour}m{text}\033[0m" if stream.isatty() and "NO_COLOR" not in os.environ else text


class Redrawn:
    """A text that is written again in its own place on a terminal; elsewhere one comes below the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = 0

    def show(self, text: str) -> None:
        """Write `text` over the one before."""
        lines = text.count("\n") + 1
        if self._lines and self._stream.isatty():
            height = os.get_terminal_size(self._stream.fileno()).lines
            # Up to the first line, or home where it has scrolled away; and away with what was below.
            self._stream.write(f"\033[{self._lines}A\033[J" if self._lines < height else "\033[H\033[2J")
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._lines = lines


def width(text: str) -> int:
    """How many columns of a terminal `text` takes: two for each of East Asia's wide letters, none for a mark above."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def filled(text: str, columns: int) -> str:
    """`text` with spaces after it up to so many columns."""
    return text + " " * (columns - width(text))


def clipped(text: str, columns: int) -> str:
    """`text` in so many columns at the most, its end cut off where it is longer."""
    if width(text) <= columns:
        return text
    end = "…" if _can_draw() else "~"
    text = text[: max(0, columns)]
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + end if columns > 0 else ""


def one_line(text: str) -> str:
    """`text` without line breaks and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _can_draw() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"

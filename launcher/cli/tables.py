"""Tables and colours for terminals; plain text everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

RED, GREEN, YELLOW = 31, 32, 33
_LINES = "─│┌┬┐├┼┤└┴┘"
_PLAIN = "-|+++++++++"
# A column of sentences is made no narrower than this, to fit a table into a terminal.
_NARROWEST = 20


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str], yielding: Sequence[str] = ()) -> str:
    """`rows` under `head`, in a frame; the columns are as wide as their widest text, where the terminal is.

    Where it is too narrow even then, the columns of `yielding` are left out, one after the other.
    """
    every = [[one_line(cell) for cell in row] for row in (head, *rows)]
    room = _columns(sys.stdout)
    shown, widths = _fitted(every, room)
    for name in yielding:
        if _whole(widths) <= room:
            break
        gone = every[0].index(name)
        every = [[*row[:gone], *row[gone + 1 :]] for row in every]
        shown, widths = _fitted(every, room)
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


def _fitted(rows: Sequence[Sequence[str]], room: int) -> tuple[Sequence[Sequence[str]], list[int]]:
    """`rows` with their widest column folded as far as it can be for so many columns, and the width of each."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    if (over := _whole(widths) - room) <= 0:
        return rows, widths
    widest = widths.index(max(widths))
    folded = [_folded(row[widest], max(_NARROWEST, widths[widest] - over)) for row in rows]
    widths[widest] = max(width(part) for cell in folded for part in cell)
    lines = [
        [part if i == widest else "" if line else cell for i, cell in enumerate(row)]
        for row, parts in zip(rows, folded, strict=True)
        for line, part in enumerate(parts)
    ]
    return lines, widths


def _whole(widths: Sequence[int]) -> int:
    """How wide a table with such columns is, with its frame."""
    return sum(widths) + 3 * len(widths) + 1


def _columns(stream: TextIO) -> int:
    """How many columns `stream` has; without a terminal more than any table needs."""
    columns = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    return columns or sys.maxsize


def _folded(text: str, columns: int) -> list[str]:
    """`text` in lines of so many columns, between words; what has no space in it, such as a path, stays whole."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if not lines[-1] or width(longer) <= columns:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


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

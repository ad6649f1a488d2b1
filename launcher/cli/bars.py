"""Bars of what is on its way: on a terminal's standard error, and only there; the lines of recordings are here, too."""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import TextIO

from launcher.cli.tables import YELLOW, coloured, one_line
from launcher.models.disk import size
from launcher.sessions.clock import clock
from launcher.transcripts.report import OnTheWay, Progress, position

_BAR, _NAME = 20, 32
_DRAW_EVERY_S = 0.2


class Bars:
    """Lines that are drawn over what was drawn before, and sentences above them."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._draws = not quiet and self._stream.isatty()
        self._quiet = quiet
        self._open = 0
        self._drawn_at = 0.0
        self._noticed = ""

    def show(self, progress: Progress) -> None:
        """Draw it, when the last time was long enough ago."""
        self.draw(lambda blocks: lines(progress, blocks=blocks))

    def draw(self, made: Callable[[str], Sequence[str]]) -> None:
        """Draw the lines that `made` gives for a full and an empty block, when the last time was long enough ago."""
        now = time.monotonic()
        if self._draws and now - self._drawn_at >= _DRAW_EVERY_S:
            self._drawn_at = now
            self._clear()
            width = shutil.get_terminal_size().columns - 1
            drawn = [cut(line, width) for line in made(self._blocks())]
            print("\n".join(drawn), file=self._stream, flush=True)
            self._open = len(drawn)

    def say(self, sentence: str) -> None:
        """A sentence, above the bars."""
        if not self._quiet:
            self._clear()
            print(
                f"{coloured('launcher:', YELLOW, self._stream)} {one_line(sentence)}",
                file=self._stream,
                flush=True,
            )

    def notice(self, sentence: str) -> None:
        """Something that lasts, where nothing is drawn that shows it: said once, not each time it is looked at."""
        if not self._draws and sentence != self._noticed:
            self._noticed = sentence
            self.say(sentence)

    def end(self) -> None:
        """Take the bars away: the table says the rest."""
        self._clear()
        self._stream.flush()

    def _clear(self) -> None:
        if self._open:
            print(f"\033[{self._open}F\033[J", end="", file=self._stream)
        self._open = 0

    def _blocks(self) -> str:
        return "█░" if (self._stream.encoding or "").lower().replace("-", "") == "utf8" else "#."


def lines(progress: Progress, *, blocks: str = "#.") -> list[str]:
    """The text of the bars."""
    said = [f"{progress.finished} of {progress.recordings} recordings"]
    if progress.done_s:
        said += [f"{clock(progress.done_s)} of audio", f"{progress.speed:.1f}× real time"]
    if progress.left_s is not None:
        said.append(f"{clock(progress.left_s)} left")
    names = [cut(one_line(one.path), _NAME) for one in progress.running]
    wide = max(map(_width, names), default=0)
    shown = [name + " " * (wide - _width(name)) for name in names]
    bars = [f"{name} {_bar(one, blocks)}" for name, one in zip(shown, progress.running, strict=True)]
    return [*bars, ", ".join(said)]


def _bar(one: OnTheWay, blocks: str) -> str:
    if one.sent is not None:
        return f"sending {size(one.sent)} of {size(one.size)}"
    share = min(1.0, one.done_s / one.duration_s) if one.duration_s else 0.0
    full = int(share * _BAR)
    whole = f" of {position(one.duration_s)}" if one.duration_s else ""
    text = f"{blocks[0] * full}{blocks[1] * (_BAR - full)} {position(one.done_s)}{whole}"
    if one.speed:
        text += f", {one.speed:.1f}×"
    return text if one.left_s is None else f"{text}, {clock(one.left_s)} left"


def cut(text: str, width: int) -> str:
    """`text` in so many columns of a terminal: its end is kept, where names of recordings differ."""
    if _width(text) <= width:
        return text
    kept = ""
    for character in reversed(text):
        if _width(character + kept) >= width:
            break
        kept = character + kept
    return f"…{kept}"


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )

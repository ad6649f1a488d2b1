"""How far a long work with many bytes is: bytes, speed, and the time that is left."""

from __future__ import annotations

import sys
import time

from launcher.cli.tables import one_line
from launcher.models.disk import size
from launcher.sessions.clock import clock

_DRAW_EVERY_S = 0.2


class Progress:
    """What is drawn on a terminal's standard error, and only there."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._draws = not quiet and sys.stderr.isatty()
        self._started: tuple[float, int] | None = None
        self._drawn_at = 0.0
        self._done = 0
        self._open = False

    def notice(self, text: str) -> None:
        """A sentence that is said on any standard error."""
        self.end()
        print(f"launcher: {one_line(text)}", file=sys.stderr)

    def line(self, text: str) -> None:
        """What comes next."""
        if self._draws:
            self.end()
            print(text, file=sys.stderr)

    def more(self, count: int) -> None:
        """So many bytes more, of nobody knows how many."""
        self.progress(self._done + count, 0)

    def progress(self, done: int, total: int) -> None:
        """So many of all bytes."""
        now, self._done = time.monotonic(), done
        if self._started is None:
            self._started = (now, done)
        if not self._draws or (now - self._drawn_at < _DRAW_EVERY_S and done != total):
            return
        self._drawn_at, self._open = now, True
        began, at = self._started
        speed = (done - at) / max(now - began, 0.001)
        text = (
            f"{size(done)} of {size(total)}, {size(speed)}/s" if total else f"{size(done)}, {size(speed)}/s"
        )
        if total > done and speed > 0:
            text += f", {clock((total - done) / speed)} left"
        print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line that was drawn."""
        if self._open:
            print(file=sys.stderr)
        self._open = False

"""The full screen of `launcher top`: what is drawn where, and what each key does.

Drawn with the system's curses, so it works in any terminal that it knows, over ssh, without colours and in any
encoding. Nothing here waits: `launcher.api.watch` asks in the background.
"""

from __future__ import annotations

import contextlib
import curses
import io
import locale
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from launcher.api import Launcher
from launcher.api.log import end_of, logs_of
from launcher.api.watch import Glance, Watch
from launcher.cli.columns import HEAD, cells, line, widths
from launcher.cli.metrics import rows
from launcher.cli.tables import clipped, filled, one_line, width
from launcher.sessions.clock import clock
from launcher.sessions.status import FAILED, READY, SHUTDOWN, UNHEALTHY

_PAUSE_MS = 500
_SAID_S = 6.0
_LOG_LINES = 2000  # of the end; more is for `launcher logs` and a pager
_ESC, _ARROW_MS = 27, 25
_ARROWS = {
    ord("A"): curses.KEY_UP,
    ord("B"): curses.KEY_DOWN,
    ord("C"): curses.KEY_RIGHT,
    ord("D"): curses.KEY_LEFT,
    ord("H"): curses.KEY_HOME,
    ord("F"): curses.KEY_END,
}
_BACK = frozenset((ord("q"), _ESC, curses.KEY_LEFT, curses.KEY_BACKSPACE, 127, 8))
_ENTER = frozenset((10, 13, curses.KEY_ENTER, curses.KEY_RIGHT))
# The first stay where the terminal is narrow.
_LIST_KEYS = ("q leave", "Enter details", "s stop", "l logs", "c connect", "up/down choose")


def show(launcher: Launcher) -> int:
    """Fill the terminal until the user leaves; the exit code."""
    with contextlib.suppress(locale.Error):  # one that is not installed: then it is ASCII
        locale.setlocale(locale.LC_ALL, "")
    screen: _Screen | None = None
    watch = Watch(launcher, lambda text: screen.say(text) if screen is not None else None)

    def fill(window: curses.window) -> None:
        nonlocal screen
        screen = _Screen(window, watch)
        watch.start()
        # What the API says on standard error would be written across the picture.
        with contextlib.redirect_stderr(_Said(screen.say)):
            screen.run()

    os.environ.setdefault("ESCDELAY", "25")  # a lone Esc would wait a second for the rest of an arrow
    try:
        curses.wrapper(fill)
    except curses.error as error:
        if screen is not None:
            raise
        print(
            f"launcher: this terminal cannot be filled ({error}). Try: launcher top --once", file=sys.stderr
        )
        return 2
    finally:
        watch.close()
    return 0


class _Said(io.TextIOBase):
    """Standard error, line by line, to the place for messages."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def write(self, text: str) -> int:
        if text.strip():
            self._say(text.strip().removeprefix("launcher: "))
        return len(text)


class _Screen:
    """What is on the window now, and which session is chosen."""

    def __init__(self, window: curses.window, watch: Watch) -> None:
        self._window = window
        self._watch = watch
        self._chosen: str | None = None
        self._first = 0
        self._said = ("", 0.0)
        self._seen: list[Glance] = []
        self._encoding = window.encoding
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        self._colours: dict[str, int] = {}
        if curses.has_colors() and "NO_COLOR" not in os.environ:
            with contextlib.suppress(curses.error):
                curses.use_default_colors()
                for number, (state, colour) in enumerate(
                    (
                        (READY, curses.COLOR_GREEN),
                        (FAILED, curses.COLOR_RED),
                        (UNHEALTHY, curses.COLOR_YELLOW),
                    ),
                    1,
                ):
                    curses.init_pair(number, colour, -1)
                    self._colours[state] = curses.color_pair(number)

    def say(self, text: str) -> None:
        """Show one line for a few seconds; from any thread."""
        self._said = (one_line(text), time.monotonic() + _SAID_S)

    def run(self) -> None:
        """Until the user leaves."""
        keys: dict[int, Callable[[Glance], None]] = {
            ord("l"): self._log,
            ord("s"): self._stop,
            ord("c"): self._connect,
            **dict.fromkeys(_ENTER, self._details),
        }
        while True:
            self._seen = self._watch.seen
            self._list()
            key = self._key()
            if key == ord("q"):
                return
            place = self._place()
            if key in _MOVES:
                self._choose(_MOVES[key](place, self._rows(), len(self._seen)))
            elif key in keys and self._seen:
                keys[key](self._seen[place])

    # -- the list

    def _list(self) -> None:
        seen, place = self._seen, self._place()
        columns = self._window.getmaxyx()[1]
        rows = self._rows()
        self._first = min(max(self._first, place - rows + 1), place, max(0, len(seen) - rows))
        ready = sum(one.status.state == READY for one in seen)
        with self._page(f"launcher top  {len(seen)} sessions, {ready} ready", _LIST_KEYS):
            if not seen:
                known = self._watch.looked_at is not None
                self._put(2, "You have no sessions." if known else "Looking for your sessions ...")
                return
            table = [cells(one) for one in seen]
            wide = widths([HEAD, *table], columns - 2)
            self._put(1, f"  {line(HEAD, wide)}", curses.A_BOLD)
            for at, row in enumerate(table[self._first : self._first + rows], self._first):
                # The mark is for terminals that cannot show a line in reverse.
                text = f"{'>' if at == place else ' '} {line(row, wide)}"
                colour = self._colours.get(seen[at].status.state, 0)
                dim = curses.A_DIM if seen[at].status.state == SHUTDOWN else 0
                look = curses.A_REVERSE if at == place else colour | dim
                self._put(2 + at - self._first, filled(text, columns) if at == place else text, look)

    def _rows(self) -> int:
        return max(1, self._window.getmaxyx()[0] - 3)

    def _place(self) -> int:
        """Where the chosen session is; the list may have changed since it was chosen."""
        for place, one in enumerate(self._seen):
            if one.session.id == self._chosen:
                return place
        self._chosen = self._seen[0].session.id if self._seen else None
        return 0

    def _choose(self, place: int) -> None:
        if self._seen:
            self._chosen = self._seen[min(max(0, place), len(self._seen) - 1)].session.id

    # -- the pages about one session

    def _details(self, seen: Glance) -> None:
        session = seen.session

        def lines(columns: int) -> list[str]:
            now = next((one for one in self._watch.seen if one.session.id == session.id), seen)
            labelled = [(name, value) for name, value in _facts(now) if value]
            edge = max(width(name) for name, _ in labelled) + 2
            return [
                f"{filled(name if part == 0 else '', edge)}{piece}"
                for name, value in labelled
                for part, piece in enumerate(_pieces(one_line(value), max(10, columns - edge)))
            ]

        self._scroll(session.id, lines, {})

    def _log(self, seen: Glance) -> None:
        logs = logs_of(seen.session.paths)
        if not logs:
            self.say(f"{seen.session.id} has no log yet.")
            return
        chosen = 0

        def lines(columns: int) -> list[str]:
            text = end_of(logs[chosen], _LOG_LINES)[0].decode("utf-8", "replace")
            return [piece for line in text.splitlines() for piece in _pieces(_plain(line), columns)]

        def another() -> None:
            nonlocal chosen
            chosen = (chosen + 1) % len(logs)

        keys = {9: another, ord("l"): another}
        self._scroll(
            lambda: f"{logs[chosen].name} of {seen.session.id}: {logs[chosen]}",
            lines,
            keys,
            end=True,
            more="Tab another log",
        )

    def _connect(self, seen: Glance) -> None:
        # Alone on its lines, so that it can be marked and copied whole.
        line = f"launcher connect {seen.session.id}"
        self._scroll("Copy this line into a shell:", lambda columns: ["", *_pieces(line, columns)], {})

    def _stop(self, seen: Glance) -> None:
        if seen.status.ended:
            self.say(f"{seen.session.id} is over already.")
            return
        asked = f"Stop {seen.session.id}? y: yes, any other key: no"
        while True:
            self._list()
            height, columns = self._window.getmaxyx()
            self._put(height - 1, filled(asked, columns), curses.A_BOLD)
            self._window.refresh()
            key = self._key()
            if key not in (-1, curses.KEY_RESIZE):
                break
        if key in (ord("y"), ord("Y")):
            self.say(f"Stopping {seen.session.id} ...")
            self._watch.stop(seen.session)

    def _scroll(
        self,
        title: str | Callable[[], str],
        lines: Callable[[int], list[str]],
        keys: dict[int, Callable[[], None]],
        *,
        end: bool = False,
        more: str = "",
    ) -> None:
        """A page of lines; `end`: it opens at its end, and stays there while lines come."""
        first, at_end = 0, end
        page_keys = [word for word in ("q back", more, "up/down scroll") if word]
        while True:
            height, columns = self._window.getmaxyx()
            rows, all_lines = max(1, height - 3), lines(columns)
            last = max(0, len(all_lines) - rows)
            first = last if at_end else min(first, last)
            with self._page(title if isinstance(title, str) else title(), page_keys):
                for y, text in enumerate(all_lines[first : first + rows], 1):
                    self._put(y, text)
            key = self._key()
            if key in _BACK:
                return
            if key in _MOVES:
                place = first + rows - 1 if key in (curses.KEY_DOWN, ord("j")) else first
                moved = _MOVES[key](place, rows, len(all_lines))
                first = min(max(0, moved - rows + 1 if key in (curses.KEY_DOWN, ord("j")) else moved), last)
                at_end = end and first == last
            elif key in keys:
                keys[key]()

    # -- the window

    @contextlib.contextmanager
    def _page(self, title: str, keys: Sequence[str]) -> Iterator[None]:
        """An empty window with its first and last line; shown at the end of the block."""
        self._fit()
        height, columns = self._window.getmaxyx()
        self._window.erase()
        self._put(0, filled(clipped(one_line(title), columns - 9), columns - 8) + time.strftime("%H:%M:%S"))
        yield
        text, until = self._said
        said = time.monotonic() < until
        if height > 1:
            self._put(
                height - 1,
                text if said else _fitting(keys, columns - 1),
                curses.A_BOLD if said else curses.A_DIM,
            )
        self._window.refresh()

    def _fit(self) -> None:
        """Take the terminal's size, of whose change curses is not always told."""
        with contextlib.suppress(OSError, curses.error):
            size = os.get_terminal_size(1)
            if (size.lines, size.columns) != self._window.getmaxyx():
                curses.resizeterm(size.lines, size.columns)
                self._window.clearok(True)

    def _put(self, y: int, text: str, look: int = 0) -> None:
        height, columns = self._window.getmaxyx()
        if y >= height:
            return
        # curses refuses what the terminal's encoding does not have, and the last cell of the window.
        shown = clipped(text, columns - 1 if y == height - 1 else columns)
        shown = shown.encode(self._encoding, "replace").decode(self._encoding, "replace")
        with contextlib.suppress(curses.error):
            self._window.addstr(y, 0, shown, look)

    def _key(self) -> int:
        self._window.timeout(_PAUSE_MS)
        key = self._window.getch()
        if key == curses.KEY_RESIZE:
            self._window.clearok(True)  # what the terminal did with the old picture nobody knows
        if key != _ESC:
            return key
        # An arrow as this terminal sends it and terminfo does not expect it: Esc [ A, or Esc O A.
        self._window.timeout(_ARROW_MS)
        following = self._window.getch()
        if following not in (ord("["), ord("O")):
            if following != -1:
                curses.ungetch(following)
            return key
        return _ARROWS.get(self._window.getch(), -1)


_MOVES: dict[int, Callable[[int, int, int], int]] = {
    curses.KEY_DOWN: lambda place, rows, count: place + 1,
    ord("j"): lambda place, rows, count: place + 1,
    curses.KEY_UP: lambda place, rows, count: place - 1,
    ord("k"): lambda place, rows, count: place - 1,
    curses.KEY_NPAGE: lambda place, rows, count: place + rows,
    ord(" "): lambda place, rows, count: place + rows,
    curses.KEY_PPAGE: lambda place, rows, count: place - rows,
    curses.KEY_HOME: lambda place, rows, count: 0,
    ord("g"): lambda place, rows, count: 0,
    curses.KEY_END: lambda place, rows, count: count - 1,
    ord("G"): lambda place, rows, count: count - 1,
}


def _facts(seen: Glance) -> list[tuple[str, str]]:
    session, status = seen.session, seen.status
    plan, now = session.plan, time.time()
    connection = session.connection if status.state in (READY, UNHEALTHY) else None
    wanted = plan.resources
    return [
        ("Model", plan.model.id),
        ("State", f"{status.state} {status.phase or status.reason or ''}".strip()),
        ("", status.message),
        ("What to do", status.hint or ""),
        ("Job", status.job_id or ""),
        ("Node", status.host or ""),
        ("Profile", wanted.profile),
        ("Partition", wanted.partition or ""),
        ("GPUs", f"{wanted.nodes} x {wanted.gpus} {wanted.gpu_type or ''}".strip() if wanted.gpus else ""),
        ("Time left", clock(status.ends_at - now) if status.ends_at and not status.ended else ""),
        ("Stops when idle in", clock(status.idle.stops_at - now) if status.idle else ""),
        ("Base URL", connection.base_url if connection else ""),
        ("Page", connection.page_url or "" if connection else ""),
        ("API key", f"in {session.paths.key}" if connection else ""),
        ("Directory", str(session.paths.root)),
        *(rows(seen.metrics) if seen.metrics is not None else ()),
    ]


def _fitting(words: Sequence[str], columns: int) -> str:
    """As many of `words` as there is room for, from the first."""
    while words and width("  ".join(words)) > columns:
        words = words[:-1]
    return "  ".join(words)


def _pieces(text: str, columns: int) -> list[str]:
    """`text` in lines of so many columns."""
    found, line, wide = [], "", 0
    for c in text:
        one = width(c)
        if wide + one > columns:
            found.append(line)
            line, wide = "", 0
        line, wide = line + c, wide + one
    return [*found, line]


def _plain(line: str) -> str:
    """A log's line without colours and whatever else steers a terminal."""
    return one_line(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line.expandtabs()))

"""A terminal for programs that fill one: a real pty, and pyte as the screen behind it.

with Terminal(["launcher", "top"], columns=80, lines=24) as terminal:
    terminal.wait_for("READY")
    terminal.press("j")
    terminal.resize(40, 10)
    assert terminal.ended() == 0
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

from tests.programs.front import wait_until

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"up": "\x1bOA", "down": "\x1bOB", "enter": "\r", "esc": "\x1b", "ctrl-c": "\x03", "tab": "\t"}


class Terminal:
    """`argv` in a terminal of this size; `encoding` is what its screen understands."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        # A letter of several bytes may come in two pieces.
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._lock = threading.Lock()
        self.sent = b""
        self._master, slave = pty.openpty()
        _set_size(slave, columns, lines)
        # Not xterm: pyte does not know its way to write a letter many times (rep), which curses uses.
        environment = {**os.environ, "TERM": "screen-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=environment,
            # A session with this terminal as its own, as a login's shell has: so Ctrl-C and a new size reach it.
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self._listener.join(10)  # until the other side is closed: by then nobody types any more
        os.close(self._master)

    @property
    def rows(self) -> list[str]:
        """What is on the screen, line by line."""
        with self._lock:
            return [row.rstrip() for row in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def colours(self, row: int) -> set[str]:
        """The colours of a row's letters."""
        with self._lock:
            return {str(cell.fg) for cell in self._screen.buffer[row].values()}

    def wait_for(self, text: str, timeout_s: float = 60) -> list[str]:
        """Wait until `text` is somewhere on the screen; the rows."""
        try:
            wait_until(lambda: text in self.text, timeout_s)
        except AssertionError:
            raise AssertionError(f"no {text!r} on the screen:\n{self.text}") from None
        return self.rows

    def wait_without(self, text: str, timeout_s: float = 60) -> list[str]:
        """Wait until `text` has left the screen; the rows."""
        wait_until(lambda: text not in self.text, timeout_s)
        return self.rows

    def press(self, *keys: str) -> None:
        """Type keys by their names, or letters."""
        for key in keys:
            os.write(self._master, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size; the program is told as by a real terminal."""
        with self._lock:
            self._screen.resize(lines, columns)
        _set_size(self._master, columns, lines)

    def ended(self, timeout_s: float = 60) -> int:
        """Wait for the end of the program, and until all that it wrote was read; its exit code."""
        code = self.process.wait(timeout_s)
        self._listener.join(10)
        return code

    def end_by(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.ended()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(self._master, 65536):
                with self._lock:
                    self.sent += piece
                    self._stream.feed(self._decoder.decode(piece))


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def launcher(*arguments: str) -> list[str]:
    """The command line of `launcher ARGUMENTS`."""
    return [sys.executable, "-m", "launcher", *arguments]

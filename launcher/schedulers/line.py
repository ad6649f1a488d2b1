"""A line to another host: a program there that answers each line with a line, and shows that the connection lives."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from launcher.errors import SchedulerError
from launcher.schedulers.ssh import SSH_FAILED, ssh_argv, trouble

_LINE_MAX_BYTES = 1 << 20
_END_S = 3.0


class Line:
    """`command` on the host, which reads lines on its standard input; it ends when that does, or with the connection.

    Whoever makes one opens the shared connection first: here nothing is ever asked.
    """

    def __init__(self, host: str, command: Sequence[str], *, through: str | None = None) -> None:
        self.host = host
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            ssh_argv(host, command, through=through, ask=False),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for whoever holds the line
        )  # fmt: skip
        self._rest = b""

    @property
    def alive(self) -> bool:
        """Whether the program there, and the connection, still stand as far as is known here."""
        return self._process.poll() is None

    def ask(self, text: str, timeout_s: float, fits: Callable[[str], bool]) -> str:
        """Send the line `text` and return the first that comes back and `fits`.

        Others are passed over: a shell's start-up file may print something. Raises SchedulerError when none comes in
        time.
        """
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(f"{text}\n".encode())
            pipe.flush()
        except OSError:
            raise self._lost() from None
        ends_at = time.monotonic() + timeout_s
        while not fits(line := self._line(ends_at)):
            pass
        return line

    def abort(self) -> None:
        """End it at once, so that who waits for an answer gets none; `close` is still to be called."""
        self._process.kill()

    def close(self) -> None:
        """End the program there, and the ssh here; can be called twice."""
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None
        assert answers is not None
        with contextlib.suppress(OSError):
            pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        answers.close()
        self._errors.close()

    def _line(self, ends_at: float) -> str:
        pipe = self._process.stdout
        assert pipe is not None
        with selectors.DefaultSelector() as pipes:
            pipes.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left_s = ends_at - time.monotonic()
                if left_s <= 0 or not pipes.select(left_s):
                    raise SchedulerError(f"{self.host} does not answer.", "The network may be interrupted.")
                piece = os.read(pipe.fileno(), 1 << 16)
                if not piece or len(self._rest) > _LINE_MAX_BYTES:
                    raise self._lost()
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _lost(self) -> SchedulerError:
        """Why it ended: ssh's own trouble, or the program's last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._errors.seek(0)
        said = self._errors.read(_LINE_MAX_BYTES).decode("utf-8", "replace").strip()
        code = self._process.returncode
        if code in (None, SSH_FAILED) or code < 0:
            if not said:
                return SchedulerError(f"The ssh connection to {self.host} was lost.")
            return trouble(self.host, said)
        last = said.splitlines()[-1][:300] if said else f"exit code {code}"
        return SchedulerError(f"The program on {self.host} ended: {last.removesuffix('.')}.")

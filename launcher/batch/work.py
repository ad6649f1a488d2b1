"""A batch run that is being carried: locked, checked, resumed and sent; how that ended.

Owns the order of things and what counts as done; the way of one request is `launcher.batch.window`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from launcher.batch.input import DONE, REPORTED, TODO, Fault, Input
from launcher.batch.journal import Journal, lock
from launcher.batch.lines import line_of, line_of_fault
from launcher.batch.losses import Losses
from launcher.batch.pace import Pace
from launcher.batch.report import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FINALIZING,
    PENDING,
    STOPPED,
    VALIDATING,
    Show,
    Status,
)
from launcher.batch.run import Run
from launcher.batch.watch import Watch
from launcher.batch.window import Answer, BrokenError, DeniedError, Window, usage
from launcher.errors import LauncherError, RequestError, StorageError
from launcher.sessions.paths import write_private


class Work:
    """A run that is being carried: locked, checked, and what is left of it known. A context manager.

    Raises RequestError for an input that cannot be read or has changed, SessionError while another process is at it,
    StorageError where output or folder cannot be written.
    """

    def __init__(self, run: Run, *, fresh: bool = True) -> None:
        self.run = run
        self.spec = run.spec
        output = Path(self.spec.output)
        with contextlib.ExitStack() as held:
            try:
                self._lock = os.open(run.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise self._unwritable(error) from error
            held.callback(os.close, self._lock)
            lock(self._lock, output)
            self._output = Journal(output)
            held.callback(self._output.close, keep_empty=False)
            self._errors = Journal(Path(self.spec.errors))
            held.callback(self._errors.close, keep_empty=False)
            if fresh:
                run.cancel_path.unlink(missing_ok=True)
            self.pace = Pace(Status.read(run.status_path))
            self._input = Input(Path(self.spec.input), self.spec)
            held.pop_all()  # from here on `close` does it
        try:
            self.keep(VALIDATING)
            self._read()
            self.keep(VALIDATING)
        except BaseException as error:
            self._stopped(error)
            self.close()
            raise

    @property
    def left(self) -> int:
        """How many lines are neither answered nor reported."""
        return self._input.left

    @property
    def faults(self) -> int:
        """How many lines are wrong in themselves."""
        return self._input.faults

    def keep(self, state: str, message: str = "", code: str = "") -> Status:
        """Write down how it stands, and return it."""
        status = self.pace.status(state, message, code)
        self._state = state
        try:
            status.write(self.run.status_path)
        except OSError as error:
            raise self._unwritable(error) from error
        return status

    def settled(self) -> Status | None:
        """How it has ended where nothing is to be sent; None where something is."""
        if self.spec.strict and self.faults:
            lines = "a line is" if self.faults == 1 else f"{self.faults} lines are"
            return self.keep(
                FAILED, f"Nothing was sent: {lines} wrong, see {self.spec.errors}.", "invalid_lines"
            )
        return None if self.left else self.keep(COMPLETED)

    async def send(
        self,
        base_url: str,
        key: str | None,
        progress: Show | None = None,
        *,
        stop: asyncio.Event | None = None,
        drain_s: float = 10.0,
        gone: Callable[[], str | None] | None = None,
        ends_at: Callable[[], float | None] | None = None,
        tell: Callable[[Answer], None] | None = None,
    ) -> Status:
        """Send what is left to `base_url` and return how that ended: completed, cancelled, or stopped with a message.

        `stop` set: no more is taken, and what is in flight has `drain_s` seconds. `gone` says, when nothing is answered
        for a while, why nothing will be (None: wait on); it may block. `ends_at` gives the Unix time when the session
        ends. `tell` gets each answer once it is kept. Raises StorageError when one cannot be kept.
        """
        if (over := self.settled()) is not None:
            return over
        stop = stop or asyncio.Event()
        window = Window(
            base_url, key, size=min(self.spec.window, max(1, self.left)), retries=self.spec.retries, stop=stop,
            losses=Losses(self.run.folder / "losses"),
        )  # fmt: skip

        def take(answer: Answer) -> None:
            self._take(answer)
            if tell is not None:
                tell(answer)

        watch = Watch(self, window, stop, drain_s, gone, ends_at, progress)
        self.pace.begin()
        sending = asyncio.create_task(window.run(self._input.requests(), take))
        try:
            await watch.until_done(sending)
            return self._ended(watch, sending)
        except BaseException as error:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._stopped(error)
            raise

    def give_up(self, code: str, message: str) -> int:
        """Write an error for every line that is not done, as OpenAI does for a batch that expires; how many."""
        requests = self._input.requests()
        count = 0
        for request in requests:
            self._errors.add(line_of_fault(Fault(request.number + 1, request.custom_id, code, message)))
            self._input.settle(request.number)
            self.pace.failed += 1
            count += 1
        self.sync()
        return count

    def sync(self) -> None:
        """Put all answers onto the disk."""
        self._output.sync()
        self._errors.sync()

    def close(self) -> None:
        """Let go of the files."""
        if self._state == VALIDATING:  # looked at, and not sent
            with contextlib.suppress(LauncherError):
                self.keep(STOPPED if self.pace.answered else PENDING)
        self._input.close()
        self._errors.close(keep_empty=False)
        self._output.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        self._same_source()
        reported = bytearray()  # by line; no more of them than the input has bytes are believed
        most = Path(self.spec.input).stat().st_size + 1
        for entry in self._errors.entries():
            line = entry.get("line")
            if not self.spec.changing and isinstance(line, int) and 0 < line <= most:
                reported.extend(bytes(max(0, line + 1 - len(reported))))
                reported[line] = 1

        def fault(found: Fault) -> None:
            if not (found.line < len(reported) and reported[found.line]):
                self._errors.add(line_of_fault(found))

        self._input.check(fault)
        self.pace.total = self._input.lines
        self.pace.begin_count(self._input.faults)
        for line in range(1, len(reported)):
            if reported[line] and self._input.state(line - 1) == TODO:
                self._input.settle(line - 1, REPORTED)
                self.pace.failed += 1
        for entry in self._output.entries():
            self._settle(entry)
        self.pace.counted()
        self.sync()

    def _settle(self, entry: dict[str, Any]) -> None:
        custom_id = entry.get("custom_id")
        number = self._input.find(custom_id) if isinstance(custom_id, str) else None
        state = DONE if number is None else self._input.state(number)
        if number is not None and "response" not in entry:  # a file of requests, or of something else
            raise RequestError(
                f'{self.spec.output} holds a line "{str(custom_id)[:80]}" that is no answer.',
                "Move it away, or name another output with -o.",
            )
        if number is not None and state in (TODO, REPORTED):
            if state == REPORTED:  # somebody had it answered after all
                self.pace.failed -= 1
            self._input.settle(number)
            response = entry.get("response")
            self.pace.recount(usage(response.get("body") if isinstance(response, dict) else None))
        elif not self.spec.changing:
            told = f'to "{str(custom_id)[:80]}"'
            what = (
                f"an answer {told}, which {self.spec.input} does not ask"
                if number is None
                else f"two answers {told}"
            )
            raise RequestError(
                f"{self.spec.output} holds {what}.",
                "Take it away there, or name another output with -o.",
            )

    def _same_source(self) -> None:
        path = self.run.source_path
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        stamp = self._input.stamp()
        if isinstance(before, dict) and stamp is not None and before.get("stamp") == stamp:
            return  # a long input is read twice, not three times
        now = {"sha256": self._input.digest(), "stamp": stamp}
        changed = isinstance(before, dict) and before.get("sha256") != now["sha256"]
        if changed and not self.spec.changing:
            if self._output.size or any(entry.get("response") for entry in self._errors.entries()):
                raise RequestError(
                    f"{self.spec.input} has changed since the run began.",
                    "Put it back, or begin another run with another -o.",
                )
            self._errors.empty()  # what was wrong with lines that were mended since
        if before == now:
            return
        try:
            write_private(path, json.dumps(now) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _take(self, answer: Answer) -> None:
        (self._output if answer.good else self._errors).add(line_of(answer))
        self._input.settle(answer.request.number)
        self.pace.count(answer)

    def _ended(self, watch: Watch, sending: asyncio.Task[None]) -> Status:
        self.pace.end()
        error = None if sending.cancelled() else sending.exception()
        if error is not None and not isinstance(error, DeniedError | BrokenError):
            raise error
        self.keep(FINALIZING)
        self.sync()
        if not self.left:
            return self.keep(COMPLETED)
        if watch.cancelled:
            return self.keep(CANCELLED)
        if isinstance(error, BrokenError):
            return self.keep(STOPPED, str(error), "engine-lost")
        if error is not None:
            return self.keep(STOPPED, f"The key was refused: {error}", "denied")
        return self.keep(STOPPED, watch.why, watch.code)

    def _stopped(self, error: BaseException) -> None:
        self.pace.end()
        message = error.message if isinstance(error, LauncherError) else ""
        with contextlib.suppress(LauncherError):  # it may be why this ends
            self.sync()
        with contextlib.suppress(LauncherError):
            self.keep(STOPPED, message, error.kind if isinstance(error, LauncherError) else "interrupted")

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.run.folder} cannot be written: {error.strerror}.", "Free some space there."
        )

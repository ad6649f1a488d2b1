"""One queue of stretches over all requests: fair, bounded, in batches.

Owns which stretches share a batch and whose turn it is; not what is done with a batch. Each request has a line of its
own; a batch takes one stretch from each line in turn, so that a clip never waits for a long file's end.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from launcher.whisper.model import Ask, Heard
from launcher.whisper.refusal import model_broken

Hear = Callable[[Sequence[Ask]], list[Heard]]

_POLL_S = 0.2  # a client that leaves sets an event, and nothing can wait for that and for a stretch at once
_AHEAD = 3  # batches of each request in the queue: one is heard, one is next, one is being cut
_LEAST_RETRY_S, _MOST_RETRY_S = 2, 60
_SMOOTH = 0.1

log = logging.getLogger(__name__)


class Ticket:
    """One stretch in the queue, and what became of it."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.group = ask, ask.group
        self.since = time.monotonic()
        self.heard: Heard | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()

    def answer(self, heard: Heard | None, error: BaseException | None = None) -> None:
        """Let the one who waits go on."""
        self.heard, self.error = heard, error
        self.done.set()


class Line:
    """A request's place in the queue; leaving it drops what still waits there."""

    def __init__(self, queue: Queue, left: threading.Event) -> None:
        self._queue, self.left = queue, left
        self.waiting: deque[Ticket] = deque()

    def put(self, ask: Ask) -> Ticket:
        """Queue one stretch; raises Refusal 503 once the model is broken."""
        ticket = Ticket(ask)
        self._queue.put(self, ticket)
        return ticket

    def wait(self, ticket: Ticket) -> Heard | None:
        """What was heard; None once the client has left; raises what the model raised."""
        while not ticket.done.wait(_POLL_S):
            if self.left.is_set():
                return None
        if ticket.error is not None:
            raise ticket.error
        return ticket.heard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.leave(self)


class Queue:
    """The queue and the threads that empty it: `parallel` batches at once of up to `batch_size`.

    A batch begins when it is full, or when its first stretch has waited for `linger_s` and a thread is free.
    `broken` says why no further batch can be heard, once that is so.
    """

    def __init__(self, hear: Hear, *, batch_size: int, parallel: int, linger_s: float = 0.0) -> None:
        self._hear, self._linger_s = hear, linger_s
        self.batch_size, self.parallel = batch_size, parallel
        self.broken: str | None = None
        self._lines: deque[Line] = deque()  # whose turn is next stands first
        self._changed = threading.Condition()
        self._idle = 0
        self._each_s = 0.0  # of a stretch, lately
        for number in range(parallel):
            threading.Thread(target=self._run, name=f"batches-{number}", daemon=True).start()

    def line(self, left: threading.Event) -> Line:
        """A line for one request; `left` is set when its client leaves."""
        with self._changed:
            self._lines.append(line := Line(self, left))
        return line

    @property
    def waiting(self) -> int:
        """How many stretches wait for a batch."""
        with self._changed:
            return sum(len(line.waiting) for line in self._lines)

    @property
    def retry_after_s(self) -> int:
        """When what waits now will be heard; longer files will have more by then, others will be through."""
        seconds = math.ceil(self._each_s * self.waiting / self.parallel)
        return min(max(seconds, _LEAST_RETRY_S), _MOST_RETRY_S)

    @property
    def room(self) -> int:
        """How many stretches a request may have in hand: enough to keep the model busy, few in memory."""
        return max(2, _AHEAD * self.batch_size * self.parallel // max(1, len(self._lines)))

    def put(self, line: Line, ticket: Ticket) -> None:
        """Append to a line; raises Refusal 503 once the model is broken."""
        with self._changed:
            if self.broken is not None:
                raise model_broken(self.broken)
            line.waiting.append(ticket)
            self._changed.notify()

    def leave(self, line: Line) -> None:
        """Drop a line."""
        with self._changed:
            line.waiting.clear()
            self._lines.remove(line)

    def _run(self) -> None:
        while self.broken is None:
            batch = self._next()
            started = time.monotonic()
            try:
                self._answer(batch)
            except Exception as error:  # a slip of ours would leave everybody waiting for ever
                self._break(f"{type(error).__name__}: {error}", batch)
                raise
            each_s = (time.monotonic() - started) / len(batch)
            self._each_s += (each_s - self._each_s) * (_SMOOTH if self._each_s else 1.0)

    def _answer(self, batch: Sequence[Ticket]) -> None:
        """Hear a batch; where that fails, its parts, so that what cannot be heard fails alone."""
        try:
            heard = self._hear([ticket.ask for ticket in batch])
        except Exception as error:
            why = str(error)
            if _is_out_of_memory(why) and len(batch) > 1:
                half = math.ceil(len(batch) / 2)
                self.batch_size = min(self.batch_size, half)
                log.warning("Out of GPU memory: batches are of %d stretches from now on", self.batch_size)
                self._answer(batch[:half])
                self._answer(batch[half:])
            elif _is_out_of_memory(why) or "CUDA" not in why:
                for ticket in batch if len(batch) > 1 else ():
                    self._answer([ticket])
                if len(batch) == 1:
                    log.error("A stretch of audio cannot be heard: %s", why)
                    batch[0].answer(None, error)
            else:  # after an error of CUDA other than for memory, the process can use the GPU no more
                self._break(why, batch)
        else:
            for ticket, found in zip(batch, heard, strict=True):
                ticket.answer(found)

    def _break(self, why: str, batch: Sequence[Ticket]) -> None:
        log.error("The model is broken: %s", why)
        with self._changed:
            self.broken = why
            for ticket in [*batch, *(ticket for line in self._lines for ticket in line.waiting)]:
                ticket.answer(None, model_broken(why))
            for line in self._lines:
                line.waiting.clear()

    def _next(self) -> list[Ticket]:
        """The next batch; waits for one."""
        with self._changed:
            self._idle += 1
            try:
                while not (batch := self._taken()):
                    self._changed.wait(self._wait_s())
                return batch
            finally:
                self._idle -= 1

    def _wait_s(self) -> float | None:
        first = self._first()
        return None if first is None else max(0.001, first.since + self._linger_s - time.monotonic())

    def _first(self) -> Ticket | None:
        """The stretch whose turn it is."""
        for line in self._lines:
            if line.left.is_set():
                line.waiting.clear()
        return next((line.waiting[0] for line in self._lines if line.waiting), None)

    def _taken(self) -> list[Ticket]:
        """A batch, taken out of the lines in turn; none, where there is nothing or it is worth a moment's waiting."""
        if (first := self._first()) is None:
            return []
        same = sum(ticket.group == first.group for line in self._lines for ticket in line.waiting)
        if same < self.batch_size and time.monotonic() < first.since + self._linger_s:
            return []
        count = min(self.batch_size, math.ceil(same / self._idle))  # the rest is for who else is free
        batch: list[Ticket] = []
        while len(batch) < count:
            before = len(batch)
            for line in list(self._lines):
                if len(batch) < count and line.waiting and line.waiting[0].group == first.group:
                    batch.append(line.waiting.popleft())
                    self._lines.remove(line)
                    self._lines.append(line)
            if len(batch) == before:  # the others stand behind one of another group
                break
        return batch


def _is_out_of_memory(why: str) -> bool:
    return "out of memory" in why.lower()

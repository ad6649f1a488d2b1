"""One queue of stretches over all requests: fair, bounded, in batches.

Owns which stretches share a batch and whose turn it is; not what is done with a batch. Each request has a line of its
own; batches are filled one stretch from each line in turn, so that a clip never waits for a long file's end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from launcher.whisper.model import Ask, Heard
from launcher.whisper.refusal import Refusal

_POLL_S = 0.25  # a client that leaves sets an event, on which nothing else can be waited for at once


class Ticket:
    """One stretch in the queue."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.group = ask, ask.group
        self.heard: Heard | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()


class Line:
    """A request's place in the queue; leaving it drops what still waits there."""

    def __init__(self, queue: Queue, left: threading.Event) -> None:
        self._queue, self.left = queue, left
        self.waiting: deque[Ticket] = deque()

    def put(self, ask: Ask) -> Ticket:
        """Queue one stretch."""
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

    A batch is begun when it is full or its first stretch has waited for `linger_s`.
    """

    def __init__(
        self,
        hear: Callable[[Sequence[Ask]], list[Heard]],
        *,
        batch_size: int,
        parallel: int,
        max_requests: int,
        linger_s: float = 0.0,
    ) -> None:
        self._hear, self._linger_s = hear, linger_s
        self.batch_size, self.parallel, self._max_requests = batch_size, parallel, max_requests
        self._lines: deque[Line] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        for number in range(parallel):
            threading.Thread(target=self._run, name=f"batches-{number}", daemon=True).start()

    def line(self, left: threading.Event) -> Line:
        """A place for one request; raises Refusal 429 when all are taken."""
        with self._changed:
            if len(self._lines) >= self._max_requests:
                raise Refusal(
                    429,
                    f"The session transcribes {len(self._lines)} files already. Try again later.",
                    "too_many_requests",
                    retry_after_s=5,
                )
            line = Line(self, left)
            self._lines.append(line)
        return line

    @property
    def waiting(self) -> int:
        """How many stretches wait for a batch."""
        with self._changed:
            return sum(len(line.waiting) for line in self._lines)

    @property
    def room(self) -> int:
        """How many stretches each request may have in the queue: enough to keep the model busy, few in memory."""
        return max(2, 3 * self.batch_size * self.parallel // max(1, len(self._lines)))

    def put(self, line: Line, ticket: Ticket) -> None:
        with self._changed:
            line.waiting.append(ticket)
            self._changed.notify()

    def leave(self, line: Line) -> None:
        with self._changed:
            line.waiting.clear()
            self._lines.remove(line)

    def _run(self) -> None:
        while True:
            batch = self._batch()
            try:
                heard = self._hear([ticket.ask for ticket in batch])
                for ticket, found in zip(batch, heard, strict=True):
                    ticket.heard = found
            except Exception as error:
                for ticket in batch:
                    ticket.error = error
            for ticket in batch:
                ticket.done.set()

    def _batch(self) -> list[Ticket]:
        """The next batch; waits for one."""
        with self._changed:
            self._idle += 1
            while not (batch := self._taken()):
                self._changed.wait()
            self._idle -= 1
            return batch

    def _taken(self) -> list[Ticket]:
        first = next((line for line in self._lines if line.waiting), None)
        if first is None:
            return []
        group = first.waiting[0].group
        same = sum(ticket.group == group for line in self._lines for ticket in line.waiting)
        count = min(self.batch_size, -(-same // self._idle))
        batch: list[Ticket] = []
        while len(batch) < count:
            before = len(batch)
            for line in list(self._lines):
                if len(batch) < count and line.waiting and line.waiting[0].group == group:
                    batch.append(line.waiting.popleft())
                    self._lines.remove(line)
                    self._lines.append(line)
            if len(batch) == before:
                break
        return batch

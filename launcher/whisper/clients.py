"""Who waits for an answer: sees at once when a client leaves, or when all must be told that the server ends.

One thread watches all connections; a request that only computes would notice nothing before it writes.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from launcher.whisper.refusal import Refusal


class Clients:
    """The connections of running requests; `ending` once the server was told to stop."""

    def __init__(self) -> None:
        self.ending = False
        self._left: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        self._poll = select.epoll()
        threading.Thread(target=self._watch, name="clients", daemon=True).start()

    @contextmanager
    def watched(self, connection: socket.socket) -> Iterator[threading.Event]:
        """An event that is set when the client of `connection` leaves, or `end` is called.

        Unix sockets only: there, a client that closes is told from one that merely has no more to send.
        """
        left, number = threading.Event(), connection.fileno()
        with self._lock:
            self._left[number] = left
            self._poll.register(number, 0)  # hang-ups and errors are reported unasked
            if self.ending:
                left.set()
        try:
            yield left
        finally:
            with self._lock:
                del self._left[number]
                with suppress(FileNotFoundError):
                    self._poll.unregister(number)

    def end(self) -> None:
        """Have all running requests, and those that still come, stop."""
        self.ending = True
        # No lock: called by a signal, perhaps while this very thread holds it.
        for left in list(self._left.values()):
            left.set()

    def gone(self) -> Refusal:
        """Why work was stopped: what the client is told, where it is still there."""
        if self.ending:
            return Refusal(
                503, "The session is ending. Go on with another one.", "session_ending", retry_after_s=5
            )
        return Refusal(499, "The client left.", "client_left")

    def _watch(self) -> None:
        while True:
            for number, _ in self._poll.poll():
                with self._lock:
                    # Asked again: the number may belong to the next connection by now.
                    if (left := self._left.get(number)) and _is_gone(number):
                        left.set()
                        with suppress(FileNotFoundError):
                            self._poll.unregister(number)  # else it would be reported without end


def _is_gone(number: int) -> bool:
    now = select.poll()
    now.register(number, 0)
    return bool(now.poll(0))

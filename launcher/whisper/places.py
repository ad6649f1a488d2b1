"""How many audio requests are taken at once; the next is told to come again, before its upload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.whisper.refusal import Refusal


class Places:
    """`most` places, `taken` of them; the last quarter is for the session's own key, whatever other keys take."""

    def __init__(self, most: int, retry_after_s: Callable[[], int]) -> None:
        self.most, self._retry_after_s = most, retry_after_s
        self.taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def one(self, *, own: bool) -> Iterator[None]:
        """Take a place, or raise Refusal 429."""
        most = self.most if own else self.most - self.most // 4
        with self._lock:
            if self.taken >= most:
                seconds = self._retry_after_s()
                raise Refusal(
                    429,
                    f"The session works on {self.taken} requests already. Try again in {seconds} s.",
                    "too_many_requests",
                    retry_after_s=seconds,
                )
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

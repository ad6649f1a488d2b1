"""How many audio requests are taken at once; the next is told to come again, before its upload."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.whisper.refusal import Refusal

_RETRY_AFTER_S = 5


class Places:
    """`most` places, `taken` of them; the last quarter is for the session's own key, whatever other keys take."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def one(self, *, own: bool) -> Iterator[None]:
        """Take a place, or raise Refusal 429."""
        most = self.most if own else self.most - self.most // 4
        with self._lock:
            if self.taken >= most:
                raise Refusal(
                    429,
                    f"The session works on {self.taken} requests already. Try again in {_RETRY_AFTER_S} s.",
                    "too_many_requests",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self.taken += 1
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

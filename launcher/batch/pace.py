"""Counts what is done of a batch run, how fast that goes, and what is left; costs the same however long it runs."""

from __future__ import annotations

import time
from collections import deque

from launcher.batch.report import Status
from launcher.batch.window import Answer

_LATELY_S, _SAMPLE_S = 60.0, 1.0


class Pace:
    """Goes on counting where `before` ended. `gpus`: those of the session; `since`: when it began, where it is paid for
    from its start (monotonic seconds)."""

    def __init__(self, before: Status) -> None:
        self.total = before.total
        self.answered = before.answered
        self.failed = before.failed
        self.in_flight = 0
        self.gpus = 0
        self.since: float | None = None
        self.session = before.session
        self.last = time.monotonic()
        self._before = before
        self._prompt = before.prompt_tokens
        self._completion = before.completion_tokens
        self._began_at = before.began_at or time.time()
        self._seconds = before.seconds
        self._gpu_s = before.gpu_s
        self._sending: float | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def begin_count(self, failed: int) -> None:
        """What is done is counted from the files anew: the last words of a killed runner may be missing."""
        self.failed, self.answered = failed, 0
        self._prompt = self._completion = 0

    def recount(self, tokens: tuple[int, int]) -> None:
        """One more stands in the output, which took `tokens`: prompt and answer."""
        self.answered += 1
        self._prompt += tokens[0]
        self._completion += tokens[1]

    def counted(self) -> None:
        """All that is done is counted; where nothing is and something was, the output is gone: it begins anew."""
        if not self.answered and self._before.answered:
            self._before = Status()
            self._began_at, self._seconds, self._gpu_s = time.time(), 0.0, 0.0

    def pay(self, session: str | None, gpus: int, since: float | None) -> None:
        """The `gpus` of `session` are paid for from the Unix time `since` (None: while requests are sent)."""
        before = self._before
        if since is not None and before.session == session and before.updated_at is not None:
            since = max(since, before.updated_at)  # a runner before this one has paid until then
        self.session, self.gpus = session, gpus
        self.since = None if since is None else time.monotonic() - max(0.0, time.time() - since)

    def begin(self) -> None:
        """Requests are being sent."""
        self._sending = self.last = time.monotonic()
        self._samples.append((self.last, self.answered + self.failed))

    def end(self) -> None:
        """No more are."""
        if self._sending is not None:
            self._seconds, self._gpu_s = self._spent(), self._paid()
            self._sending = self.since = None
        self.in_flight = 0
        self._samples.clear()

    def count(self, answer: Answer) -> None:
        """One more is done."""
        if answer.good:
            self.answered += 1
        else:
            self.failed += 1
        self._prompt += answer.prompt_tokens
        self._completion += answer.completion_tokens
        self.last = time.monotonic()
        if self.last - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((self.last, self.answered + self.failed))
            while self._samples[0][0] < self.last - _LATELY_S:
                self._samples.popleft()

    def status(self, state: str, message: str, code: str) -> Status:
        """All of it now."""
        done = self.answered + self.failed
        rate = 0.0
        if self._samples:
            at, before = self._samples[0]
            rate = (done - before) / max(time.monotonic() - at, 0.1)
        return Status(
            state=state, total=self.total, answered=self.answered, failed=self.failed, in_flight=self.in_flight,
            prompt_tokens=self._prompt, completion_tokens=self._completion, seconds=round(self._spent(), 3),
            gpu_s=round(self._paid(), 1), rate=round(rate, 3),
            left_s=round((self.total - done) / rate, 1) if rate > 0 else None,
            message=message, code=code, session=self.session, began_at=self._began_at, updated_at=time.time(),
        )  # fmt: skip

    def _spent(self) -> float:
        return self._seconds + (time.monotonic() - self._sending if self._sending is not None else 0.0)

    def _paid(self) -> float:
        if self._sending is None:
            return self._gpu_s
        since = self._sending if self.since is None else self.since
        return self._gpu_s + self.gpus * (time.monotonic() - since)

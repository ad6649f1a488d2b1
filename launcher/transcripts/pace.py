"""How fast the work goes, and how much of it is left.

What is left is told by bytes: of a recording that still waits nobody knows the length. Costs the same however many
recordings there are, since it is asked for five times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from launcher.transcripts.report import Progress
from launcher.transcripts.transcript import Transcript


class Pace:
    """Counts what is finished of `transcripts`; used by several threads."""

    def __init__(self, transcripts: Sequence[Transcript]) -> None:
        self._count = len(transcripts)
        self._whole = sum(_bytes(transcript) * (1 - transcript.share_before) for transcript in transcripts)
        self._begun: set[Transcript] = set()
        self._finished = 0
        self._gained_s = 0.0
        self._done = 0.0
        self._lock = threading.Lock()

    def begin(self, transcript: Transcript) -> None:
        """It is on its way, or goes on."""
        with self._lock:
            self._begun.add(transcript)

    def end(self, transcript: Transcript) -> None:
        """It has a result."""
        with self._lock:
            self._begun.discard(transcript)
            self._finished += 1
            self._gained_s += transcript.gained_s
            self._done += _done(transcript)

    def progress(self, active: Sequence[Transcript], working_s: float) -> Progress:
        """How far all are after `working_s` seconds with a session; `active` are those that are shown."""
        with self._lock:
            gained_s = self._gained_s + sum(transcript.gained_s for transcript in self._begun)
            done = self._done + sum(map(_done, self._begun))
            finished = self._finished
        return Progress(
            finished=finished,
            recordings=self._count,
            done_s=gained_s,
            speed=gained_s / working_s if working_s > 0 else 0.0,
            left_s=max(0.0, self._whole - done) / done * working_s if done > 0 else None,
            running=tuple(transcript.on_the_way() for transcript in active),
        )


def _bytes(transcript: Transcript) -> int:
    return max(1, transcript.standing.size)


def _done(transcript: Transcript) -> float:
    return _bytes(transcript) * (transcript.share - transcript.share_before)

"""Marks for a human's eye: where a transcript goes round in circles, and where the model doubts what it heard.

Owns the thresholds. They are Whisper's own for what it throws away and tries again (openai/whisper, transcribe.py:
compression ratio over 2.4, mean log probability under -1), for silence (a probability over 0.6 that nobody speaks) and
for a word that may be made up (under 0.15).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.whisper.segments import REPEATED, UNSURE, Word

_COMPRESSION, _LOGPROB, _SILENCE, _WORD = 2.4, -1.0, 0.6, 0.15
_LINES = 3  # the same line so often in a row
_TIMES, _LONGEST = 5, 12  # the same phrase, up to so many words long, so often in a row


@dataclass(frozen=True, slots=True)
class Lines:
    """How often the last line was said in a row; what the marks of the next one depend on."""

    line: int = 0
    times: int = 0

    def then(self, text: str) -> Lines:
        """After one more line."""
        line = zlib.crc32(_plain(text).encode())
        return Lines(line, self.times + 1 if line == self.line and self.times else 1)


def marks(
    text: str, lines: Lines, avg_logprob: float, compression: float, words: Sequence[Word]
) -> tuple[str, ...]:
    """Why a line should be listened to again; `lines` counts it already."""
    found = []
    if compression > _COMPRESSION or lines.times >= _LINES or _loops(_plain(text).split()):
        found.append(REPEATED)
    if avg_logprob < _LOGPROB or sum(word.probability < _WORD for word in words) * 2 > len(words):
        found.append(UNSURE)
    return tuple(found)


def is_silence(avg_logprob: float, no_speech_prob: float) -> bool:
    """Whether Whisper itself takes this for silence, whatever words it made of it."""
    return no_speech_prob > _SILENCE and avg_logprob < _LOGPROB


def compression_ratio(text: str) -> float:
    """How much smaller zlib makes a text: high where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter.isspace()).strip()


def _loops(words: list[str]) -> bool:
    """Whether a phrase is said `_TIMES` times in a row: equal words at a distance of its length, so long."""
    for length in range(1, min(_LONGEST, len(words) // _TIMES) + 1):
        same = (words[i] == words[i + length] for i in range(len(words) - length))
        if any(equal and len(list(run)) >= length * (_TIMES - 1) for equal, run in itertools.groupby(same)):
            return True
    return False

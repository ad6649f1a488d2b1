"""What comes out of the model: segments of text with times, their words, and marks for a human's eye.

Owns their shape, in memory and as JSON; imports nothing heavy, since the command line and the page read them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

_MOST = 1e12  # no figure is larger
REPEATED, UNSURE = "repeated", "unsure"


@dataclass(frozen=True, slots=True)
class Word:
    """One word with the white space before it; times in seconds of the whole audio, probability 0 to 1."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One line of a transcript; `start` and `end` in seconds of the whole audio, in steps of 10 ms.

    The three figures are Whisper's own (openai/whisper, transcribe.py). `words` is None where they were not asked for.
    `marks` are reasons to listen again: `repeated` (it goes round in circles), `unsure` (the model doubts it).
    """

    start: float
    end: float
    text: str
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] | None = None
    marks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What a JSON file of it holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The segment of `to_dict`; raises TypeError or KeyError for anything else."""
        words = data.get("words")
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known |= {"tokens": tuple(data.get("tokens", ())), "marks": tuple(data.get("marks", ()))}
        made = cls(**known | {"words": None if words is None else tuple(Word(**word) for word in words)})
        spoken = made.words or ()
        believe(
            (made.start, made.end, *(time for word in spoken for time in (word.start, word.end))),
            (made.text, *made.marks, *(word.word for word in spoken)),
        )
        return made


def believe(numbers: Iterable[object], texts: Iterable[object]) -> None:
    """Raise TypeError unless these are numbers and texts: anybody may have written the file that they come from."""
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not -_MOST < number < _MOST:
            raise TypeError("a number is missing")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is missing")

"""Where a transcript was left, as a text that a client keeps and sends back.

Owns its form and its checks: it comes from outside, and holds only with the settings that it was made with.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Self

from launcher.whisper.refusal import Refusal
from launcher.whisper.wanted import Cutting

_FORM = re.compile(
    r"1\.(\d{1,12})\.(\d{1,6})\.([a-z]{2,3})?\.(\d\.\d{4})?\.(\d{1,10})\.(\d{1,6})\.([0-9a-f]{8})", re.A
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The window where cutting goes on (a sample), how many of its stretches are done, and what was learnt so far.

    That is the language, and the last line (its checksum) with how often it came in a row.
    """

    settings: str
    window: int = 0
    index: int = 0
    language: str | None = None
    probability: float | None = None
    line: int = 0
    times: int = 0

    def __str__(self) -> str:
        probability = "" if self.probability is None else f"{self.probability:.4f}"
        learnt = f"{self.language or ''}.{probability}.{self.line}.{self.times}"
        return f"1.{self.window}.{self.index}.{learnt}.{self.settings}"

    @classmethod
    def read(cls, text: str | None, cutting: Cutting) -> Self:
        """The cursor that was written as `text`, or the beginning; raises Refusal for one of other settings."""
        settings = f"{zlib.crc32(repr(cutting).encode()):08x}"
        if text is None:
            return cls(settings)
        if (match := _FORM.fullmatch(text)) is None:
            raise _refused("This is no place to go on from.")
        window, index, language, probability, line, times, made_with = match.groups()
        if made_with != settings:
            raise _refused("This place to go on from belongs to audio that was cut with other settings.")
        return cls(
            settings=settings,
            window=int(window),
            index=int(index),
            language=language,
            probability=None if probability is None else float(probability),
            line=int(line),
            times=int(times),
        )


def _refused(message: str) -> Refusal:
    return Refusal(400, f"{message} Begin anew.", "invalid_cursor", param="resume_from")

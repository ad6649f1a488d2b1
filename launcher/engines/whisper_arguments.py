"""Which arguments a user may add to the Whisper server, and what its Python must have.

Light, since planning asks it for every form. The program is `launcher.whisper`, which an engine may not import: a test
compares its parser with the table here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import RequestError, did_you_mean

# What it must have of others; the launcher's extra `whisper` brings the same.
PACKAGES = ("faster_whisper", "flask", "gunicorn")


@dataclass(frozen=True, slots=True)
class Option:
    """What may follow an option: one of `words`, or a number from `least` to `most` (whole where `whole`)."""

    words: tuple[str, ...] = ()
    least: float = 0.0
    most: float = math.inf
    whole: bool = True

    def trouble(self, value: str) -> str | None:
        """What `value` must be, where it is not that."""
        if self.words:
            return None if value in self.words else f"must be one of {', '.join(self.words)}"
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) or (self.whole and "." in value):
            return "must be a whole number" if self.whole else "must be a number"
        if not self.least <= float(value) <= self.most:
            return f"must be from {self.least:g} to {self.most:g}"
        return None


COMPUTE_TYPES = (
    *("default", "auto", "float32", "float16", "bfloat16", "int16"),
    *("int8", "int8_float32", "int8_float16", "int8_bfloat16"),
)
# What a user may say; the rest of the program's options are the launcher's own.
OPTIONS: Mapping[str, Option] = {
    "--device": Option(words=("auto", "cpu", "cuda")),
    "--compute-type": Option(words=COMPUTE_TYPES),
    "--batch-size": Option(most=256),
    "--threads": Option(most=256),
    "--parallel": Option(most=256),
    "--beam-size": Option(least=1, most=20),
    "--stretch-s": Option(least=2, most=30, whole=False),
    "--max-requests": Option(least=1, most=4096),
}
OWN = (
    "--uds",
    "--model",
    "--served-name",
    "--cache",
    "--scratch",
    "--folder",
    "--max-hours",
    "--max-upload-gb",
)


def check_args(args: tuple[str, ...], *, allow_remote_code: bool) -> None:
    """Raise RequestError for an argument that is the launcher's own, unknown, or without a value that can be."""
    words = list(args)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word in OWN:
            raise RequestError(f"Engine argument {word} is the launcher's own.", "Leave it out.")
        option = OPTIONS.get(word)
        if option is None:
            known = did_you_mean(word, OPTIONS) or f"Known: {', '.join(OPTIONS)}."
            raise RequestError(f'The engine whisper has no argument "{word[:60]}".', known)
        if not equals:
            if not words:
                raise RequestError(f"Engine argument {word} has no value.", f"Write {word}=VALUE.")
            value = words.pop(0)
        if (trouble := option.trouble(value)) is not None:
            raise RequestError(
                f'Engine argument {word} {trouble}, not "{value[:60]}".', "Correct it, or leave it out."
            )

"""The first request to a speech model: one second of sound, made here."""

from __future__ import annotations

import array
import functools
import io
import math
import sys
import wave
from collections.abc import Mapping

from launcher.engines import Probe

_RATE_HZ = 16_000
_TONE_HZ = 440.0
_LOUD = 8_000  # of 32 767


def audio_probe(model: str, more: Mapping[str, str] | None = None) -> Probe:
    """The request that every server with OpenAI's audio routes answers, with `more` fields of the form.

    The transcript of a tone may be empty, but how long it was is told.
    """
    fields = {"model": model, "response_format": "json", **(more or {})}
    return Probe("/v1/audio/transcriptions", fields, "usage", sound=one_second())


@functools.cache
def one_second() -> bytes:
    """A wav file of one second: a tone, 16 kHz, mono, 16 bits."""
    turn = 2 * math.pi * _TONE_HZ / _RATE_HZ
    samples = array.array("h", (round(_LOUD * math.sin(turn * place)) for place in range(_RATE_HZ)))
    if sys.byteorder == "big":
        samples.byteswap()
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE_HZ)
        file.writeframes(samples.tobytes())
    return made.getvalue()

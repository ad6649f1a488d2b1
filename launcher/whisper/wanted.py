"""What a request wants of its audio: how it is cut, and how the model is asked."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the model is asked; requests with equal ones share a batch.

    `language` is a code such as `en`, or None before it was detected. `beam_size` 0 is the server's own.
    """

    task: str = "transcribe"
    language: str | None = None
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    beam_size: int = 0
    timestamps: bool = True
    words: bool = False


@dataclass(frozen=True, slots=True)
class Cutting:
    """How audio is cut into stretches of at most `stretch_s` seconds (0: the server's own): at silences, or blindly.

    The rest are faster-whisper's VadOptions (Silero), in their units.
    """

    at_silence: bool = True
    stretch_s: float = 0.0
    threshold: float = 0.5
    min_speech_ms: int = 0
    min_silence_ms: int = 160
    speech_pad_ms: int = 400


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request: its decoding, its cutting, and where to go on (`after`, a cursor of an earlier run)."""

    decoding: Decoding = field(default_factory=Decoding)
    cutting: Cutting = field(default_factory=Cutting)
    after: str | None = None

"""Spoken test audio, made by espeak-ng: 16 kHz, mono, 16 bits.

Owns how tests get audio to transcribe: one utterance, a file of words with pauses (of any length, quickly), and any
other format through ffmpeg. The same arguments give the same bytes. The shipped `tiny-whisper` understands the words
in `scripts/tiny_whisper.yml`. Tests that use this start with `needs_speech()`.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import needs

RATE_HZ = 16_000
_QUIET = 400  # of 32767: what counts as silence before and after a word


def needs_speech() -> None:
    """Skip the test unless espeak-ng, sox and ffmpeg are there."""
    for program in ("espeak-ng", "sox", "ffmpeg"):
        needs(program, program)


def say(
    text: str, path: Path, *, voice: str = "en", speed: int = 150, pitch: int = 50, silence_s: float = 0.3
) -> Path:
    """Write `text`, spoken, to the wav file `path`, with `silence_s` of silence before and after; return `path`.

    `speed` is in words per minute, `pitch` between 0 and 99, `voice` one of `espeak-ng --voices`, with a variant
    (`en-us+f3`) if wanted; `de` speaks German.
    """
    still = bytes(_samples(silence_s) * 2)
    return _write(path, [still, spoken(text, voice, speed, pitch), still])


def speech(
    words: Sequence[str],
    path: Path,
    *,
    gap_s: float = 1.0,
    repeat: int = 1,
    voices: Sequence[str] = ("en",),
    speed: int = 150,
) -> Path:
    """Write `words`, `repeat` times over, to the wav file `path`, each followed by `gap_s` of silence; return `path`.

    Each word is spoken once per voice and reused, so an hour takes about a second; `voices` take turns.
    """
    gap = bytes(_samples(gap_s) * 2)
    turns = itertools.cycle(voices)
    pieces = [gap]
    for _ in range(repeat):
        for word in words:
            pieces += [spoken(word, next(turns), speed), gap]
    return _write(path, pieces)


def silence(path: Path, seconds: float) -> Path:
    """Write `seconds` of digital silence to the wav file `path`; return `path`."""
    return _write(path, [bytes(_samples(seconds) * 2)])


def duration_s(path: Path) -> float:
    """How long the wav file `path` is."""
    with wave.open(str(path), "rb") as file:
        return file.getnframes() / file.getframerate()


def convert(source: Path, path: Path, *ffmpeg_args: str) -> Path:
    """Write `source` in the format that the name of `path` tells, through ffmpeg; return `path`.

    `ffmpeg_args` go before the output: `"-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le"`.
    """
    command = ["ffmpeg", "-nostdin", "-y", "-loglevel", "error", "-i", f"file:{source}", *ffmpeg_args]
    subprocess.run([*command, f"file:{path}"], check=True)
    return path


@functools.cache
def spoken(text: str, voice: str = "en", speed: int = 150, pitch: int = 50) -> bytes:
    """The samples (16 kHz, mono, signed 16 bits) of spoken `text` without the silence around it."""
    said = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    piped = ("-t", "wav")
    # sox would add noise of its own (dither) and so other bytes each time: -D.
    resampled = subprocess.run(
        ["sox", "-D", *piped, "--ignore-length", "-", *piped, "-r", str(RATE_HZ), "-b", "16", "-c", "1", "-"],
        input=said.stdout,
        capture_output=True,
        check=True,
    )
    return _trimmed(_samples_of(resampled.stdout))


def _samples_of(wav: bytes) -> bytes:
    # The length in the header of a piped wav is not to be trusted: what follows "data" and its size is the sound.
    start = wav.index(b"data") + 8
    end = len(wav) - (len(wav) - start) % 2
    return wav[start:end]


def _trimmed(samples: bytes) -> bytes:
    with memoryview(samples).cast("h") as values:  # Debian's machines and ours are little-endian, as wav is
        loud = [i for i, value in enumerate(values) if abs(value) > _QUIET]
    if not loud:
        raise ValueError("espeak-ng said nothing audible")
    return samples[2 * loud[0] : 2 * loud[-1] + 2]


def _samples(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def _write(path: Path, pieces: Sequence[bytes]) -> Path:
    with path.open("wb") as stream, wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.setnframes(sum(len(piece) for piece in pieces) // 2)
        for piece in pieces:
            file.writeframesraw(piece)
    return path

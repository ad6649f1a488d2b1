"""The transcripts themselves: from the pieces of a journal to files, each of which appears at once and whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.transcripts import ledger
from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Piece, mode_of, open_regular
from launcher.transcripts.recordings import Recording
from launcher.whisper.formats import FORMATS, verbose_json
from launcher.whisper.segments import Segment


def facts(pieces: Sequence[Piece]) -> ledger.Facts:
    """What is known of a finished recording."""
    segments = [segment for piece in pieces for segment in piece.segments]
    return ledger.Facts(
        duration_s=pieces[-1].done_s if pieces else 0.0,
        language=next((piece.language for piece in pieces if piece.language), None),
        words=sum(len(segment.text.split()) for segment in segments),
        marks=tuple(
            ledger.Mark(segment.start, segment.end, segment.marks, segment.text.strip())
            for segment in segments
            if segment.marks
        ),
    )


def rendered(pieces: Sequence[Piece], asked: Asked, formats: Iterable[str]) -> dict[str, bytes]:
    """The transcripts that `pieces` make, by format; the same pieces give the same bytes."""
    segments = [segment for piece in pieces for segment in piece.segments]
    known = facts(pieces)
    texts = {}
    for name in formats:
        if name == "json":
            data = verbose_json(
                segments,
                language="en" if asked.translate else known.language,
                duration_s=known.duration_s,
                task="translate" if asked.translate else "transcribe",
                of_words=asked.words,
            )
            texts[name] = _as_json(data)
        else:
            texts[name] = FORMATS[name](segments)
    return {name: text.encode(errors="replace") for name, text in texts.items()}


def converted(path: Path, formats: Iterable[str]) -> dict[str, bytes] | None:
    """Further formats of the transcript in the .json file `path`; None where it cannot give them."""
    try:
        with open_regular(path) as file:
            data = json.load(file)
        segments = [Segment.from_dict(segment) for segment in data["segments"]]
        return {name: FORMATS[name](segments).encode(errors="replace") for name in formats}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write(recording: Recording, texts: Mapping[str, bytes]) -> dict[str, ledger.Output]:
    """Put the transcripts of `recording` into its folder, each in one step; raises OSError, and leaves no part then."""
    written = {}
    for ending, text in texts.items():
        path = recording.output(ending)
        try:
            # What a kill has left of an earlier attempt is ours to take away: the journal is locked.
            recording.part.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(recording.part, flags, mode_of(recording.source)), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(recording.part, path)
        except OSError:
            with contextlib.suppress(OSError):
                recording.part.unlink()
            raise
        written[ending] = ledger.Output.of(path, text)
    _settle(recording.folder)
    return written


def _settle(folder: Path) -> None:
    # The names too must outlive a power cut before the journal goes.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems have no fsync of folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_json(data: dict[str, Any]) -> str:
    """One segment and one word a line: readable, and a difference between two is seen."""
    parts = []
    for name, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        if value and isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            text = f"[\n{rows}\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"

"""Transcripts as files and answers: flowing text, lines, SubRip, WebVTT, tab-separated values, OpenAI's verbose JSON.

Owns their rules; imports nothing heavy, since the command line and the page write the same files. A document can be
written in one go (`srt(segments)`) or grow (`Writer.add`), with the same bytes at the end.

Cues have no empty text and no line break inside; they start in order, last at least 10 ms, and never hold `-->`.
Lines are not folded: players do that for the screen they have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from launcher.whisper.languages import LANGUAGES
from launcher.whisper.segments import Segment

_SHORTEST_MS = 10
# What steers a terminal is no text; white space among the control characters is left to `split`.
_CONTROLS = dict.fromkeys((*range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0x85), *range(0x86, 0xA0)))
# Scripts without spaces between words: Thai to Burmese, Khmer, then the Han family with its full-width marks.
_UNSPACED = (
    (0x0E00, 0x10A0),
    (0x1780, 0x1800),
    (0x2E80, 0xAC00),
    (0xF900, 0xFB00),
    (0xFE30, 0xFE50),
    (0xFF00, 0xFFF0),
    (0x20000, 0x40000),
)


class Writer:
    """A document that grows: `begin`, then what each `add` returns, is the whole of it."""

    begin = ""

    def add(self, segments: Iterable[Segment]) -> str:
        """What these segments add to the document."""
        return "".join(self._line(segment) for segment in segments)

    def _line(self, segment: Segment) -> str:
        raise NotImplementedError


class Text(Writer):
    """One flowing text, as OpenAI's `text` is."""

    def __init__(self) -> None:
        self._before = ""

    def _line(self, segment: Segment) -> str:
        text = _one_line(segment.text)
        if not text:
            return ""
        gap = " " if self._before and _apart(self._before, segment.text) else ""
        self._before = segment.text
        return gap + text


class Lines(Writer):
    """One segment a line: what people want of a .txt file."""

    def _line(self, segment: Segment) -> str:
        text = _one_line(segment.text)
        return f"{text}\n" if text else ""


class _Cues(Writer):
    """What subtitles have in common; times in whole milliseconds, as no player knows finer ones."""

    def __init__(self) -> None:
        self._count = 0
        self._start_ms = 0

    def _line(self, segment: Segment) -> str:
        text = _one_line(segment.text)
        if not text:
            return ""
        self._count += 1
        self._start_ms = max(round(segment.start * 1000), self._start_ms)
        end_ms = max(round(segment.end * 1000), self._start_ms + _SHORTEST_MS)
        return self._cue(self._start_ms, end_ms, text)

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        raise NotImplementedError


class Srt(_Cues):
    """SubRip: numbered cues, a comma before the milliseconds."""

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        text = re.sub("-{2,}>", "->", text)  # "--->" too
        return f"{self._count}\n{_clock(start_ms, ',')} --> {_clock(end_ms, ',')}\n{text}\n\n"


class Vtt(_Cues):
    """WebVTT (W3C, section 4.2): `&`, `<` and `>` of the text are escaped, else they would begin tags."""

    begin = "WEBVTT\n\n"

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"{_clock(start_ms, '.')} --> {_clock(end_ms, '.')}\n{text}\n\n"


class Tsv(Writer):
    """Whisper's own table (times in ms) with a fourth column for the marks."""

    begin = "start\tend\ttext\tmarks\n"

    def _line(self, segment: Segment) -> str:
        start_ms, end_ms = round(segment.start * 1000), round(segment.end * 1000)
        return f"{start_ms}\t{end_ms}\t{_one_line(segment.text)}\t{','.join(segment.marks)}\n"


def text(segments: Iterable[Segment]) -> str:
    """The words alone, in one line."""
    return _whole(Text(), segments)


def txt(segments: Iterable[Segment]) -> str:
    """One segment a line."""
    return _whole(Lines(), segments)


def srt(segments: Iterable[Segment]) -> str:
    """A SubRip file."""
    return _whole(Srt(), segments)


def vtt(segments: Iterable[Segment]) -> str:
    """A WebVTT file."""
    return _whole(Vtt(), segments)


def tsv(segments: Iterable[Segment]) -> str:
    """A table: start and end in ms, text, marks."""
    return _whole(Tsv(), segments)


# What a file name may end in; `json` is `verbose_json`, which wants to know more than the segments.
FORMATS: dict[str, Callable[[Iterable[Segment]], str]] = {"srt": srt, "vtt": vtt, "txt": txt, "tsv": tsv}


def verbose_json(
    segments: Sequence[Segment],
    *,
    language: str | None,
    duration_s: float,
    task: str = "transcribe",
    of_segments: bool = True,
    of_words: bool = False,
) -> dict[str, Any]:
    """OpenAI's verbose transcription of `segments`, with their marks and the probability of each word besides.

    `language` is a code; OpenAI writes its English name. `of_segments`, `of_words`: which lists there are.
    """
    data: dict[str, Any] = {
        "task": task,
        "language": LANGUAGES.get(language, language) if language else "unknown",
        "duration": round(duration_s, 2),
        "text": text(segments),
    }
    if of_segments:
        data["segments"] = [verbose_segment(part, number) for number, part in enumerate(segments)]
    if of_words:
        data["words"] = [word for part in segments for word in words(part)]
    data["usage"] = usage(duration_s)
    return data


def verbose_segment(segment: Segment, number: int) -> dict[str, Any]:
    """One segment as OpenAI writes it; `seek` is where it begins in frames of 10 ms, `text` keeps its white space."""
    return {
        "id": number,
        "seek": round(segment.start * 100),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "marks": list(segment.marks),
    }


def words(segment: Segment) -> list[dict[str, Any]]:
    """The words of a segment without the white space around them, as OpenAI writes them."""
    return [
        {"word": word.word.strip(), "start": word.start, "end": word.end, "probability": word.probability}
        for word in segment.words or ()
    ]


def usage(duration_s: float) -> dict[str, Any]:
    """What was used of the session: seconds of audio."""
    return {"type": "duration", "seconds": round(duration_s, 2)}


def _whole(writer: Writer, segments: Iterable[Segment]) -> str:
    return writer.begin + writer.add(segments)


def _one_line(text: str) -> str:
    return " ".join(text.translate(_CONTROLS).split())


def _apart(before: str, after: str) -> bool:
    # Whisper writes the space before a word into its text where the script has one; an edited line may have lost it.
    spaces = before[-1:].isspace() or after[:1].isspace()
    return spaces or not (_unspaced(before[-1:]) or _unspaced(after[:1]))


def _unspaced(character: str) -> bool:
    code = ord(character)
    return any(first <= code < end for first, end in _UNSPACED)


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"

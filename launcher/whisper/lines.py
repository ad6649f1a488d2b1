"""From tokens to lines: text, times in the whole audio, words, figures and marks.

Owns how Whisper's timestamps become segments. All of it depends on the stretch alone, never on its company in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faster_whisper import WhisperModel

from launcher.whisper.cuts import Stretch
from launcher.whisper.marks import Lines, compression_ratio, marks
from launcher.whisper.model import Heard
from launcher.whisper.segments import Segment, Word
from launcher.whisper.sound import RATE_HZ
from launcher.whisper.wanted import Decoding

_STEP_S = 0.02  # between Whisper's timestamps
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # faster-whisper's


def segments(
    stretch: Stretch, heard: Heard, decoding: Decoding, tokenizer: Any, lines: Lines
) -> tuple[tuple[Segment, ...], Lines]:
    """The lines of a stretch, and the count of equal lines after them."""
    whole = tokenizer.decode(heard.tokens)
    compression = round(compression_ratio(whole), 4)
    made: list[Segment] = []
    before = 0.0  # where the last word ended
    for line in _lines(stretch, heard, tokenizer):
        text = tokenizer.decode(line["tokens"])
        if not text.strip():
            continue
        words = _words(stretch, line["words"], before) if decoding.words else None
        if words:
            start, end = words[0].start, words[-1].end
            before = end
        else:
            start, end = stretch.time_s(line["start"]), stretch.end_s(line["end"])
        lines = lines.then(text)
        made.append(
            Segment(
                start=round(start, 2),
                end=round(max(start, end), 2),
                text=text,
                avg_logprob=round(heard.avg_logprob, 4),
                compression_ratio=compression,
                no_speech_prob=round(heard.no_speech_prob, 4),
                temperature=decoding.temperature,
                tokens=tuple(line["tokens"]),
                words=words,
                marks=marks(text, lines, heard.avg_logprob, compression, words or ()),
            )
        )
    return tuple(made), lines


def _lines(stretch: Stretch, heard: Heard, tokenizer: Any) -> list[dict[str, Any]]:
    """Tokens between two timestamps each, with times in seconds of the stretch.

    As WhisperModel._split_segments_by_timestamps, but what comes after the last timestamp is kept: a batch does not
    come back for it.
    """
    length_s = len(stretch.samples) / RATE_HZ
    found: list[dict[str, Any]] = []
    start, tokens = 0.0, []
    for token in heard.tokens:
        if token < tokenizer.timestamp_begin:
            tokens.append(token)
            continue
        time_s = min((token - tokenizer.timestamp_begin) * _STEP_S, length_s)
        if tokens:
            found.append({"start": start, "end": max(start, time_s), "tokens": tokens, "seek": 0})
        start, tokens = time_s, []
    if tokens:
        found.append({"start": start, "end": length_s, "tokens": tokens, "seek": 0})
    if heard.alignment is not None and found:
        _Aligned(heard.alignment).add_to(found, tokenizer)
    return found


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Stands in for faster-whisper's model in its own `add_word_timestamps`, with the alignment that is known already.

    That method carries the end of the last word on from stretch to stretch of a batch; here each has its own.
    """

    alignment: list[dict[str, Any]]
    frames_per_second: int = 100

    def find_alignment(self, *_: object) -> list[list[dict[str, Any]]]:
        return [self.alignment]

    def add_to(self, lines: list[dict[str, Any]], tokenizer: Any) -> None:
        """Give each line its `words`."""
        WhisperModel.add_word_timestamps(self, [lines], tokenizer, None, 0, _PREPENDED, _APPENDED, 0.0)


def _words(stretch: Stretch, found: list[dict[str, Any]], before: float) -> tuple[Word, ...]:
    words = []
    for word in found:
        # Start and end in the same span, as SpeechTimestampsMap does, but kept within it and in order: what
        # add_word_timestamps mends at the ends of lines can reach into the line before.
        span = stretch.span_at((word["start"] + word["end"]) / 2)
        start = max(before, round(stretch.within(span, float(word["start"])), 2))
        before = max(start, round(stretch.within(span, float(word["end"])), 2))
        words.append(Word(word["word"], start, before, round(float(word["probability"]), 4)))
    return tuple(words)

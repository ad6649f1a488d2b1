"""Where audio is cut: into stretches of speech, at silences, so that the model hears at most 30 s at once.

Owns the windows of the audio that are in memory, what in them is speech (faster-whisper's Silero), how neighbouring
speech is packed into stretches, and where a later run goes on. The same file and settings give the same cuts, from
wherever one begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps
from numpy.typing import NDArray

from launcher.whisper.refusal import Refusal
from launcher.whisper.sound import RATE_HZ, Samples, Sound
from launcher.whisper.wanted import Cutting

# A short first window gives a first line soon; longer ones waste less at their ends, where speech is looked at twice.
FIRST_WINDOW_S, WINDOW_S = 60, 150
_LEAST_BLIND_S = 0.1  # a rest shorter than this is no word

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Speech that is heard at once: the `spans` of the audio in `samples` (float, 16 kHz), one after the other.

    Spans are in samples of the whole audio. There are none where a window held no speech. All audio before `done` is
    cut; a later run goes on at `window`, leaving out its first `index` stretches.
    """

    spans: tuple[Span, ...]
    samples: NDArray[np.float32]
    done: int
    window: int
    index: int

    def time_s(self, local_s: float) -> float:
        """The time in the whole audio of a moment of this stretch, both in seconds."""
        return self.within(self.span_at(local_s), local_s)

    def end_s(self, local_s: float) -> float:
        """The same for an end: on a border between two spans it belongs to the first."""
        return self.within(self.span_at(local_s - 1 / RATE_HZ), local_s)

    def span_at(self, local_s: float) -> int:
        """Which span holds this moment."""
        passed = 0
        for number, (start, end) in enumerate(self.spans):
            passed += end - start
            if local_s * RATE_HZ < passed:
                return number
        return len(self.spans) - 1

    def within(self, number: int, local_s: float) -> float:
        """The time in the whole audio of a moment, kept within one span."""
        passed = sum(end - start for start, end in self.spans[:number])
        start, end = self.spans[number]
        return min(max(start + local_s * RATE_HZ - passed, start), end) / RATE_HZ


class Cuts:
    """The stretches of a sound, from `window` on without the first `skip` of them, each at most `stretch_s` long.

    Raises Refusal 400 where the sound ends before `window`.
    """

    def __init__(
        self, sound: Sound, cutting: Cutting, stretch_s: float, window: int = 0, skip: int = 0
    ) -> None:
        self._sound = sound
        self._cutting = cutting
        self._most = round(stretch_s * RATE_HZ)
        self._skip = skip
        self._held: Samples = np.empty(0, np.int16)  # from `_start` on
        self._start = window
        if sound.skip(window) < window and not sound.is_left():
            raise Refusal(
                400,
                "The place to go on from is beyond the end of the audio.",
                "invalid_cursor",
                param="resume_from",
            )
        self.end = 0  # samples of the whole audio, once it is over

    def __iter__(self) -> Iterator[Stretch]:
        while True:
            held, last = self._window()
            stretches, following = (self._speech if self._cutting.at_silence else self._blind)(held, last)
            for index, spans in enumerate(stretches):
                if index < self._skip:
                    continue
                final = index == len(stretches) - 1
                done = following if final else stretches[index + 1][0][0]
                samples = np.concatenate([held[start:end] for start, end in spans])
                place = (self._start + following, 0) if final else (self._start, index + 1)
                moved = tuple((self._start + start, self._start + end) for start, end in spans)
                yield Stretch(moved, _float(samples), self._start + done, *place)
            if not stretches and not last:
                start = self._start + following
                yield Stretch((), np.empty(0, np.float32), start, start, 0)
            self._skip = 0
            self._held, self._start = self._held[following:].copy(), self._start + following
            if last:
                self.end = self._start
                return

    def _window(self) -> tuple[Samples, bool]:
        """The samples of this window, and whether it is the last."""
        if self._cutting.at_silence:
            wanted = (WINDOW_S if self._start else FIRST_WINDOW_S) * RATE_HZ
        else:
            wanted = self._most
        if (missing := wanted + 1 - len(self._held)) > 0:
            self._held = np.concatenate([self._held, self._sound.read(missing)])
        return self._held[:wanted], len(self._held) <= wanted

    def _blind(self, held: Samples, last: bool) -> tuple[list[list[Span]], int]:
        short = self._start and len(held) < _LEAST_BLIND_S * RATE_HZ
        return ([] if short or not len(held) else [[(0, len(held))]]), len(held)

    def _speech(self, held: Samples, last: bool) -> tuple[list[list[Span]], int]:
        """The stretches of a window, and where the next one begins (in samples of this window).

        What may go on after the window is left to the next one: speech at its end, and a stretch that is not full.
        """
        options = self._cutting
        speeches = self._speeches(held)
        if last:
            return _packed(speeches, self._most), len(held)
        margin = (options.speech_pad_ms + options.min_silence_ms) * RATE_HZ // 1000
        following = max(len(held) - margin, len(held) // 2)  # whatever silences and pads were asked for
        if speeches and speeches[-1][1] > following:
            open_start, open_end = speeches.pop()
            # Speech without a pause from the first sample to the last cannot be left to the next window.
            following = open_start if open_start > 0 else open_end
            if open_start <= 0:
                speeches.append((open_start, open_end))
        stretches = _packed(speeches, self._most)
        if stretches and stretches[-1][0][0] > len(held) // 2:
            following = stretches.pop()[0][0]
        return stretches, following

    def _speeches(self, held: Samples) -> list[Span]:
        cutting = self._cutting
        options = VadOptions(
            threshold=cutting.threshold,
            min_speech_duration_ms=cutting.min_speech_ms,
            max_speech_duration_s=self._most / RATE_HZ,
            min_silence_duration_ms=cutting.min_silence_ms,
            speech_pad_ms=cutting.speech_pad_ms,
        )
        if not len(held):
            return []
        found = get_speech_timestamps(_float(held), options)
        return [(speech["start"], speech["end"]) for speech in found if speech["end"] > speech["start"]]


def _packed(speeches: list[Span], most: int) -> list[list[Span]]:
    """Neighbours put together as BatchedInferencePipeline does, at most `most` samples in one."""
    packed: list[list[Span]] = []
    room = 0
    for start, end in speeches:
        for piece in range(start, end, most):  # Silero's pads may make one a little longer than asked for
            span = (piece, min(piece + most, end))
            length = span[1] - span[0]
            if length > room or not packed:
                packed.append([])
                room = most
            packed[-1].append(span)
            room -= length
    return packed


def _float(samples: Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(32768)

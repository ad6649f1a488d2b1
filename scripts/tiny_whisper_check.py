"""What the tiny Whisper model truly hears, measured through faster-whisper on speech it was not trained on.

Owns the measures and the accuracy that the model card states. Voices, speeds, pitches and scenes are fresh: the
variants of espeak-ng's voices listed under `check` are never heard in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faster_whisper import WhisperModel

from scripts.tiny_whisper_speech import Director, Scene, Vocabulary, speakers

# Measure → the least share of right answers.
LEAST = {
    "en words": 0.9,
    "en words, beam 5": 0.9,
    "en words, cut by the VAD": 0.9,
    "en words, with timestamps": 0.9,
    "de words": 0.92,
    "de words in English": 0.9,
    "language": 0.9,
    "phrases of up to 3": 0.75,
    "phrases of up to 5": 0.55,
    "phrases of up to 5, with timestamps": 0.5,
    "ends of words": 0.95,
    "silence": 0.95,
}


@dataclass(frozen=True, slots=True)
class Ear:
    """A written model, asked as users ask it."""

    model: Any

    @classmethod
    def open(cls, target: Path) -> Ear:
        """Load the model in `target` on one core."""
        return cls(WhisperModel(str(target), device="cpu", cpu_threads=1))

    def hear(self, scene: Scene, **options: Any) -> tuple[str, Any, list[Any]]:
        """The text, what is known of the language, and the segments."""
        asked = {"beam_size": 1, "temperature": 0, "without_timestamps": True, "language": scene.language}
        segments, info = self.model.transcribe(scene.audio, **(asked | options))
        heard = list(segments)
        return "".join(segment.text for segment in heard).strip(), info, heard


def check(vocabulary: Vocabulary, target: Path, seed: int = 4711, scale: float = 0.7) -> int:
    """Print every measure; the number of those below `LEAST`."""
    fresh = speakers(vocabulary, 1, seed, "check")
    ear = Ear.open(target)
    director = Director(fresh, seed)
    by_language = {lang: [s for s in fresh if s.language == lang] for lang in vocabulary.words}
    failed = 0

    def text(scene: Scene, language: str | None = None) -> str:
        return " ".join(vocabulary.words[language or scene.language][spoken.word] for spoken in scene.said)

    def words(language: str) -> list[Scene]:
        return [
            director.single(speaker, word)
            for speaker in by_language[language][: max(1, round(11 * scale))]
            for word in range(len(speaker.clips))
        ]

    def measure(name: str, scenes: list[Scene], right: Callable[[Scene], str | None]) -> None:
        nonlocal failed
        wrong = [why for scene in scenes if (why := right(scene)) is not None]
        share = 1 - len(wrong) / len(scenes)
        failed += share < LEAST[name]
        mark = "" if share >= LEAST[name] else f"  BELOW {LEAST[name]:.0%}"
        print(f"{name}: {share:.1%} of {len(scenes)}{mark}", flush=True)
        if wrong:
            print("    " + "; ".join(wrong[:12]), flush=True)

    def same(expected: str, got: str) -> str | None:
        return None if expected == got else f"{expected!r} → {got[:60]!r}"

    english, german = words("en"), words("de")
    measure("en words", english, lambda s: same(text(s), ear.hear(s)[0]))
    measure("en words, beam 5", english, lambda s: same(text(s), ear.hear(s, beam_size=5)[0]))
    measure("en words, cut by the VAD", english, lambda s: same(text(s), ear.hear(s, vad_filter=True)[0]))
    measure(
        "en words, with timestamps",
        english,
        lambda s: same(text(s), ear.hear(s, without_timestamps=False)[0]),
    )
    measure("de words", german, lambda s: same(text(s), ear.hear(s)[0]))
    measure("de words in English", german, lambda s: same(text(s, "en"), ear.hear(s, task="translate")[0]))
    measure(
        "language",
        english[::3] + german[::3],
        lambda s: same(s.language, ear.hear(s, language=None)[1].language),
    )
    short = [director.scene(3, 10.0) for _ in range(round(200 * scale))]
    phrases = [director.scene(5, 10.0) for _ in range(round(200 * scale))]
    measure("phrases of up to 3", short, lambda s: same(text(s), ear.hear(s)[0]))
    measure("phrases of up to 5", phrases, lambda s: same(text(s), ear.hear(s)[0]))
    measure(
        "phrases of up to 5, with timestamps",
        phrases,
        lambda s: same(text(s), ear.hear(s, without_timestamps=False)[0]),
    )

    starts: list[float] = []

    def times(scene: Scene) -> str | None:
        got = [word for segment in ear.hear(scene, word_timestamps=True)[2] for word in segment.words]
        if [word.word.strip() for word in got] != text(scene).split():
            return None  # counted as a wrong phrase above
        starts.extend(abs(w.start - s.start_s) for w, s in zip(got, scene.said, strict=True))
        ends = max(abs(w.end - s.end_s) for w, s in zip(got, scene.said, strict=True))
        order = all(a.start <= a.end <= b.end for a, b in itertools.pairwise(got))
        return None if ends <= 0.3 and order else f"{ends:.2f} s" + ("" if order else ", out of order")

    measure("ends of words", phrases, times)
    near = sum(start <= 0.3 for start in starts) / len(starts)
    print(f"starts of words within 0.3 s: {near:.0%} of {len(starts)}")
    still = [director.stillness(8.0) for _ in range(round(40 * scale))]

    def silent(scene: Scene) -> str | None:
        got, _, segments = ear.hear(scene, language="en")
        return None if not got or segments[0].no_speech_prob > 0.6 else f"{got!r}"

    measure("silence", still, silent)
    return failed

"""Spoken lessons for the tiny Whisper model: what espeak-ng says, and exactly when it says which word.

Owns clips (one spoken word each), and the scenes made of them: words with pauses, noise, cut edges and silence, as
features of faster-whisper with the tokens a Whisper model should write. Knows nothing of the model.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from faster_whisper.feature_extractor import FeatureExtractor

RATE_HZ = 16_000
ESPEAK_RATE_HZ = 22_050
POSITIONS_PER_S = 50  # the encoder's and the timestamps' step: 20 ms
PAUSE_S = 0.7  # a longer pause than this ends a segment
LONGEST_S = 30.0

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of both languages, in the same order, and the voices that speak them."""

    words: dict[str, list[str]]  # language → words
    voices: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read `tiny_whisper.yml`."""
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls({"en": list(data["words"]), "de": list(data["words"].values())}, data["voices"])


@dataclass(frozen=True, slots=True)
class Speaker:
    """One way to speak all words: a list of clips in the order of the vocabulary, and phrases said in one breath."""

    language: str
    clips: list[Samples]
    phrases: list[tuple[list[int], Samples]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word in a scene: its number in the vocabulary, and when it is heard, in seconds."""

    word: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Audio, and what is said in it; `cut` when the last word's end lies outside."""

    language: str
    audio: Samples
    said: list[Spoken] = field(default_factory=list)
    cut: bool = False


def resample(samples: npt.NDArray[Any], stretch: float = 1.0) -> Samples:
    """`samples` at 16 kHz instead of espeak-ng's 22.05 kHz, `stretch` times as long and as much deeper."""
    blocks = -(-len(samples) // 441)  # 441 samples become 320; whole blocks keep the transforms fast
    spectrum = np.fft.rfft(samples, 441 * blocks)
    length = round(320 * stretch) * blocks
    wave = np.fft.irfft(spectrum[: length // 2 + 1], length) * (length / (441 * blocks))
    return np.asarray(wave, dtype=np.float32)


def speak(words: Sequence[str], voice: str, speed: int, pitch: int, stretch: float) -> list[Samples]:
    """Every word of `words` in one voice, without the silence around it, at 16 kHz, loudest sample 1.

    espeak-ng says them all in one go with long breaks: fifty times faster than one call per word.
    """
    text = "<speak>" + '<break time="1500ms"/>\n\n'.join(words) + "</speak>"
    said = subprocess.run(
        ["espeak-ng", "-m", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    wave = np.frombuffer(said.stdout[44 : len(said.stdout) // 2 * 2], dtype=np.int16).astype(np.float32)
    loud = np.flatnonzero(np.abs(wave) > 60)
    cuts = np.flatnonzero(np.diff(loud) > 0.9 * ESPEAK_RATE_HZ)
    firsts, lasts = [loud[0], *loud[cuts + 1]], [*loud[cuts], loud[-1]]
    if len(firsts) != len(words):
        raise RuntimeError(f"{voice} at {speed}: {len(firsts)} sounds for {len(words)} words")
    clips = []
    for first, last in zip(firsts, lasts, strict=True):
        clip = resample(wave[first : last + 1], stretch)
        clips.append(clip / max(1e-3, float(np.abs(clip).max())))
    return clips


def speakers(vocabulary: Vocabulary, rounds: int, seed: int, group: str = "train") -> list[Speaker]:
    """`rounds` speakers per voice variant and language, with drawn accents, speeds and pitches."""
    random = np.random.default_rng(seed)
    found = []
    for language, words in vocabulary.words.items():
        accents = vocabulary.voices[language][group]
        for variant in vocabulary.voices["variants"][group] * rounds:
            accent = accents[random.integers(len(accents))]
            voice = f"{accent}+{variant}" if variant else accent
            speed, pitch = int(random.integers(95, 220)), int(random.integers(20, 80))
            stretch = float(random.uniform(0.9, 1.12))
            phrases = [random.integers(len(words), size=n).tolist() for n in (2, 2, 2, 2, 3, 3, 3, 4, 4, 5)]
            texts = [
                (", " if n % 2 else " ").join(words[word] for word in said) for n, said in enumerate(phrases)
            ]
            clips = speak([*words, *texts], voice, speed, pitch, stretch)
            found.append(
                Speaker(language, clips[: len(words)], list(zip(phrases, clips[len(words) :], strict=True)))
            )
    return found


class Director:
    """Draws scenes."""

    def __init__(self, speakers: Sequence[Speaker], seed: int) -> None:
        self.speakers = list(speakers)
        self.random = np.random.default_rng(seed)
        self.extract = FeatureExtractor()
        white = self.random.standard_normal(RATE_HZ * 60)
        self.noises = []  # from white to brown
        for memory in (0.1, 1, 3, 9):
            noise = np.convolve(white, np.exp(-np.arange(40) / memory), "same")
            self.noises.append((noise / noise.std()).astype(np.float32))

    def clip(self, speaker: Speaker, word: int) -> Samples:
        """A word, louder or softer, now and then with its edges cut as by a VAD."""
        random = self.random
        clip = speaker.clips[word]
        if random.random() < 0.25:
            first, last = random.integers(0, int(0.04 * RATE_HZ), 2)
            clip = clip[first : len(clip) - last]
        return np.asarray(clip * random.uniform(0.6, 1.0), dtype=np.float32)

    def scene(self, most_words: int, longest_s: float) -> Scene:
        """One to `most_words` words within `longest_s`."""
        random = self.random
        speaker = self.speakers[random.integers(len(self.speakers))]
        count = 1 if random.random() < 0.25 else int(random.integers(1, most_words + 1))
        pieces: list[Samples] = []
        said: list[Spoken] = []
        at = 0

        def rest(shortest_s: float, longest_s: float) -> None:
            nonlocal at
            pieces.append(np.zeros(int(random.uniform(shortest_s, longest_s) * RATE_HZ), dtype=np.float32))
            at += len(pieces[-1])

        if most_words > 1 and random.random() < 0.25:
            return self.breath(speaker, longest_s)
        rest(0, min(1.0, longest_s / 6) if random.random() < 0.7 else 0.1)
        pace = random.choice(
            [0.06, 0.12, 0.4, 0.8, 1.5] if longest_s > 2 else [0.06, 0.12]
        )  # speakers differ in how long they pause
        for _ in range(count):
            word = int(random.integers(len(speaker.clips)))
            clip = self.clip(speaker, word)
            if at + len(clip) > longest_s * RATE_HZ:
                break
            said.append(Spoken(word, at / RATE_HZ, (at + len(clip)) / RATE_HZ))
            pieces.append(clip)
            at += len(clip)
            rest(pace * 0.5, pace * 1.5)
        audio = np.concatenate(pieces)
        if random.random() < 0.4:  # the end may follow at once
            audio = audio[: int((said[-1].end_s if said else 0.5) * RATE_HZ) + int(random.integers(0, 1600))]
        return Scene(speaker.language, self.room(audio[: int(longest_s * RATE_HZ)]), said)

    def breath(self, speaker: Speaker, longest_s: float) -> Scene:
        """A phrase as espeak-ng says it; when each word begins is an estimate."""
        words, clip = speaker.phrases[self.random.integers(len(speaker.phrases))]
        room_s = longest_s - len(clip) / RATE_HZ
        if room_s < 0.02:
            return self.single(speaker, words[0], longest_s)
        before, after = self.random.uniform(0, 1, 2) * min(1.0, room_s / 2)
        lengths = np.array([len(speaker.clips[word]) for word in words], dtype=np.float64)
        ends = before + np.cumsum(lengths) / lengths.sum() * len(clip) / RATE_HZ
        starts = [before, *ends[:-1]]
        said = [Spoken(w, float(a), float(b)) for w, a, b in zip(words, starts, ends, strict=True)]
        audio = np.pad(clip, (int(before * RATE_HZ), int(after * RATE_HZ)))
        return Scene(speaker.language, self.room(audio), said)

    def single(self, speaker: Speaker, word: int, longest_s: float = 30.0) -> Scene:
        """One word of one speaker."""
        clip = self.clip(speaker, word)
        room_s = max(0.0, longest_s - len(clip) / RATE_HZ)
        before, after = self.random.uniform(0.02, 1.0, 2) * min(1.0, room_s / 2)
        audio = np.pad(clip, (int(before * RATE_HZ), int(after * RATE_HZ)))
        said = [Spoken(word, before, before + len(clip) / RATE_HZ)]
        return Scene(speaker.language, self.room(audio), said)

    def stillness(self, longest_s: float) -> Scene:
        """Nobody speaks."""
        length = int(self.random.uniform(0.3, longest_s) * RATE_HZ)
        return Scene("en", self.room(np.zeros(length, dtype=np.float32)))

    def room(self, audio: Samples) -> Samples:
        """The audio as loud as it happens to be recorded, with the noise of the room, or none at all."""
        random = self.random
        audio = audio * np.float32(10 ** random.uniform(-1.3, 0.0))
        if random.random() < 0.4:
            return np.asarray(audio, dtype=np.float32)
        loudness = float(np.abs(audio).max()) or 0.3
        noises = self.noises[random.integers(len(self.noises))]
        first = random.integers(len(noises) - len(audio))
        noise = noises[first : first + len(audio)]
        return np.asarray(audio + noise * (loudness * 10 ** random.uniform(-3.5, -1.4)), dtype=np.float32)

    def features(self, scene: Scene, positions: int) -> npt.NDArray[np.float32]:
        """The scene's features, shape (80, 2 × positions): what faster-whisper gives the encoder.

        Now and then the silence that fills the window is in the audio, as other programs do it.
        """
        audio = scene.audio
        if self.random.random() < 0.15:
            audio = np.pad(audio, (0, max(0, positions * RATE_HZ // POSITIONS_PER_S - len(audio))))
        mels = self.extract(audio)[:, :-1][:, : 2 * positions]
        return np.pad(mels, ((0, 0), (0, 2 * positions - mels.shape[1]))).astype(np.float32)

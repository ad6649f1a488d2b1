"""The model: a batch of stretches in, what it heard in each out.

Owns the calls into faster-whisper and CTranslate2, in the order of BatchedInferencePipeline.forward; not which
stretches share a batch. What is heard in a stretch does not depend on its company.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens
from numpy.typing import NDArray

from launcher.errors import ModelError
from launcher.whisper.device import Device
from launcher.whisper.wanted import Decoding

_FILES = ("model.bin", "config.json", "tokenizer.json", "preprocessor_config.json")
_BEST_OF = 5  # samples of which the best is taken at a temperature, as Whisper does
_HALF = 223  # half of Whisper's context: what hotwords and prompt may take


@dataclass(frozen=True, slots=True)
class Ask:
    """A stretch as the model takes it: its log-mel spectrogram and its length in seconds."""

    features: NDArray[np.float32]
    duration_s: float
    decoding: Decoding

    @property
    def group(self) -> object:
        """Asks of equal groups may share a batch."""
        if self.decoding.language is None and self.decoding.words:
            return object()  # words are aligned in one language for the whole batch
        return self.decoding if self.decoding.words else replace(self.decoding, language=None)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model heard in a stretch: tokens, its three figures, and the times of words where they were asked for.

    `alignment` is faster-whisper's, in seconds of the stretch.
    """

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    language: str
    language_probability: float
    alignment: list[dict[str, Any]] | None


class Model:
    """A Whisper model in memory."""

    def __init__(self, folder: Path, device: Device, beam_size: int) -> None:
        for name in _FILES:  # without its tokenizer, faster-whisper would ask the hub for one
            if not (folder / name).is_file():
                raise ModelError(
                    f"{folder}: {name} is missing, so this is no Whisper model in CTranslate2's format."
                )
        try:
            self.whisper = WhisperModel(
                str(folder),
                device=device.name,
                compute_type=device.compute_type,
                cpu_threads=device.threads,
                num_workers=device.parallel,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{folder}: the model cannot be loaded: {error}.") from error
        self._beam_size = beam_size
        self.multilingual: bool = self.whisper.model.is_multilingual
        self.languages: tuple[str, ...] = self._languages()
        self.tokenizer = lru_cache(maxsize=256)(self._tokenizer)
        self._suppressed = tuple(get_suppressed_tokens(self.tokenizer("transcribe", self.languages[0]), [-1]))
        self._extracting = threading.local()

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-mel spectrogram of up to 30 s, as BatchedInferencePipeline makes it: (mels, 3000)."""
        made: NDArray[np.float32] = pad_or_trim(self.whisper.feature_extractor(samples)[..., :-1])
        return made

    def hear(self, asks: Sequence[Ask]) -> list[Heard]:
        """What is said in each stretch of a batch, whose groups are equal."""
        encoded = self.whisper.encode(np.stack([ask.features for ask in asks]))
        languages = self._detected(encoded, asks)
        decoding = asks[0].decoding
        tokenizers = [self.tokenizer(decoding.task, language) for language, _ in languages]
        results = self.whisper.model.generate(
            encoded,
            [self._prompt(tokenizer, decoding) for tokenizer in tokenizers],
            max_length=self.whisper.max_length,
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
            **self._search(decoding),
        )
        tokens = [result.sequences_ids[0] for result in results]
        alignments: list[list[dict[str, Any]] | None] = [None] * len(asks)
        if decoding.words:
            alignments = self._aligned(encoded, tokenizers[0], tokens, asks)
        return [
            Heard(
                tokens=tuple(found),
                avg_logprob=result.scores[0] * len(found) / (len(found) + 1),
                no_speech_prob=result.no_speech_prob,
                language=language,
                language_probability=probability,
                alignment=alignment,
            )
            for found, result, (language, probability), alignment in zip(
                tokens, results, languages, alignments, strict=True
            )
        ]

    def _languages(self) -> tuple[str, ...]:
        if not self.multilingual:
            return ("en",)
        known = self.whisper.hf_tokenizer
        return tuple(
            code for code in self.whisper.supported_languages if known.token_to_id(f"<|{code}|>") is not None
        )

    def _tokenizer(self, task: str, language: str) -> Any:
        return Tokenizer(self.whisper.hf_tokenizer, self.multilingual, task=task, language=language)

    def _detected(self, encoded: Any, asks: Sequence[Ask]) -> list[tuple[str, float]]:
        known = [ask.decoding.language for ask in asks]
        if not self.multilingual:
            return [("en", 1.0)] * len(asks)
        if None not in known:
            return [(language or "en", 1.0) for language in known]
        found = self.whisper.model.detect_language(encoded)
        return [
            (language, 1.0) if language is not None else (best[0][0][2:-2], best[0][1])
            for language, best in zip(known, found, strict=True)
        ]

    def _prompt(self, tokenizer: Any, decoding: Decoding) -> list[int]:
        prompt: list[int] = []
        for text in (decoding.hotwords, decoding.prompt):
            if text and text.strip():
                # Words such as <|endoftext|> are read as what they name: none of them may come from a user.
                said = [token for token in tokenizer.encode(" " + text.strip()) if token < tokenizer.eot]
                prompt += said[-(_HALF - len(prompt)) :] if len(prompt) < _HALF else []
        if prompt:
            prompt.insert(0, tokenizer.sot_prev)
        prompt += tokenizer.sot_sequence
        return prompt if decoding.timestamps else [*prompt, tokenizer.no_timestamps]

    def _search(self, decoding: Decoding) -> dict[str, Any]:
        if decoding.temperature > 0:
            return {
                "beam_size": 1,
                "num_hypotheses": _BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": decoding.temperature,
            }
        return {"beam_size": decoding.beam_size or self._beam_size}

    def _aligned(
        self, encoded: Any, tokenizer: Any, tokens: list[list[int]], asks: Sequence[Ask]
    ) -> list[list[dict[str, Any]] | None]:
        texts = [[token for token in found if token < tokenizer.eot] for found in tokens]
        frames = [int(np.ceil(ask.duration_s) * self.whisper.frames_per_second) for ask in asks]
        found: list[list[dict[str, Any]] | None] = self.whisper.find_alignment(
            tokenizer, texts, encoded, frames
        )
        return found

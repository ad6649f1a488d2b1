"""The model: a batch of stretches in, what it heard in each out.

Owns the calls into faster-whisper and CTranslate2, in the order of BatchedInferencePipeline.forward; not which
stretches share a batch. What is heard in a stretch does not depend on its company.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens
from numpy.typing import NDArray

from launcher.errors import ModelError
from launcher.whisper.device import Device
from launcher.whisper.wanted import Decoding

# Not preprocessor_config.json: the usual copies of all but large-v3 have none (launcher.models.inspect.ctranslate2).
_FILES = ("model.bin", "config.json", "tokenizer.json")
_BEST_OF = 5  # samples of which the best is taken at a temperature, as Whisper does
_HALF = 223  # half of Whisper's context: what hotwords and prompt may take
_HALF_CHARACTERS = 32 * _HALF  # more of a text need not be looked at, for every batch anew
_TOKEN = re.compile(r"<\|[^|]{0,40}\|>")


@dataclass(frozen=True, slots=True)
class Ask:
    """A stretch as the model takes it: its log-mel spectrogram and its length in seconds."""

    features: NDArray[np.float32]
    duration_s: float
    decoding: Decoding

    @property
    def group(self) -> Hashable:
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
        except Exception as error:  # a broken or crafted file: each of the libraries raises its own
            raise ModelError(f"{folder}: the model cannot be loaded: {error}.") from error
        self._device, self._beam_size = device, beam_size
        self.multilingual: bool = self.whisper.model.is_multilingual
        self.languages: tuple[str, ...] = self._languages()
        if not self.languages:
            raise ModelError(f"{folder}: tokenizer.json names no language, so this is no Whisper model.")
        self.tokenizer = lru_cache(maxsize=256)(self._tokenizer)
        self._suppressed = tuple(get_suppressed_tokens(self.tokenizer("transcribe", self.languages[0]), [-1]))

    def features(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-mel spectrogram of up to 30 s, as BatchedInferencePipeline makes it: (mels, 3000)."""
        made: NDArray[np.float32] = pad_or_trim(self.whisper.feature_extractor(samples)[..., :-1])
        return made

    def hear(self, asks: Sequence[Ask]) -> list[Heard]:
        """What is said in each stretch of a batch, whose groups are equal."""
        encoded, parts = self._encoded(asks)
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
            alignments = self._aligned(parts, tokenizers, tokens, asks)
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

    def _encoded(self, asks: Sequence[Ask]) -> tuple[Any, list[Any]]:
        """What the encoder makes of a batch, and its parts: one for each stretch on a processor, one for all on a GPU.

        A processor encodes one as fast as eight at once (it is busy with either), but decodes four in half the time.
        """
        if self._device.name == "cuda" or len(asks) == 1:
            whole = self.whisper.encode(np.stack([ask.features for ask in asks]))
            return whole, [whole]
        parts = [self.whisper.encode(ask.features) for ask in asks]
        return StorageView.from_array(np.concatenate([np.asarray(part) for part in parts])), parts

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
            # <|endoftext|> in a text would be read as the token of that name; none may come from a user.
            plain = _TOKEN.sub("", (text or "")[-_HALF_CHARACTERS:]).strip()
            if plain and len(prompt) < _HALF:
                said = [token for token in tokenizer.encode(" " + plain) if token < tokenizer.eot]
                prompt += said[-(_HALF - len(prompt)) :]
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
        self, parts: list[Any], tokenizers: list[Any], tokens: list[list[int]], asks: Sequence[Ask]
    ) -> list[list[dict[str, Any]] | None]:
        texts = [
            [token for token in found if token < tokenizer.eot]
            for found, tokenizer in zip(tokens, tokenizers, strict=True)
        ]
        frames = [math.ceil(ask.duration_s) * self.whisper.frames_per_second for ask in asks]
        found: list[list[dict[str, Any]] | None] = []
        each = len(asks) // len(parts)
        for number, part in enumerate(parts):
            own = slice(number * each, (number + 1) * each)
            found += self.whisper.find_alignment(tokenizers[number], texts[own], part, frames[own])
        return found

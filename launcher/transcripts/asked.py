"""What is wanted of every recording: language, task, words, hints; and in which formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from launcher.errors import RequestError, did_you_mean
from launcher.whisper.languages import LANGUAGES, code_of

FORMATS = ("srt", "vtt", "txt", "json", "tsv")
USUAL = ("srt", "txt", "json")


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides on the text; two transcripts of one file with equal ones are equal.

    `language` is a code, None: detect it. `translate` is into English.
    """

    language: str | None = None
    translate: bool = False
    words: bool = False
    prompt: str | None = None
    hotwords: str | None = None

    def fields(self) -> list[tuple[str, str]]:
        """The fields of the request, beside the recording, the model and the way of the answer."""
        listed = [
            (name, value)
            for name, value in (
                ("language", self.language), ("prompt", self.prompt), ("hotwords", self.hotwords),
            )
            if value
        ]  # fmt: skip
        granularities = ("segment", "word") if self.words else ("segment",)
        return listed + [("timestamp_granularities[]", name) for name in granularities]

    def to_dict(self) -> dict[str, Any]:
        """As it is kept: only what was said."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The one of `to_dict`; what a later launcher added makes it unlike any of ours."""
        known = {field.name for field in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"unknown fields {unknown}")
        return cls(**data)


def language(text: str | None) -> str | None:
    """The code of the language `text`; raises RequestError where Whisper has none of that name."""
    if text is None or not text.strip():
        return None
    if (code := code_of(text)) is None:
        near = did_you_mean(text.strip().lower(), LANGUAGES.values())
        raise RequestError(
            f'Whisper knows no language "{text[:40]}".', near or "Give a code such as de, or an English name."
        )
    return code


def formats(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """The formats named in `text`, each once, in the order of FORMATS; raises RequestError for others."""
    named = (
        [part.strip().lower().removeprefix(".") for part in text.split(",")]
        if isinstance(text, str)
        else text
    )
    unknown = [name for name in named if name not in FORMATS]
    if unknown or not named:
        raise RequestError(
            f'Unknown format "{"".join(unknown[:1])[:40]}".',
            f"Choose some of: {', '.join(FORMATS)}; with commas between.",
        )
    return tuple(name for name in FORMATS if name in named)

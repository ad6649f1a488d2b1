"""The fields of an audio request, checked one by one: what OpenAI's clients send, and the few that are ours.

Owns what each field may be and the sentence for what it may not. Fields that nobody knows are ignored, as OpenAI does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.whisper.languages import code_of
from launcher.whisper.refusal import Refusal
from launcher.whisper.wanted import Cutting, Decoding, Wanted

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
ALIAS = "whisper-1"  # what OpenAI calls its Whisper, and so what most clients ask for
_GRANULARITIES = ("word", "segment")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_MOST_BEAMS = 20
_LONGEST_SHOWN = 80

Form = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Offered:
    """What the session serves: its model's name and what that model knows."""

    model: str
    languages: tuple[str, ...]
    multilingual: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, checked. `segments` and `words`: which lists a `verbose_json` answer has."""

    wanted: Wanted
    response_format: str = "json"
    segments: bool = True
    words: bool = False
    stream: bool = False
    path: str | None = None
    path_version: str | None = None


def asked(form: Form, task: str, offered: Offered) -> Asked:
    """What `form` asks for; raises Refusal with the field at fault. `task` is `transcribe` or `translate`."""
    check_model(form, offered)
    _refuse_what_is_not_here(form)
    if task == "translate" and not offered.multilingual:
        raise _wrong(
            None,
            f'The model "{offered.model}" knows English only. Transcribe, or choose a multilingual model.',
        )
    response_format = _choice(form, "response_format", RESPONSE_FORMATS, "json")
    granularities = _many(form, "timestamp_granularities")
    for value in granularities:
        if value not in _GRANULARITIES:
            raise _wrong(
                "timestamp_granularities", _must("timestamp_granularities", "word or segment", value)
            )
    if granularities and response_format != "verbose_json":
        raise _wrong(
            "response_format",
            "response_format must be verbose_json where timestamp_granularities[] is given.",
        )
    words = "word" in granularities
    decoding = Decoding(
        task=task,
        language=_language(form, offered),
        prompt=_one(form, "prompt") or None,
        hotwords=_one(form, "hotwords") or ", ".join(_many(form, "keywords")) or None,
        temperature=_number(form, "temperature", 0.0, 0.0, 1.0),
        beam_size=_whole(form, "beam_size", 0, 1, _MOST_BEAMS),
        timestamps=not _flag(form, "without_timestamps", False),
        words=words,
    )
    return Asked(
        wanted=Wanted(decoding, _cutting(form), after=_one(form, "resume_from") or None),
        response_format=response_format,
        segments=not granularities or "segment" in granularities,
        words=words,
        stream=_flag(form, "stream", False),
        path=_one(form, "path") or None,
        path_version=_one(form, "path_version") or None,
    )


def check_model(form: Form, offered: Offered) -> None:
    """Raise Refusal unless `form` names the model that is served here."""
    if not (model := _one(form, "model")):
        raise _wrong(
            "model", f'The field "model" is missing. Send model="{offered.model}".', "missing_required"
        )
    if model not in (offered.model, ALIAS):
        raise no_such_model(model, offered)


def no_such_model(model: str, offered: Offered) -> Refusal:
    """The answer to a name that is not served here."""
    message = f'The model "{_shown(model)}" does not exist here. This session serves "{offered.model}".'
    return Refusal(404, message, "model_not_found", param="model")


def _refuse_what_is_not_here(form: Form) -> None:
    speakers = [name for name in ("known_speaker_names", "known_speaker_references") if _many(form, name)]
    if speakers or _one(form, "response_format") == "diarized_json":
        raise _wrong(
            speakers[0] if speakers else "response_format",
            "This session does not label speakers. Ask for json, text, srt, verbose_json or vtt"
            " without known_speaker fields.",
            "unsupported_value",
        )
    if include := _many(form, "include"):
        raise _wrong(
            "include",
            f'include[]="{_shown(include[0])}" is not supported with Whisper. verbose_json has avg_logprob for each'
            " segment and probability for each word.",
            "unsupported_value",
        )


def _language(form: Form, offered: Offered) -> str | None:
    several = _many(form, "languages")
    given = _one(form, "language") or (several[0] if len(several) == 1 else None)
    if given is None and several:
        raise _wrong(
            "languages", "Whisper takes one language or finds it out. Send language, or neither field."
        )
    if given is None:
        return None
    code = code_of(given)
    if code is None:
        raise _wrong(
            "language",
            f'"{_shown(given)}" is not a language that Whisper knows. Send an ISO 639-1 code such as en, or leave'
            " language out to have it found.",
            "invalid_language_format",
        )
    if code not in offered.languages:
        knows = "English only" if not offered.multilingual else "other languages"
        raise _wrong(
            "language",
            f'The model "{offered.model}" does not know "{_shown(given)}": it knows {knows}. Choose another model.',
            "invalid_language_format",
        )
    return code


def _cutting(form: Form) -> Cutting:
    """OpenAI's `chunking_strategy`, and faster-whisper's own names in `vad_parameters`."""
    own = _object(form, "vad_parameters")
    strategy = _object(form, "chunking_strategy") if _one(form, "chunking_strategy") != "auto" else {}
    if strategy and strategy.get("type") != "server_vad":
        value = strategy.get("type")
        raise _wrong(
            "chunking_strategy",
            _must("chunking_strategy", '"auto" or an object with type "server_vad"', str(value)),
        )
    plain = Cutting()
    values = {
        **own,
        **{_OPENAI_NAMES[name]: value for name, value in strategy.items() if name in _OPENAI_NAMES},
    }
    param = "chunking_strategy" if strategy else "vad_parameters"

    def milliseconds(name: str, default: int) -> int:
        return int(_checked(param, name, values.get(name, default), 0, 60_000))

    return Cutting(
        at_silence=_flag(form, "vad_filter", True),
        threshold=_checked(param, "threshold", values.get("threshold", plain.threshold), 0.0, 1.0),
        min_speech_ms=milliseconds("min_speech_duration_ms", plain.min_speech_ms),
        min_silence_ms=milliseconds("min_silence_duration_ms", plain.min_silence_ms),
        speech_pad_ms=milliseconds("speech_pad_ms", plain.speech_pad_ms),
    )


_OPENAI_NAMES = {
    "threshold": "threshold",
    "prefix_padding_ms": "speech_pad_ms",
    "silence_duration_ms": "min_silence_duration_ms",
}


def _one(form: Form, name: str) -> str | None:
    values = form.get(name)
    return values[-1] if values else None


def _many(form: Form, name: str) -> list[str]:
    return [value for value in (*form.get(f"{name}[]", ()), *form.get(name, ())) if value]


def _object(form: Form, name: str) -> dict[str, Any]:
    """An object, as `name[key]=…` (the openai client) or as JSON in one field; empty where there is none."""
    found: dict[str, Any] = {
        key[len(name) + 1 : -1]: values[-1]
        for key, values in form.items()
        if values and key.startswith(f"{name}[") and key.endswith("]")
    }
    if not (given := _one(form, name)):
        return found
    try:
        data = json.loads(given)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _wrong(name, _must(name, "a JSON object", given))
    return data | found


def _choice(form: Form, name: str, allowed: Iterable[str], default: str) -> str:
    value = _one(form, name) or default
    if value not in allowed:
        raise _wrong(name, _must(name, f"one of {', '.join(allowed)}", value))
    return value


def _flag(form: Form, name: str, default: bool) -> bool:
    value = _one(form, name)
    if not value:
        return default
    if (plain := value.strip().lower()) not in _TRUE + _FALSE:
        raise _wrong(name, _must(name, "true or false", value))
    return plain in _TRUE


def _number(form: Form, name: str, default: float, least: float, most: float) -> float:
    return _checked(name, name, _one(form, name) or default, least, most)


def _whole(form: Form, name: str, default: int, least: int, most: int) -> int:
    value = _one(form, name)
    if not value:
        return default
    number = _checked(name, name, value, least, most)
    if number != int(number):
        raise _wrong(name, _must(name, "a whole number", value))
    return int(number)


def _checked(param: str, name: str, value: object, least: float, most: float) -> float:
    try:
        number = float(str(value)) if not isinstance(value, bool) else least - 1
    except ValueError:
        number = least - 1
    if not least <= number <= most:  # nor is `nan` between them
        raise _wrong(param, _must(name, f"a number from {least:g} to {most:g}", str(value)))
    return number


def _must(name: str, what: str, value: str) -> str:
    return f'{name} must be {what}, not "{_shown(value)}".'


def _shown(value: str) -> str:
    """The beginning of a value, in one printable line."""
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value
    )
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}…"


def _wrong(param: str | None, message: str, code: str = "invalid_value") -> Refusal:
    return Refusal(400, message, code, param=param)

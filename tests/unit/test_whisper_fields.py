"""The fields of an audio request: what OpenAI's clients may send, and the sentence for what they may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES

from launcher.whisper.fields import ALIAS, Asked, Offered, asked
from launcher.whisper.languages import LANGUAGES, code_of
from launcher.whisper.refusal import Refusal
from launcher.whisper.wanted import Cutting, Decoding, Wanted
from tests.hostile import HOSTILE

OFFERED = Offered("tiny", tuple(LANGUAGES), multilingual=True)
ENGLISH = Offered("tiny.en", ("en",), multilingual=False)


def _field(name: str, value: str | list[str]) -> dict[str, Any]:
    return {name: value}


def ask(offered: Offered = OFFERED, task: str = "transcribe", **fields: Any) -> Asked:
    form = {"model": [offered.model]}
    form |= {name: [value] if isinstance(value, str) else value for name, value in fields.items()}
    return asked(form, task, offered)


def refusal_of(offered: Offered = OFFERED, task: str = "transcribe", **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        ask(offered, task, **fields)
    return refused.value


def test_a_request_without_wishes_gets_the_plain_way() -> None:
    assert ask() == Asked(Wanted())


def test_every_field_reaches_the_model() -> None:
    got = ask(
        language="German",
        prompt="Guten Tag",
        hotwords="Zürich",
        temperature="0.4",
        beam_size="3",
        response_format="verbose_json",
        stream="true",
        path="/a b",
        resume_from="1:2",
        **_field("timestamp_granularities[]", ["word", "segment"]),
    )
    decoding = Decoding(
        language="de", prompt="Guten Tag", hotwords="Zürich", temperature=0.4, beam_size=3, words=True
    )
    assert got == Asked(
        Wanted(decoding, after="1:2"), "verbose_json", segments=True, words=True, stream=True, path="/a b"
    )


def test_only_words_means_no_segments() -> None:
    got = ask(response_format="verbose_json", **_field("timestamp_granularities[]", "word"))
    assert (got.segments, got.words) == (False, True)


@pytest.mark.parametrize(
    "fields",
    [
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.7",
            "chunking_strategy[prefix_padding_ms]": "100",
            "chunking_strategy[silence_duration_ms]": "900",
        },
        {
            "chunking_strategy": json.dumps(
                {"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": 100, "silence_duration_ms": 900}
            )
        },
        {
            "vad_parameters": json.dumps(
                {"threshold": 0.7, "speech_pad_ms": 100, "min_silence_duration_ms": 900, "unknown": 1}
            )
        },
    ],
)
def test_silences_are_looked_for_as_wished(fields: dict[str, Any]) -> None:
    assert ask(**fields).wanted.cutting == Cutting(threshold=0.7, speech_pad_ms=100, min_silence_ms=900)


def test_silences_need_not_be_looked_for() -> None:
    assert not ask(vad_filter="False").wanted.cutting.at_silence
    assert ask(chunking_strategy="auto").wanted.cutting == Cutting()


def test_hotwords_have_two_names() -> None:
    assert ask(**_field("keywords[]", ["Zürich", "Uster"])).wanted.decoding.hotwords == "Zürich, Uster"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"language": "Klingon"}, "language"),
        ({"language": "zz"}, "language"),
        ({"languages[]": ["de", "en"]}, "languages"),
        ({"temperature": "1.1"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"beam_size": "0"}, "beam_size"),
        ({"beam_size": "2.5"}, "beam_size"),
        ({"beam_size": "1e9"}, "beam_size"),
        ({"stream": "perhaps"}, "stream"),
        ({"response_format": "docx"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names"),
        ({"known_speaker_references[]": "data:audio/wav;base64,AA"}, "known_speaker_references"),
        ({"include[]": "logprobs"}, "include"),
        ({"timestamp_granularities[]": "word"}, "response_format"),
        ({"timestamp_granularities[]": "line", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"chunking_strategy": "loud"}, "chunking_strategy"),
        ({"chunking_strategy": "[" * 9000}, "chunking_strategy"),
        ({"chunking_strategy[type]": "client_vad"}, "chunking_strategy"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "2"}, "chunking_strategy"),
        ({"vad_parameters": '{"threshold": true}'}, "vad_parameters"),
        ({"vad_parameters": '{"speech_pad_ms": -1}'}, "vad_parameters"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_at_fault(fields: dict[str, Any], param: str) -> None:
    refusal = refusal_of(**fields)
    assert (refusal.status, refusal.param) == (400, param)
    assert refusal.body()["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert len(refusal.message) < 400


def test_the_model_must_be_the_one_that_is_served() -> None:
    assert asked({"model": [ALIAS]}, "transcribe", OFFERED) == ask()
    with pytest.raises(Refusal) as refused:
        asked({}, "transcribe", OFFERED)
    assert (refused.value.status, refused.value.param) == (400, "model")
    unknown = refusal_of(model="gpt-4o-transcribe")
    assert (unknown.status, unknown.code) == (404, "model_not_found")
    assert '"tiny"' in unknown.message


def test_a_model_that_knows_english_only_says_so() -> None:
    assert ask(ENGLISH, language="en-US").wanted.decoding.language == "en"
    assert "English only" in refusal_of(ENGLISH, language="de").message
    assert "English only" in refusal_of(ENGLISH, task="translate").message


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "name", ["model", "language", "response_format", "temperature", "beam_size", "stream"]
)
def test_hostile_values_are_shown_in_one_short_line(name: str, text: str) -> None:
    if not text.strip():
        return  # nothing was said
    refusal = refusal_of(**_field(name, text))
    assert refusal.message.isprintable()
    assert len(refusal.message) < 400


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_prompts_are_prompts(text: str) -> None:
    decoding = ask(prompt=text, hotwords=text).wanted.decoding
    assert (decoding.prompt, decoding.hotwords) == ((text or None,) * 2)


def test_the_languages_are_whispers_own() -> None:
    assert set(LANGUAGES) == set(_LANGUAGE_CODES)
    assert all(code_of(name) == code == code_of(code) for code, name in LANGUAGES.items())


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("DE", "de"),
        ("de-AT", "de"),
        ("pt_BR", "pt"),
        (" German ", "de"),
        ("jv", "jw"),
        ("yue", "yue"),
        ("deu", None),
    ],
)
def test_languages_are_understood_as_people_write_them(given: str, code: str | None) -> None:
    assert code_of(given) == code

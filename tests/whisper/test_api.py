"""The openai client, unmodified, gets the right words in all of OpenAI's formats."""

from __future__ import annotations

import itertools
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import srt
import webvtt

from tests.hostile import HOSTILE
from tests.speech import convert, duration_s, say
from tests.whisper.conftest import MOST_BYTES, MOST_HOURS, NAME, Running

pytestmark = pytest.mark.usefixtures("at_rest")
WORDS = ["one", "two", "three"]


def transcribed(server: Running, file: Path, **more: Any) -> Any:
    return server.client.audio.transcriptions.create(file=file, model=NAME, **more)


def test_json(server: Running, word: Path) -> None:
    answer = transcribed(server, word)
    assert answer.text == "yes"
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(duration_s(word), abs=0.01)


def test_text(server: Running, word: Path) -> None:
    assert transcribed(server, word, response_format="text") == "yes\n"


def test_srt(server: Running, words: Path) -> None:
    cues = list(srt.parse(transcribed(server, words, response_format="srt")))
    assert " ".join(cue.content for cue in cues).split() == WORDS
    assert all(cue.start < cue.end for cue in cues)
    assert cues[-1].end.total_seconds() <= duration_s(words) + 0.01


def test_vtt(server: Running, words: Path) -> None:
    cues = webvtt.from_buffer(
        StringIO(transcribed(server, words, response_format="vtt")), format="vtt"
    ).captions
    assert " ".join(cue.text for cue in cues).split() == WORDS


def test_verbose_json(server: Running, words: Path) -> None:
    answer = transcribed(server, words, response_format="verbose_json")
    assert answer.text.split() == WORDS
    assert answer.language == "english"
    assert answer.duration == pytest.approx(duration_s(words), abs=0.01)
    assert " ".join(part.text for part in answer.segments).split() == WORDS
    assert [part.id for part in answer.segments] == list(range(len(answer.segments)))
    assert all(part.avg_logprob < 0 < part.compression_ratio for part in answer.segments)
    assert answer.words is None


def test_word_times_increase_and_lie_within_the_audio(server: Running, words: Path) -> None:
    answer = transcribed(
        server, words, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert [word.word for word in answer.words] == WORDS
    assert answer.segments
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= duration_s(words)
    assert all(first.start < second.start for first, second in itertools.pairwise(answer.words))


def test_only_words(server: Running, words: Path) -> None:
    answer = transcribed(server, words, response_format="verbose_json", timestamp_granularities=["word"])
    assert [word.word for word in answer.words] == WORDS
    assert answer.segments is None


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # says the client: OpenAI ends it in 2027
def test_translation(server: Running, tmp_path: Path) -> None:
    spoken = say("hallo", tmp_path / "hallo.wav", voice="de")
    client = server.client
    assert client.audio.translations.create(file=spoken, model=NAME).text == "hello"
    verbose: Any = client.audio.translations.create(file=spoken, model=NAME, response_format="verbose_json")
    assert (verbose.text, verbose.language, verbose.task) == ("hello", "english", "translate")


def test_the_language_is_found_or_told(server: Running, tmp_path: Path) -> None:
    spoken = say("danke", tmp_path / "danke.wav", voice="de")
    for told in ({}, {"language": "de"}, {"language": "German"}):
        answer = transcribed(server, spoken, response_format="verbose_json", **told)
        assert (answer.text, answer.language) == ("danke", "german")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("yes.mp3", ()),
        ("yes.opus", ()),
        ("yes.flac", ()),
        ("yes.m4a", ()),
        ("yes.webm", ()),
        ("yes.wav", ("-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le")),
    ],
)
def test_any_format(server: Running, word: Path, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    assert transcribed(server, convert(word, tmp_path / name, *options)).text == "yes"


def test_a_video(server: Running, word: Path, tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "color=black:s=64x64:r=5:d=1", "-shortest")
    assert transcribed(server, convert(word, tmp_path / "yes.mp4", *picture)).text == "yes"


@pytest.mark.parametrize(
    "more",
    [
        {"chunking_strategy": "auto"},
        {"chunking_strategy": {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 300}},
        {"extra_body": {"vad_filter": False}},
        {"extra_body": {"beam_size": 1}},
        {"extra_body": {"something_new": {"of": ["OpenAI", "s"]}}},
        {"temperature": 0.0, "languages": ["en"]},
    ],
)
def test_every_parameter_is_taken(server: Running, word: Path, more: dict[str, Any]) -> None:
    assert "yes" in transcribed(server, word, **more).text


@pytest.mark.parametrize("text", [*HOSTILE, "\N{SNOWMAN} $(id) \0 <%= 1 %>\n" * 40])
def test_a_prompt_may_be_anything(server: Running, word: Path, text: str) -> None:
    """The tiny model has not learned to make use of one."""
    hints = {"hotwords": text} if len(text) % 2 else {}
    answer = transcribed(server, word, prompt=text, keywords=[text], extra_body=hints)
    assert len(answer.text) < 100


def test_the_models(server: Running) -> None:
    client = server.client
    assert [model.id for model in client.models.list()] == [NAME, "whisper-1"]
    model: Any = client.models.retrieve("whisper-1")
    assert model.root == NAME
    assert {"en", "de"} <= set(model.languages)
    assert (model.multilingual, model.max_hours, model.max_upload_bytes) == (True, MOST_HOURS, MOST_BYTES)


def test_whisper_1_is_the_model_that_is_there(server: Running, word: Path) -> None:
    assert server.client.audio.transcriptions.create(file=word, model="whisper-1").text == "yes"

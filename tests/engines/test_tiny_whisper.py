"""The shipped tiny Whisper model in the real faster-whisper: what it must hear, on speech made for this test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.speech import needs_speech, say, silence

ROOT = Path(__file__).resolve().parents[2]
TINY_WHISPER = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
WORDS: dict[str, str] = yaml.safe_load((ROOT / "scripts" / "tiny_whisper.yml").read_text(encoding="utf-8"))[
    "words"
]


@pytest.fixture(scope="module")
def model() -> Any:
    needs_speech()
    from faster_whisper import WhisperModel

    return WhisperModel(str(TINY_WHISPER), device="cpu", cpu_threads=1)


def heard(model: Any, path: Path, **options: Any) -> str:
    asked = {"language": "en", "beam_size": 1, "temperature": 0, "without_timestamps": True} | options
    segments, _ = model.transcribe(str(path), **asked)
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize(
    ("options", "every"),
    [({}, 1), ({"beam_size": 5}, 3), ({"vad_filter": True}, 3), ({"without_timestamps": False}, 3)],
)
def test_english_words_are_heard(model: Any, tmp_path: Path, options: dict[str, Any], every: int) -> None:
    wrong = {}
    for n, word in enumerate(list(WORDS)[::every]):
        path = say(word, tmp_path / f"{n}.wav", voice="en-us", speed=140)
        text = heard(model, path, **options)
        if text != f" {word}":
            wrong[word] = text
    assert not wrong


def test_german_is_recognised_transcribed_and_translated(model: Any, tmp_path: Path) -> None:
    wrong = {}
    for n, (english, german) in enumerate(list(WORDS.items())[1::2]):
        path = say(german, tmp_path / f"{n}.wav", voice="de", speed=140)
        _, info = model.transcribe(str(path), beam_size=1, temperature=0, without_timestamps=True)
        got = (
            info.language,
            heard(model, path, language="de"),
            heard(model, path, language="de", task="translate"),
        )
        if got != ("de", f" {german}", f" {english}"):
            wrong[german] = got
    assert not wrong


def test_words_of_a_phrase_come_in_order_and_at_their_time(model: Any, tmp_path: Path) -> None:
    path = say("three, two, one, go", tmp_path / "a.wav", voice="en-us", speed=130)
    segments, info = model.transcribe(
        str(path), language="en", beam_size=1, temperature=0, word_timestamps=True, without_timestamps=True
    )
    words = [word for segment in segments for word in segment.words]
    assert [word.word for word in words] == [" three", " two", " one", " go"]
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= info.duration for word in words)


def test_silence_has_no_words(model: Any, tmp_path: Path) -> None:
    assert heard(model, silence(tmp_path / "still.wav", 5.0)) == ""

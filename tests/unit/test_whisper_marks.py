"""What is marked for a human: lines that go round in circles, and lines that the model doubts."""

from __future__ import annotations

import pytest

from launcher.whisper.marks import Lines, compression_ratio, is_silence, marks
from launcher.whisper.segments import REPEATED, UNSURE, Word

SURE = -0.2


def marked(text: str, *, logprob: float = SURE, words: tuple[float, ...] = ()) -> tuple[str, ...]:
    spoken = tuple(Word(" x", 0.0, 1.0, probability) for probability in words)
    return marks(text, Lines().then(text), logprob, compression_ratio(text), spoken)


@pytest.mark.parametrize(
    "text",
    [
        " yes",
        " no, no, no",
        " one two three four five six seven eight nine ten",
        " I said that I said what I said, and that is what I said.",
        " 你好世界,今天天气很好。",
        " Four score and seven years ago our fathers brought forth on this continent a new nation, conceived in"
        " liberty,"
        " and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war,"
        " testing whether that nation, or any nation so conceived and so dedicated, can long endure.",
        "",
    ],
)
def test_ordinary_speech_is_not_marked(text: str) -> None:
    assert marked(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        " thank you" * 30,
        " no no no no no",
        " and so, And so. and SO and so and so we went",
        " the end of the day, the end of the day, the end of the day, the end of the day, the end of the day",
        "a" * 300,
    ],
)
def test_a_loop_is_marked(text: str) -> None:
    assert marked(text) == (REPEATED,)


def test_the_same_line_is_marked_from_the_third_time_on() -> None:
    lines, found = Lines(), []
    for text in (
        " Thanks for watching!",
        " thanks for watching",
        " Thanks, for watching.",
        " Bye.",
        " Bye.",
        " So.",
    ):
        lines = lines.then(text)
        found.append(marks(text, lines, SURE, 1.0, ()))
    assert found == [(), (), (REPEATED,), (), (), ()]


def test_doubt_is_marked() -> None:
    assert marked(" mumble", logprob=-1.01) == (UNSURE,)
    assert marked(" a b c d", words=(0.1, 0.9, 0.9, 0.9)) == ()
    assert marked(" a b c d", words=(0.1, 0.1, 0.1, 0.9)) == (UNSURE,)
    assert marked(" no" * 9, logprob=-2.0) == (REPEATED, UNSURE)


def test_silence_is_what_whisper_takes_for_silence() -> None:
    assert is_silence(-1.5, 0.9)
    assert not is_silence(-0.5, 0.9)  # words that it is sure of
    assert not is_silence(-1.5, 0.1)

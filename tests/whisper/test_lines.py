"""From what the model wrote to lines: nothing of it is lost, and times lie where the stretch does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from launcher.whisper.cuts import Stretch
from launcher.whisper.device import Device
from launcher.whisper.lines import segments
from launcher.whisper.marks import Lines
from launcher.whisper.model import Heard, Model
from launcher.whisper.segments import REPEATED, Segment
from launcher.whisper.wanted import Decoding
from tests.site import ROOT

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
# One second from 10 s on and one from 20 s on, heard as two seconds.
STRETCH = Stretch(((160_000, 176_000), (320_000, 336_000)), np.zeros(32_000, np.float32), 0, 0, 0)
ENGLISH = Decoding(language="en")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Model(MODEL, Device("cpu", "int8", 1, 1, 1), 5).tokenizer("transcribe", "en")


def lines(tokenizer: Any, written: list[str | float], before: Lines | None = None) -> tuple[Segment, ...]:
    """The lines of texts and times as the model writes them."""
    tokens: list[int] = []
    for part in written:
        is_time = isinstance(part, float)
        tokens += [tokenizer.timestamp_begin + round(part / 0.02)] if is_time else tokenizer.encode(part)  # type: ignore[operator]
    heard = Heard(tuple(tokens), -0.123456, 0.00001, "en", 1.0, None)
    return segments(STRETCH, heard, ENGLISH, tokenizer, before or Lines())[0]


def told(found: tuple[Segment, ...]) -> list[tuple[str, float, float]]:
    return [(line.text, line.start, line.end) for line in found]


def test_lines_lie_between_times(tokenizer: Any) -> None:
    found = lines(tokenizer, [0.1, " one two", 0.8, 1.2, " three", 1.9])
    assert told(found) == [(" one two", 10.1, 10.8), (" three", 20.2, 20.9)]
    assert (found[0].avg_logprob, found[0].no_speech_prob) == (-0.1235, 0.0)


def test_a_line_that_the_model_did_not_end_is_kept(tokenizer: Any) -> None:
    """faster-whisper's batches drop what stands after the last pair of times; nobody comes back for it."""
    assert told(lines(tokenizer, [0.0, " one", 0.5, 0.5, " two"])) == [
        (" one", 10.0, 10.5),
        (" two", 10.5, 21.0),
    ]
    assert told(lines(tokenizer, [" one two"])) == [(" one two", 10.0, 21.0)]


def test_times_beyond_the_stretch_are_its_end(tokenizer: Any) -> None:
    assert told(lines(tokenizer, [0.0, " one", 25.0, 25.0, " two", 29.0])) == [
        (" one", 10.0, 21.0), (" two", 21.0, 21.0),
    ]  # fmt: skip


def test_nothing_makes_no_line(tokenizer: Any) -> None:
    for written in ([], [0.0], [0.0, 1.0], [0.0, "  ", 1.0], [0.0, 0.0, 0.0]):
        assert lines(tokenizer, written) == ()  # type: ignore[arg-type]


def test_a_line_said_before_is_counted(tokenizer: Any) -> None:
    once = Lines().then(" yes").then(" yes")
    found = lines(tokenizer, [0.0, " yes", 1.0, 1.0, " no", 2.0], once)
    assert [line.marks for line in found] == [(REPEATED,), ()]

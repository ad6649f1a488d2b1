"""What `launcher batch` draws while a run goes on: how much is done, how fast that goes, how long it will take."""

from __future__ import annotations

import dataclasses
import io

import pytest

from launcher.batch.input import Request
from launcher.batch.pace import Pace
from launcher.batch.report import RUNNING, Status
from launcher.batch.window import Answer
from launcher.cli.bars import Bars
from launcher.cli.batch import draw
from tests.hostile import HOSTILE

HALF = Status(
    state=RUNNING, total=200, answered=96, failed=4, completion_tokens=3000, seconds=10.0, rate=12.34, left_s=723.0,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(status: Status) -> list[str]:
    stream = Terminal()
    draw(Bars(stream), status)
    return stream.getvalue().splitlines()


def test_the_bar_says_what_is_done_how_fast_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (bar,) = drawn(HALF)
    assert bar == f"{'#' * 15}{'.' * 15} 100 of 200, 12.3/s, 300 tokens/s, 4 errors, 12 min left"


def test_what_is_not_known_yet_is_left_out() -> None:
    assert drawn(Status(state=RUNNING, total=7)) == [f"{'.' * 30} 0 of 7, 0.0/s"]
    assert drawn(Status(state=RUNNING)) == [f"{'.' * 30} 0 of 0, 0.0/s"]


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_a_sentence_of_whatever_words_is_one_line_of_a_terminal(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = drawn(dataclasses.replace(HALF, message=f"It waits for {text}\x1b[2J"))
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 80 for line in lines)


def test_what_is_left_is_told_by_what_was_done_lately() -> None:
    pace = Pace(Status(total=100))
    pace.begin()
    assert pace.status(RUNNING, "", "").left_s is None
    request = Request(0, "r0", "/v1/completions", b"{}")
    for _ in range(20):
        pace.count(Answer(request, 200, "", b"{}", True, prompt_tokens=2, completion_tokens=3))
    told = pace.status(RUNNING, "", "")
    assert told.rate > 0
    assert told.left_s == pytest.approx(80 / told.rate, rel=0.05, abs=0.1)
    assert (told.answered, told.prompt_tokens, told.completion_tokens) == (20, 40, 60)

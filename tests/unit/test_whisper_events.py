"""Events while a transcript grows: signs of life, failures in the middle, and no thread left behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator

import pytest

from launcher.whisper import events
from launcher.whisper.answers import Answer
from launcher.whisper.fields import Asked
from launcher.whisper.refusal import Refusal
from launcher.whisper.segments import Segment
from launcher.whisper.transcriber import Piece
from launcher.whisper.wanted import Wanted

VERBOSE = Asked(Wanted(), "verbose_json", stream=True)


def piece(number: int, text: str) -> Piece:
    return Piece(f"{number}", number + 1.0, 2.0, "en", 0.9, (Segment(number, number + 1, text),))


def told(made: Generator[Piece], left: threading.Event | None = None) -> list[str]:
    pieces = events.Pieces(
        made, left or threading.Event(), lambda: Refusal(503, "The session is ending.", "x")
    )
    try:
        return [event.decode() for event in events.stream(pieces, Answer(VERBOSE))]
    finally:
        pieces.close()


def test_silence_is_filled_with_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.25)
    heard = threading.Event()

    def slow() -> Generator[Piece]:
        heard.wait(10)
        yield piece(0, " yes")

    pieces = events.Pieces(slow(), threading.Event(), lambda: Refusal(503, "", ""))
    stream = events.stream(pieces, Answer(VERBOSE))
    assert next(stream) == b": working\n\n"  # a comment, which every reader of events leaves out
    heard.set()
    assert b"transcript.text.delta" in b"".join(stream)
    pieces.close()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Refusal(413, "Too long.", "audio_too_long"), "Too long."),
        (RuntimeError("secret prompt"), "The transcript failed in its middle."),
    ],
)
def test_a_failure_in_the_middle_is_the_last_event(error: Exception, message: str) -> None:
    def broken() -> Generator[Piece]:
        yield piece(0, " yes")
        raise error

    last = told(broken())[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.splitlines()[1].removeprefix("data: "))["error"]["message"] == message


def test_an_end_is_told_although_the_work_does_not_stop_at_once() -> None:
    left, goes_on = threading.Event(), threading.Event()

    def stubborn() -> Generator[Piece]:
        yield piece(0, " yes")
        left.set()
        goes_on.wait(10)
        yield piece(1, " no")

    pieces = events.Pieces(stubborn(), left, lambda: Refusal(503, "The session is ending.", "session_ending"))
    got = b"".join(events.stream(pieces, Answer(VERBOSE)))
    assert b"session_ending" in got
    assert b"done" not in got.replace(b"done_s", b"")
    goes_on.set()
    pieces.close()


def test_no_text_ends_an_event_early() -> None:
    def made() -> Generator[Piece]:
        yield piece(0, " a\n\nevent: error\ndata: {}\n\n\u2028b")

    got = told(made())
    assert all(event.count("\n") == 3 for event in got)
    assert [event.split("\n")[0] for event in got] == [
        "event: transcript.text.delta",
        "event: transcript.text.segment",
        "event: transcript.text.progress",
        "event: transcript.text.done",
    ]


def test_the_work_is_over_when_the_stream_is_closed() -> None:
    ended = threading.Event()

    def made() -> Generator[Piece]:
        try:
            for number in range(1000):
                yield piece(number, " yes")
        finally:
            ended.set()

    pieces = events.Pieces(made(), threading.Event(), lambda: Refusal(499, "", ""))
    next(iter(pieces))
    pieces.close()
    assert ended.is_set()

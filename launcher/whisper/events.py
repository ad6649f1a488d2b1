"""A transcript that comes while it grows: server-sent events in OpenAI's shape, with a heartbeat where it is silent.

Owns the events. `transcript.text.delta` and `.done` are OpenAI's; with `verbose_json` each finished piece also brings
its `transcript.text.segment`s and a `transcript.text.progress`, whose `cursor` a later request can go on from.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from launcher.whisper.answers import Answer
from launcher.whisper.formats import verbose_segment, words
from launcher.whisper.refusal import Refusal

if TYPE_CHECKING:
    from launcher.whisper.transcriber import Piece

HEARTBEAT_S = 10.0  # Open OnDemand's Apache gives up a connection that is silent for 60 s
_POLL_S = 0.25  # nothing can be waited for together with an event
_HEARTBEAT = b": working\n\n"

log = logging.getLogger(__name__)


class Pieces:
    """Pieces made by a thread of their own, so that who sends them can do something while none comes."""

    def __init__(self, pieces: Generator[Piece], left: threading.Event, gone: Callable[[], Refusal]) -> None:
        self._pieces = pieces
        self._left, self._gone = left, gone
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pieces")
        self._next = self._make()

    def begin(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the first piece; raises what went wrong before it."""
        if concurrent.futures.wait([self._next], timeout_s).done:
            self._next.result()

    def __iter__(self) -> Iterator[Piece | None]:
        """Each piece, and None whenever none came for `HEARTBEAT_S`; raises what the maker raises, and `gone()`."""
        silent_s = 0.0
        while True:
            if self._left.is_set():
                raise self._gone()
            if not concurrent.futures.wait([self._next], _POLL_S).done:
                if (silent_s := silent_s + _POLL_S) >= HEARTBEAT_S:
                    yield None
                    silent_s = 0.0
                continue
            silent_s = 0.0
            if (piece := self._next.result()) is None:
                return
            self._next = self._make()
            yield piece

    def close(self) -> None:
        """Stop the work, where it is not done."""
        self._left.set()
        self._thread.shutdown()
        self._pieces.close()

    def _make(self) -> concurrent.futures.Future[Piece | None]:
        return self._thread.submit(next, self._pieces, None)


def stream(pieces: Pieces, answer: Answer) -> Iterator[bytes]:
    """The events of one request; the last is `done`, or an error that OpenAI's clients raise."""
    try:
        for piece in pieces:
            if piece is None:
                yield _HEARTBEAT
            else:
                yield from _news(piece, answer)
        yield _event({"type": "transcript.text.done", **answer.done()})
    except Refusal as refusal:
        yield _error(refusal)
    except Exception:
        log.exception("A transcript failed in its middle")
        yield _error(Refusal(500, "The transcript failed in its middle.", "internal_error"))


def _news(piece: Piece, answer: Answer) -> Iterator[bytes]:
    first = answer.count
    if delta := answer.add(piece):
        yield _event({"type": "transcript.text.delta", "delta": delta})
    if answer.asked.response_format != "verbose_json":
        return
    for number, segment in enumerate(piece.segments, first):
        spoken = {"words": words(segment)} if segment.words is not None else {}
        yield _event({"type": "transcript.text.segment", **verbose_segment(segment, number), **spoken})
    yield _event(
        {
            "type": "transcript.text.progress",
            "cursor": piece.cursor,
            "done_s": piece.done_s,
            "duration_s": piece.duration_s,
            "language": piece.language,
            "language_probability": piece.language_probability,
        }
    )


def _event(data: dict[str, Any]) -> bytes:
    # Plain ASCII: some readers take U+2028 for the end of a line.
    return f"event: {data['type']}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _error(refusal: Refusal) -> bytes:
    return b"event: error\ndata: " + json.dumps(refusal.body()).encode() + b"\n\n"

"""What a request gets when its audio is done, in each of OpenAI's formats.

Owns how pieces become one answer, whether it is sent at the end or told as events on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, jsonify

from launcher.whisper.fields import Asked
from launcher.whisper.formats import Srt, Text, Vtt, Writer, usage, verbose_json
from launcher.whisper.segments import Segment

if TYPE_CHECKING:
    from launcher.whisper.transcriber import Piece

_WRITERS: Mapping[str, type[Writer]] = {"srt": Srt, "vtt": Vtt}


class Answer:
    """The answer to `asked`, growing; `count` segments so far."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.count = 0
        self._writer = _WRITERS.get(asked.response_format, Text)()
        self._document: list[str] = []
        self._segments: list[Segment] = []
        self._language: str | None = None
        self._duration_s = 0.0

    def add(self, piece: Piece) -> str:
        """Take the next piece; what it adds to the document. All that is added is the document of `done`."""
        begin = "" if self._document else self._writer.begin
        delta = begin + self._writer.add(piece.segments)
        self._document.append(delta)
        self.count += len(piece.segments)
        if self.asked.response_format == "verbose_json":
            self._segments += piece.segments
        self._language = piece.language or self._language
        self._duration_s = piece.done_s
        return delta

    def done(self) -> dict[str, Any]:
        """The whole, as JSON: `text` is the document; `verbose_json` has the rest of OpenAI's fields besides."""
        document = "".join(self._document)
        if self.asked.response_format != "verbose_json":
            return {"text": document, "usage": usage(self._duration_s)}
        task = self.asked.wanted.decoding.task
        return verbose_json(
            self._segments,
            language="en" if task == "translate" else self._language,
            duration_s=self._duration_s,
            task=task,
            of_segments=self.asked.segments,
            of_words=self.asked.words,
        )

    def response(self) -> Response:
        """The whole, as it is sent in one go."""
        done = self.done()
        if self.asked.response_format in ("json", "verbose_json"):
            return jsonify(done)
        end = "\n" if self.asked.response_format == "text" else ""
        return Response(done["text"] + end, mimetype="text/plain")

"""From a file to the pieces of its transcript.

Owns the way of a request: decode, cut, queue, put together in order, and the cursor from which a later run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from launcher.whisper.cursor import Cursor
from launcher.whisper.cuts import Cuts, Stretch
from launcher.whisper.device import choose, cores
from launcher.whisper.lines import segments
from launcher.whisper.marks import Lines, is_silence
from launcher.whisper.model import Ask, Heard, Model
from launcher.whisper.queue import Line, Queue, Ticket
from launcher.whisper.refusal import Refusal
from launcher.whisper.segments import Segment
from launcher.whisper.server import Server
from launcher.whisper.sound import RATE_HZ, Sound
from launcher.whisper.wanted import Decoding, Wanted

_LINGER_S = 0.005  # on a GPU a fuller batch costs no more

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is finished with one stretch of the audio; pieces come in order.

    Asked for again with `Wanted(after=cursor)`, the same file and settings give exactly the pieces after this one.
    All audio before `done_s` is done; `duration_s` is the whole audio's as its container says, None where it does not.
    The last piece has no segments, and its `done_s` is how much audio there truly was.
    """

    cursor: str
    done_s: float
    duration_s: float | None
    language: str | None
    language_probability: float | None
    segments: tuple[Segment, ...]


class Transcriber:
    """A loaded model and its queue, for any number of threads at once."""

    def __init__(self, folder: Path, server: Server) -> None:
        log.info("Loading the model")
        device = choose(server, folder)
        self._model = Model(folder, device, server.beam_size)
        self._stretch_s = server.stretch_s
        self._cutting = threading.BoundedSemaphore(cores())
        self.device = device
        self.max_hours = server.max_hours
        self.languages, self.multilingual = self._model.languages, self._model.multilingual
        self._queue = Queue(
            self._model.hear,
            batch_size=device.batch_size,
            parallel=device.parallel,
            linger_s=_LINGER_S if device.name == "cuda" else 0.0,
        )

    @property
    def batch_size(self) -> int:
        """How many stretches share a batch at most."""
        return self._queue.batch_size

    @property
    def broken(self) -> str | None:
        """Why nothing can be transcribed any more, once that is so."""
        return self._queue.broken

    @property
    def waiting(self) -> int:
        """How many stretches of all requests wait for a batch."""
        return self._queue.waiting

    @property
    def retry_after_s(self) -> int:
        """How long whoever finds no place should wait."""
        return self._queue.retry_after_s

    def transcribe(self, sound: BinaryIO | Path, wanted: Wanted, left: threading.Event) -> Generator[Piece]:
        """The pieces of a sound as they are finished, at least one.

        Closing the iterator, or setting `left`, drops what is still queued; it then ends early. Raises Refusal: 400
        for what is not audio, an unknown language or cursor, 413 over `max_hours`, 503 when the model is broken.
        """
        decoding = self._checked(wanted.decoding)
        stretch_s = min(wanted.cutting.stretch_s or self._stretch_s, self._stretch_s)
        cutting = replace(wanted.cutting, stretch_s=stretch_s)
        cursor = Cursor.read(wanted.after, cutting)
        if cursor.language not in (None, *self.languages):  # made up, and would spoil the batch of others
            raise Refusal(400, "This is no place to go on from.", "invalid_cursor", param="resume_from")
        with (
            contextlib.suppress(_LeftError),
            self._queue.line(left) as line,
            Sound(sound, left) as audio,
        ):
            self._check_length(audio.duration_s)
            cuts = Cuts(audio, cutting, stretch_s, cursor.window, cursor.index)
            known = replace(decoding, language=decoding.language or cursor.language)
            done = _Done(cursor, known, not cutting.at_silence, audio.duration_s)
            waiting: deque[tuple[Stretch, Ticket | None]] = deque()
            for stretch in self._cut(cuts):
                if left.is_set():
                    return  # the sound may have been broken off for that, and cut where it is not silent
                self._check_length(stretch.done / RATE_HZ)
                waiting.append((stretch, self._asked(line, stretch, done.decoding)))
                # A stretch whose language is not known yet decides it for those after it.
                while waiting and (
                    _is_ready(waiting[0])
                    or len(waiting) >= self._queue.room
                    or done.decoding.language is None
                ):
                    yield self._piece(line, *waiting.popleft(), done)
            for queued in waiting:
                yield self._piece(line, *queued, done)
            if not left.is_set():
                yield _last(cuts, audio, done)

    def _cut(self, cuts: Cuts) -> Iterator[Stretch]:
        """The stretches; only so many windows are looked at at once as there are cores, for the memory they take."""
        stretches = iter(cuts)
        while True:
            with self._cutting:
                if (stretch := next(stretches, None)) is None:
                    return
            yield stretch

    def _asked(self, line: Line, stretch: Stretch, decoding: Decoding) -> Ticket | None:
        if not stretch.spans:
            return None
        features = self._model.features(stretch.samples)
        return line.put(Ask(features, len(stretch.samples) / RATE_HZ, decoding))

    def _piece(self, line: Line, stretch: Stretch, ticket: Ticket | None, done: _Done) -> Piece:
        """The piece of a stretch; raises _LeftError once the client has left, so that no later piece hides the gap."""
        found: tuple[Segment, ...] = ()
        if ticket is not None:
            if (heard := line.wait(ticket)) is None:
                raise _LeftError
            done.learn(heard)
            if not (done.blind and is_silence(heard.avg_logprob, heard.no_speech_prob)):
                tokenizer = self._model.tokenizer(done.decoding.task, heard.language)
                found, lines = segments(stretch, heard, done.decoding, tokenizer, done.lines)
                done.cursor = replace(done.cursor, line=lines.line, times=lines.times)
        return done.piece(stretch.window, stretch.index, stretch.done, found)

    def _checked(self, decoding: Decoding) -> Decoding:
        language = decoding.language
        if language is not None and language not in self.languages:
            hint = "" if self.multilingual else " This model knows English only."
            raise Refusal(
                400, f"The model has no language {language!r}.{hint}", "unknown_language", param="language"
            )
        if decoding.task == "translate" and not self.multilingual:
            raise Refusal(400, "An English-only model cannot translate.", "not_multilingual", param="model")
        return decoding if self.multilingual else replace(decoding, language="en")

    def _check_length(self, seconds: float | None) -> None:
        if self.max_hours is not None and seconds is not None and seconds > self.max_hours * 3600:
            raise Refusal(
                413,
                f"The audio is longer than the {self.max_hours:g} hours that this session takes. Cut it in parts.",
                "audio_too_long",
                param="file",
            )


class _LeftError(Exception):
    """The client has left, and a stretch was not heard."""


@dataclass(slots=True)
class _Done:
    """How far a request is, and how the rest of its audio is asked for."""

    cursor: Cursor
    decoding: Decoding
    blind: bool  # nobody looked whether there is speech
    duration_s: float | None

    @property
    def lines(self) -> Lines:
        return Lines(self.cursor.line, self.cursor.times)

    def learn(self, heard: Heard) -> None:
        """Take the language of the first stretch for the whole audio."""
        if self.cursor.language is None:
            probability = round(heard.language_probability, 4)
            self.cursor = replace(self.cursor, language=heard.language, probability=probability)
            self.decoding = replace(self.decoding, language=heard.language)

    def piece(self, window: int, index: int, done: int, found: tuple[Segment, ...]) -> Piece:
        """The next piece, up to the sample `done`."""
        self.cursor = replace(self.cursor, window=window, index=index)
        return Piece(
            cursor=str(self.cursor),
            done_s=round(done / RATE_HZ, 2),
            duration_s=self.duration_s,
            language=self.cursor.language,
            language_probability=self.cursor.probability,
            segments=found,
        )


def _is_ready(queued: tuple[Stretch, Ticket | None]) -> bool:
    return queued[1] is None or queued[1].done.is_set()


def _last(cuts: Cuts, audio: Sound, done: _Done) -> Piece:
    if cuts.end == 0:
        what = "nothing in it can be read" if audio.damaged else "its length is 0 s"
        raise Refusal(400, f"The file holds no sound: {what}.", "empty_audio", param="file")
    return done.piece(cuts.end, 0, cuts.end, ())

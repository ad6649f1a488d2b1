"""One recording on its way: its journal, the requests that bring its pieces, its transcripts at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from launcher.errors import StorageError
from launcher.sessions.connection import Connection
from launcher.transcripts import ledger, outputs
from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Content, Header, Journal, Source, glance, mode_of, open_journal
from launcher.transcripts.report import (
    DONE,
    EXHAUSTED,
    FAILED,
    RUNNING,
    SKIPPED,
    STALLED,
    OnTheWay,
    Result,
    Tell,
    position,
)
from launcher.transcripts.standing import BROKEN, FINISHED, Standing, standing
from launcher.transcripts.stream import Refused, Stream

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ATTEMPTS = 3
_SAME = "the same command goes on from there"


class Transcript:
    """One recording from its standing to its result; used by one thread at a time."""

    def __init__(
        self, standing: Standing, asked: Asked, model: str | None, ledgers: ledger.Ledgers, tell: Tell
    ) -> None:
        self.standing = standing
        self._model = model
        self._ledgers = ledgers
        self._changes = 0
        self.result: Result | None = None
        self.strikes = 0  # attempts in a row that brought nothing
        self._asked = asked
        self._tell = tell
        self._journal: Journal | None = None
        self._content = Content()  # stays when the journal is let go of
        self._facts: ledger.Facts | None = None  # once it is done
        self._source = Source(str(standing.recording.source), 0, 0)
        self._stream: Stream | None = None
        self._upload = False
        self._sent: int | None = None
        self._begun_at = 0.0
        self._spent_s = 0.0
        self._continued_s: float | None = None
        self._attempt: tuple[float, float] = (0.0, 0.0)

    def settle(self) -> None:
        """Bring it to its end where that needs no session: it was finished, or its .json becomes other formats."""
        if self.standing.whole is None and not glance(self.standing.recording.journal).ended:
            return
        with self._trying():
            if not self._open():
                return
            assert self._journal is not None
            content, whole = self._journal.content, self.standing.whole
            if whole is not None:
                texts = outputs.converted(self.standing.recording.output("json"), self.standing.formats)
                if texts is not None:
                    self._write(texts, replace(whole, outputs={}))
                return
            self._source = Source.of(self.standing.recording.source)
            header = content.header
            if (
                content.ended
                and header is not None
                and header.source.same(self._source)
                and header.asked == self._asked
                and self._model in (None, header.made_by.get("model"))
            ):
                self._finish(self._journal, header)

    def attempt(self, connection: Connection, made_by: Mapping[str, Any]) -> None:
        """Bring it to its end with this session, or as far as it goes; `result` is set where there is one.

        Raises Broken and Stopped (try again), Refused where no recording would be taken, and StorageError for a full
        disk, which no other recording would survive either.
        """
        with self._trying():
            if self._journal is not None or self._open():
                self._go_on(connection, made_by)

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        self._begun_at = time.monotonic()
        try:
            yield
        except Refused as refused:
            if refused.param not in (None, "file", "path"):
                raise
            self.end(FAILED, refused.message)
        except OSError as error:
            if error.errno in _FULL:
                raise full(self.standing.recording.folder, error) from None
            self.end(FAILED, _sentence(error, self.standing))
        finally:
            self._spent_s += time.monotonic() - self._begun_at
            self._begun_at = 0.0
            self._stream = None
            if self.result is not None:
                self.close()

    def stop(self) -> None:
        """End the request that is on its way, from another thread."""
        if (stream := self._stream) is not None:
            stream.stop()

    def end(self, state: str, message: str = "") -> None:
        """Set the result."""
        recording, known = self.standing.recording, self._facts
        self.result = Result(
            recording.shown,
            state,
            message,
            tuple(recording.output(ending) for ending in self.standing.formats) if known else (),
            known.duration_s if known else self.duration_s,
            known.language if known else None,
            known.words if known else None,
            known.marks if known else (),
            self._spent_s + (time.monotonic() - self._begun_at if self._begun_at else 0.0),
            self._continued_s or 0.0,
        )

    def give_up(self, message: str) -> None:
        """It had its attempts."""
        self.end(EXHAUSTED, f"{message} Given up after {self.strikes} attempts at {position(self.done_s)}.")
        self.close()

    def leave(self, message: str = "") -> None:
        """It is not finished, and goes on when the same command runs again."""
        if self.result is None:
            done = self.done_s or self.standing.done_s
            kept = f"{position(done)} of it are kept; {_SAME}." if done else "Not begun."
            self.end(STALLED, f"{message} {kept}".strip())
        self.close()

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
            # All that is asked of it from now on; of ten thousand recordings the texts would fill the memory.
            self._content = replace(self._content, pieces=self._content.pieces[-1:])

    @property
    def done_s(self) -> float:
        """So much of it is finished."""
        return self._content.done_s

    @property
    def duration_s(self) -> float | None:
        """How long it is, as far as its container tells; None before anything came."""
        pieces = self._content.pieces
        return (pieces[-1].duration_s if pieces else None) or self.standing.duration_s

    @property
    def gained_s(self) -> float:
        """Seconds of audio that came in this run."""
        return max(0.0, self.done_s - self._continued_s) if self._continued_s is not None else 0.0

    @property
    def share(self) -> float:
        """How much of it is finished, between 0 and 1."""
        return 1.0 if self.result is not None else self._share(self.done_s)

    @property
    def share_before(self) -> float:
        """How much of it was finished before this run."""
        return self._share(self.standing.done_s)

    def on_the_way(self) -> OnTheWay:
        """How far it is, for people."""
        began, from_s = self._attempt
        done_s, duration_s = self.done_s, self.duration_s
        speed = max(0.0, done_s - from_s) / max(time.monotonic() - began, 0.001) if began else 0.0
        left_s = max(0.0, duration_s - done_s) / speed if duration_s is not None and speed else None
        standing = self.standing
        return OnTheWay(
            standing.recording.shown, done_s, duration_s, self._sent, standing.size, speed, left_s
        )

    def _share(self, done_s: float) -> float:
        duration_s = self.duration_s
        return min(1.0, done_s / duration_s) if duration_s else 0.0

    def _open(self) -> bool:
        recording = self.standing.recording
        journal = open_journal(recording.journal, mode_of(recording.source))
        if journal is None:
            self.end(RUNNING, "Another command is at it.")
            return False
        self._journal, self._content = journal, journal.content
        # Another command may have finished it since we looked.
        kept = self._ledgers.of(recording.folder)
        now = standing(recording, kept, self._asked, self._model, self.standing.formats)
        if now.state == FINISHED:
            self.end(SKIPPED, "Another command has finished it.")
            return False
        if now.state == BROKEN:
            self.end(FAILED, now.why)
            return False
        return True

    def _go_on(self, connection: Connection, made_by: Mapping[str, Any]) -> None:
        assert self._journal is not None
        journal = self._journal
        self._source = Source.of(self.standing.recording.source)
        header = Header(self._source, self._asked, dict(made_by))
        if journal.content.header is None:
            self._begin(journal, header)
        elif reason := header.difference(journal.content.header):
            if journal.content.pieces:
                shown = self.standing.recording.shown
                self._tell(f"{shown}: {reason} since it was begun. It is begun anew.")
            self._begin(journal, header)
        if self._continued_s is None:
            self._continued_s = journal.content.done_s
        while not journal.content.ended:
            try:
                self._take_pieces(connection, journal)
                journal.end()
            except Refused as refused:
                if not self._other_way(refused, journal):
                    raise
        if Source.of(self.standing.recording.source).same(self._source):
            self._finish(journal, header)
            return
        self._changes += 1
        self._begin(journal, header)
        if self._changes >= _ATTEMPTS:
            self.end(FAILED, "It changes while it is transcribed. Run the command again when it is whole.")
        else:
            self._tell(f"{self.standing.recording.shown}: the file changed meanwhile. It is begun anew.")

    def _begin(self, journal: Journal, header: Header) -> None:
        journal.begin(header)
        self._content, self._continued_s = journal.content, 0.0

    def _take_pieces(self, connection: Connection, journal: Journal) -> None:
        self._stream = Stream(connection)
        pieces = journal.content.pieces
        self._attempt = (time.monotonic(), journal.content.done_s)
        after = pieces[-1].cursor if pieces else None
        for piece in self._stream.pieces(
            self._source,
            self._asked,
            after,
            upload=self._upload or not _is_utf8(self._source.path),
            sent=self._note_sent,
        ):
            self._sent = None
            journal.add(piece)
            self.strikes = 0

    def _note_sent(self, count: int) -> None:
        self._sent = count

    def _other_way(self, refused: Refused, journal: Journal) -> bool:
        """Whether it may go when asked in another way: uploaded, or from its beginning."""
        if refused.param == "path" and not self._upload:
            self._upload = True
            return True
        if refused.param == "resume_from" and journal.content.pieces and journal.content.header is not None:
            self._tell(
                f"{self.standing.recording.shown}: the session cannot go on where it was. It is begun anew."
            )
            self._begin(journal, journal.content.header)
            return True
        return False

    def _finish(self, journal: Journal, header: Header) -> None:
        pieces = journal.content.pieces
        texts = outputs.rendered(pieces, self._asked, self.standing.formats)
        entry = ledger.Entry(self._source, self._asked, header.made_by, outputs.facts(pieces), {})
        self._write(texts, entry)

    def _write(self, texts: Mapping[str, bytes], entry: ledger.Entry) -> None:
        assert self._journal is not None
        recording = self.standing.recording
        written = outputs.write(recording, texts)
        ledger.add(recording.folder, recording.name, replace(entry, outputs=written))
        self._journal.remove()
        self._facts = entry.facts
        self.end(DONE, self.standing.why)


def full(folder: object, error: OSError) -> StorageError:
    """The error for a disk or a quota that is used up."""
    return StorageError(
        f"{folder} cannot be written: {error.strerror}.",
        f"Free some space; what is finished is kept, and {_SAME}.",
    )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sentence(error: OSError, standing: Standing) -> str:
    where = error.filename or standing.recording.folder
    if os.fspath(where) == str(standing.recording.source):
        return f"It cannot be read: {error.strerror}."
    return f"{os.fsdecode(os.fspath(where))} cannot be written: {error.strerror}. Use another --output-dir."

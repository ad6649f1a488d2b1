"""All recordings of one call: which there are, several at once with one session, and the report.

Owns the order, the attempts and the way out; `launcher transcribe` and Python call the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError, RequestError, StorageError
from launcher.sessions.connection import Connection
from launcher.transcripts import ledger
from launcher.transcripts.asked import Asked
from launcher.transcripts.carrier import Carrier
from launcher.transcripts.pace import Pace
from launcher.transcripts.recordings import Found
from launcher.transcripts.report import FAILED, SKIPPED, Interrupted, Report, Result, Show, Tell
from launcher.transcripts.standing import BROKEN, FINISHED, Standing
from launcher.transcripts.stream import Broken, Refused, Stopped
from launcher.transcripts.transcript import Transcript

_STRIKES = 3
_ALONE_AFTER = 2
_SHOW_EVERY_S = 0.2
_END_S = 10.0
_LOST_S = 0.5


class Work:
    """What `standings` leave to do, as `asked`; nothing runs before `run`."""

    def __init__(
        self,
        found: Found,
        standings: Sequence[Standing],
        asked: Asked,
        *,
        model: str | None,
        overwrite: bool,
        carrier: Callable[[], Carrier],
        tell: Tell,
        show: Show | None,
    ) -> None:
        self.standings = tuple(standings)
        self._found = found
        self._overwrite = overwrite
        self._make_carrier = carrier
        self._tell = tell
        self._show = show
        ledgers = ledger.Ledgers()
        self._transcripts = {
            standing.recording.source: Transcript(standing, asked, model, ledgers, tell)
            for standing in standings
            if standing.state not in (FINISHED, BROKEN)
        }
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._fatal: LauncherError | None = None
        self._working_s = 0.0
        self._pace = Pace(list(self._transcripts.values()))

    @property
    def left(self) -> list[Standing]:
        """What there is to do."""
        return [transcript.standing for transcript in self._transcripts.values()]

    @property
    def troubles(self) -> tuple[tuple[str, str], ...]:
        """Paths that cannot be a recording, each with a sentence."""
        return self._found.troubles

    def would_use(self) -> str:
        """Which session would do it, in a sentence; starts none."""
        carrier = self._make_carrier()
        carrier.leave()
        return carrier.described()

    def run(self) -> Report:
        """Do it, and stop the session that was started for it; raises Interrupted after Ctrl-C.

        What goes wrong with one recording is in its result, what ends the work for all in the report's `trouble`; what
        is wrong before anything began is raised.
        """
        began = time.monotonic()
        self._prepare()
        carrier = self._make_carrier() if self._waiting() else None
        trouble: LauncherError | None = None
        interrupted = False
        session_id, kept = None, False
        try:
            try:
                if carrier is not None:
                    self._carry(carrier)
            except LauncherError as error:
                trouble = error
            except KeyboardInterrupt:
                interrupted = True
            if carrier is not None and carrier.session is not None:
                session_id = carrier.session.id
                if not carrier.goes_on:
                    self._tell(f"Stopping session {session_id}.")
                kept = carrier.release()
        except KeyboardInterrupt:  # a second one: whoever is so impatient is told what is left
            interrupted = True
            self._tell(f"Session {session_id} may still run: launcher stop {session_id}")
            kept = True
        for transcript in self._transcripts.values():
            transcript.leave()
        report = Report(
            self._results(), session_id, kept, trouble, self._found.passed_over, time.monotonic() - began
        )  # fmt: skip
        if interrupted:
            raise Interrupted(report)
        return report

    def _prepare(self) -> None:
        """Make the folders and finish what needs no session; raises StorageError where one cannot be written."""
        names: dict[Path, list[str]] = {}
        for standing in self.left:
            names.setdefault(standing.recording.folder, []).append(standing.recording.name)
        for folder, here in names.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(folder))
                if self._overwrite:
                    ledger.again(folder, here)
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be written: {error.strerror}.",
                    "Choose another place with --output-dir.",
                ) from None
        if not self._overwrite:
            for transcript in self._transcripts.values():
                transcript.settle()
                if transcript.result is not None:
                    self._pace.end(transcript)

    def _waiting(self) -> list[Transcript]:
        return [transcript for transcript in self._transcripts.values() if transcript.result is None]

    def _carry(self, carrier: Carrier) -> None:
        while waiting := self._waiting():
            connection = carrier.ready()
            self._lost.clear()
            gained = sum(transcript.gained_s for transcript in waiting)
            ends = len(waiting)
            # What broke the session twice goes last and alone: it shall not take others along.
            usual = [transcript for transcript in waiting if transcript.strikes < _ALONE_AFTER]
            if usual:
                self._side_by_side(connection, carrier, usual, carrier.at_once())
            else:
                self._side_by_side(connection, carrier, waiting, 1)
            if self._fatal is not None:
                raise self._fatal
            if self._lost.is_set():
                time.sleep(_LOST_S)
            if sum(t.gained_s for t in waiting) > gained or len(self._waiting()) < ends:
                carrier.works()

    def _side_by_side(
        self, connection: Connection, carrier: Carrier, transcripts: list[Transcript], at_once: int
    ) -> None:
        queue = deque(transcripts)
        made_by = carrier.made_by
        active: list[Transcript] = []

        def work() -> None:
            while not (self._stop.is_set() or self._lost.is_set() or self._fatal):
                try:
                    transcript = queue.popleft()
                except IndexError:
                    return
                active.append(transcript)
                self._pace.begin(transcript)
                try:
                    self._attempts(transcript, connection, made_by)
                except LauncherError as error:
                    self._fatal = self._fatal or error
                except Exception as error:
                    # A slip of ours in a thread would be a recording that nobody finishes.
                    transcript.end(FAILED, f"{type(error).__name__}: {error}")
                    transcript.close()
                    raise
                finally:
                    active.remove(transcript)
                    if transcript.result is not None:
                        self._pace.end(transcript)

        threads = [
            threading.Thread(target=work, name=f"recording-{number}", daemon=True)
            for number in range(min(at_once, len(queue)))
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                next(thread for thread in threads if thread.is_alive()).join(_SHOW_EVERY_S)
                if self._fatal is not None:
                    self._end_all(active)
                if self._show is not None:
                    self._show(self._pace.progress(list(active), self._working_s + time.monotonic() - began))
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _END_S
            for thread in threads:
                while thread.is_alive() and time.monotonic() < deadline:
                    self._end_all(active)
                    thread.join(0.1)
            raise
        finally:
            self._working_s += time.monotonic() - began

    @staticmethod
    def _end_all(active: list[Transcript]) -> None:
        for transcript in list(active):
            transcript.stop()

    def _attempts(self, transcript: Transcript, connection: Connection, made_by: Mapping[str, Any]) -> None:
        """Attempt after attempt with this session, until it has a result, is for later, or the session is lost."""
        while transcript.result is None and not (self._stop.is_set() or self._fatal):
            before = transcript.done_s
            try:
                transcript.attempt(connection, made_by)
            except Stopped:
                return
            except Refused as refused:
                raise RequestError(refused.message, "Nothing was transcribed for that.") from None
            except Broken as broken:
                if broken.mine and transcript.done_s <= before:
                    transcript.strikes += 1
                    if transcript.strikes >= _STRIKES:
                        transcript.give_up(broken.message)
                        return
                if broken.gone:
                    self._lost.set()
                if self._lost.is_set() or transcript.strikes >= _ALONE_AFTER:
                    return
                self._pause(broken.wait_s)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (self._stop.is_set() or self._fatal or self._lost.is_set()):
            self._stop.wait(0.1)

    def _results(self) -> tuple[Result, ...]:
        results = []
        for standing in self.standings:
            transcript = self._transcripts.get(standing.recording.source)
            if transcript is not None:
                assert transcript.result is not None
                results.append(transcript.result)
                continue
            facts = standing.facts
            results.append(
                Result(
                    standing.recording.shown,
                    FAILED if standing.state == BROKEN else SKIPPED,
                    standing.why,
                    standing.outputs,
                    facts.duration_s if facts else None,
                    facts.language if facts else None,
                    facts.words if facts else None,
                    facts.marks if facts else (),
                )
            )
        return (*results, *(Result(path, FAILED, why) for path, why in self._found.troubles))

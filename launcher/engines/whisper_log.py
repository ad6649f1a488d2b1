"""What the log of the Whisper server means: which phase a line announces, and why the server ended.

Nothing that a request could have written is shown: once the session was ready, an unknown error is named by its type
alone. The known causes are in `causes.yml`.
"""

from __future__ import annotations

import dataclasses
import re
import signal

from launcher.engines import Diagnosis
from launcher.engines.causes import EXCEPTION, ended, one_line, printable, stopped, told, unknown

# The server's own words (launcher.whisper).
_PHASES = (
    ("weights", "Loading the model"),
    ("warm-up", "Measuring threads"),
    ("probe", "Listening"),
)
# gunicorn's words for the process that has the model (gunicorn/arbiter.py, reap_workers), and our own for what it met.
_LOST = re.compile(r"Worker \(pid:\d+\) was sent (SIG[A-Z]+)!")
_SAID = re.compile(r"^\d\d:\d\d:\d\d (?:ERROR|CRITICAL) (?P<text>.+)$")


def phase(line: str) -> str | None:
    """The phase that a line of the log announces; a hint for people."""
    return next((name for name, words in _PHASES if words in line), None)


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """Why the server ended, from the end of its log and its exit code (negative: a signal)."""
    log = printable(log_tail)
    found = told("whisper", log, ready=ready) or _ended(exit_code, log) or _unknown(log, ready)
    return stopped("The Whisper server", found, exit_code, ready=ready, elapsed_s=elapsed_s)


def _ended(exit_code: int | None, log: str) -> Diagnosis | None:
    lost = list(_LOST.finditer(log))
    if not lost:
        return ended("whisper", exit_code)
    found = ended("whisper", -getattr(signal, lost[-1][1], 0))
    return dataclasses.replace(found, quote=one_line(lost[-1][0])) if found else None


def _unknown(log: str, ready: bool) -> Diagnosis:
    for line in reversed(log.splitlines()):
        if not ready and (said := _SAID.match(line.strip())) is not None:
            return dataclasses.replace(unknown(log, ready=ready), message=one_line(said["text"]))
        if (found := EXCEPTION.match(line.strip())) is not None:
            return unknown(log, found["type"], found["text"], ready=ready)
    return unknown(log, ready=ready)

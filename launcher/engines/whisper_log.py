"""What the log of the Whisper server means: which phase a line announces, and why the server ended.

Nothing that a request could have written is shown: once the session was ready, an unknown error is named by its type
alone. The known causes are in `causes.yml`.
"""

from __future__ import annotations

import dataclasses
import re
import signal

from launcher.engines import Diagnosis
from launcher.engines.causes import SEE_LOG, bounded, code_words, ended, one_line, printable, quoted_end, told

# The server's own words (launcher.whisper).
_PHASES = (
    ("weights", "Loading the model"),
    ("warm-up", "Measuring threads"),
    ("probe", "Listening"),
)
_EXCEPTION = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))\b:? ?(?P<text>.*)$"
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
    when = "while it was in use" if ready else "before it was ready"
    opening = f"The Whisper server stopped after {elapsed_s:.0f} s ({code_words(exit_code)}) {when}"
    found = told("whisper", log, ready=ready) or _ended(exit_code, log) or _unknown(log, ready)
    why = found.message.rstrip(".")
    return dataclasses.replace(found, message=f"{opening}: {why}." if why else f"{opening}.")


def _ended(exit_code: int | None, log: str) -> Diagnosis | None:
    lost = list(_LOST.finditer(log))
    if not lost:
        return ended("whisper", exit_code)
    found = ended("whisper", -getattr(signal, lost[-1][1], 0))
    return dataclasses.replace(found, quote=one_line(lost[-1][0])) if found else None


def _unknown(log: str, ready: bool) -> Diagnosis:
    # While it serves, the text of an error may quote a request.
    quote = None if ready else quoted_end(log)
    for line in reversed(log.splitlines()):
        if not ready and (said := _SAID.match(line.strip())) is not None:
            return Diagnosis("engine-exit", bounded(said["text"]), SEE_LOG, quote=quote)
        if (found := _EXCEPTION.match(line.strip())) is not None:
            name, text = found["type"].rpartition(".")[2], found["text"]
            says = name if ready or not text else f"{name}: {one_line(text)[:200]}"
            return Diagnosis("engine-exit", says, SEE_LOG, quote=quote)
    return Diagnosis("engine-exit", "", SEE_LOG, quote=quote)

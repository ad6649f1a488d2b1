"""What vLLM's log means: which phase a line announces, and why vLLM ended.

Reads text and returns text; the log never decides a session's state. Nothing that a request could have written is
shown: once the session was ready, an unknown error is named by its type alone.
"""

from __future__ import annotations

import dataclasses
import re

from launcher.engines import Diagnosis
from launcher.engines.causes import EXCEPTION, ended, one_line, printable, stopped, told, unknown

_PHASES = (
    (
        "weights",
        r"Starting to load model",
        r"Loading \S+ .*checkpoint shards",
        r"Prefetching checkpoint files",
    ),
    (
        "compile",
        r"Loading weights took",
        r"Model loading took",
        r"for vLLM's torch\.compile",
        r"Dynamo bytecode transform",
        r"Directly load the compiled",
        r"Compiling a graph",
        r"torch\.compile and initial profiling",
        r"Warming up model for the compilation",
    ),
    ("graphs", r"Profiling CUDA graph memory", r"Capturing CUDA graph"),
    (
        "warm-up",
        r"Graph capturing finished",
        r"Warming up done",
        r"init engine \(profile",
        r"Supported tasks:",
        r"Starting vLLM server on",
        r"Application startup complete",
    ),
)
_PHASE_PATTERNS = tuple((name, re.compile("|".join(patterns))) for name, *patterns in _PHASES)

# `(EngineCore pid=12) ERROR 11-21 10:50:58 [core.py:1510] `; older versions name no process, and some name two.
_PREFIX = re.compile(
    r"^(?:\([^)\n]{1,60} pid=\d+\) ?)*"
    r"(?:(?P<level>ERROR|CRITICAL|WARNING|INFO|DEBUG) [\d-]+ [\d:.]+ \[[^\]]{1,80}\] ?)?"
)
# What is said after the root cause, by the processes that noticed it.
_NOISE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|Executor failed\."
    r"|Frontend process failed|SystemExit|KeyboardInterrupt"
)
_DEAD_CHILD = re.compile(
    r"died unexpectedly \(exit code: (?P<code>-\d+)\)|Failed core proc\(s\): \{[^}]*: (?P<code2>-\d+)"
)


def phase(line: str) -> str | None:
    """The phase that a line of the log announces; a hint for people."""
    return next((name for name, pattern in _PHASE_PATTERNS if pattern.search(line)), None)


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """Why vLLM ended, from the end of its log and its exit code (negative: a signal)."""
    lines = [_error(line.rstrip()) for line in printable(log_tail).splitlines()]
    known = told("vllm", "\n".join(lines), ready=ready)
    found = known or _ended(exit_code, lines) or _unknown(lines, log_tail, ready)
    return stopped("vLLM", found, exit_code, ready=ready, elapsed_s=elapsed_s)


def _error(line: str) -> str:
    """What `line` says; nothing where vLLM itself does not call it an error, whatever words are in it."""
    prefix = _PREFIX.match(line)
    assert prefix is not None  # every part of it may be missing
    return "" if prefix["level"] in ("DEBUG", "INFO", "WARNING") else line[prefix.end() :]


def _ended(exit_code: int | None, lines: list[str]) -> Diagnosis | None:
    if (found := ended("vllm", exit_code)) is not None:
        return found
    for line in reversed(lines):
        if (died := _DEAD_CHILD.search(line)) is not None:
            found = ended("vllm", int(died["code"] or died["code2"]))
            return dataclasses.replace(found, quote=one_line(died[0])) if found else None
    return None


def _unknown(lines: list[str], log: str, ready: bool) -> Diagnosis:
    for place in reversed(range(len(lines))):
        found = EXCEPTION.match(lines[place].strip())
        if found is None or _NOISE.search(lines[place]):
            continue
        kind, text = found["type"], found["text"]
        if kind.rpartition(".")[2] == "ValidationError" and place + 1 < len(lines):
            # pydantic says what on the next line
            text = lines[place + 1].strip().removeprefix("Value error, ").partition(" [type=")[0]
            kind = "ValueError"
        return unknown(log, kind, text, ready=ready)
    return unknown(log, ready=ready)

"""What vLLM's log means: which phase a line announces, and why vLLM ended.

Reads text and returns text; the log never decides a session's state. Nothing that a request could have written is
shown: once the session was ready, an unknown error is named by its type alone.
"""

from __future__ import annotations

import re
import signal

from launcher.engines import Diagnosis
from launcher.engines.causes import SEE_LOG, code_words, first_of, printable, signal_of
from launcher.engines.vllm_causes import CAUSES, ONLY_AT_START

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

_PREFIX = re.compile(
    r"^\([^)]{1,60} pid=\d+\) (?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]{1,80}\] ?"
)
_EXCEPTION = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))\b:? ?(?P<text>.*)$"
)
# What is said after the root cause, by the processes that noticed it.
_NOISE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|Executor failed\."
    r"|Frontend process failed|SystemExit|KeyboardInterrupt"
)
_DEAD_CHILD = re.compile(
    r"died unexpectedly \(exit code: (?P<code>-\d+)\)|Failed core proc\(s\): \{[^}]*: (?P<code2>-\d+)"
)
_ENDINGS: dict[int, tuple[str, str, str]] = {
    signal.SIGKILL: (
        "out-of-memory",
        "it was killed (signal 9), probably because the job's memory did not suffice",
        "Choose a profile with more memory.",
    ),
    signal.SIGBUS: (
        "out-of-memory",
        "it met a bus error (signal 7), probably because shared memory (/dev/shm) is full",
        "Choose a profile with more memory, or ask the site about the size of /dev/shm.",
    ),
    signal.SIGILL: (
        "hardware",
        "the node's processor lacks instructions that this build of vLLM uses (signal 4)",
        "Choose another profile or environment.",
    ),
    signal.SIGSEGV: ("engine-exit", "it crashed (signal 11)", "Start again, or choose another environment."),
    signal.SIGABRT: ("engine-exit", "it gave up (signal 6)", SEE_LOG),
    signal.SIGTERM: ("engine-exit", "it was told to stop (signal 15)", "Start again."),
}


def phase(line: str) -> str | None:
    """The phase that a line of the log announces; a hint for people."""
    return next((name for name, pattern in _PHASE_PATTERNS if pattern.search(line)), None)


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """Why vLLM ended, from the end of its log and its exit code (negative: a signal)."""
    lines = [_PREFIX.sub("", line.rstrip()) for line in printable(log_tail).splitlines()]
    when = "while it was in use" if ready else "before it was ready"
    opening = f"vLLM stopped after {elapsed_s:.0f} s ({code_words(exit_code)}) {when}"
    reason, cause, hint = _known(lines, ready) or _ended(exit_code, lines) or _unknown(lines, ready)
    return Diagnosis(reason, f"{opening}: {cause.rstrip('.')}." if cause else f"{opening}.", hint)


def _known(lines: list[str], ready: bool) -> tuple[str, str, str] | None:
    found = first_of(CAUSES, "\n".join(lines), without=ONLY_AT_START if ready else ())
    if found is None:
        return None
    reason, message, hint = found
    return reason, message, hint.replace("--max-model-len ,", "a smaller --max-model-len,")


def _ended(exit_code: int | None, lines: list[str]) -> tuple[str, str, str] | None:
    if exit_code == 127:
        hint = "Choose an environment that has vLLM, or ask the site."
        return "environment", "the program `vllm` was not found", hint
    if exit_code == 126:
        return (
            "environment",
            "the program `vllm` may not be run",
            "Ask the site to check the environment's files.",
        )
    died = next((found for line in reversed(lines) if (found := _DEAD_CHILD.search(line))), None)
    codes = [exit_code, int(died["code"] or died["code2"]) if died else None]
    return next(
        (_ENDINGS[n] for code in codes if code is not None and (n := signal_of(code)) in _ENDINGS), None
    )


def _unknown(lines: list[str], ready: bool) -> tuple[str, str, str]:
    for place in reversed(range(len(lines))):
        found = _EXCEPTION.match(lines[place].strip())
        if found is None or _NOISE.search(lines[place]):
            continue
        name, text = found["type"].rpartition(".")[2], found["text"]
        if name == "ValidationError" and place + 1 < len(lines):  # pydantic says what on the next line
            text = lines[place + 1].strip().removeprefix("Value error, ").partition(" [type=")[0]
            name = "ValueError"
        # While it serves, the text of an error may quote a request.
        return "engine-exit", name if ready or not text else f"{name}: {text[:200]}", SEE_LOG
    return "engine-exit", "", SEE_LOG

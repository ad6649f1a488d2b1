"""The engine `simulated`: a small OpenAI-compatible program whose delays, answers and failures are scripted.

It lets a site try form → job → card → page without a GPU, and carries our tests. This module is the side that
`launcher.serve` and `launcher.planning` see; `serve` is the program.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from launcher.engines import Command, Diagnosis, Place, Probe
from launcher.engines.causes import one_line, quoted_end
from launcher.engines.simulated.script import Script
from launcher.sessions.plan import Plan

_PHASES = (
    ("Starting to load model", "weights"),
    ("torch.compile", "compile"),
    ("Capturing CUDA graphs", "graphs"),
    ("Warming up", "warm-up"),
    ("Application startup complete", "probe"),
)
# The last line of a Python traceback: `RuntimeError: text` or `torch.OutOfMemoryError: text`.
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*$")


def check_args(args: tuple[str, ...], *, allow_remote_code: bool) -> None:
    """Raise RequestError for an option it does not know; it has no remote code to run."""
    Script.parse(args)


def command(plan: Plan, socket: Path, cache: Path, place: Place | None = None) -> Command:
    """The launcher's own Python runs the program: it needs no environment of its own and keeps no cache."""
    python = Path(plan.launcher).parent / "python"
    program = (str(python), "-m", "launcher.engines.simulated.serve")
    named = ("--uds", str(socket), "--served-name", plan.model.served_name)
    share: tuple[str, ...] = ()
    if place is not None:
        share = (f"--nnodes={place.nodes}", f"--node-rank={place.rank}")
        share = (*share, f"--master-addr={place.address}", f"--master-port={place.port}")
    return Command((*program, *named, *plan.engine_args, *share))


def probe(plan: Plan) -> Probe:
    """One generated token."""
    body = {
        "model": plan.model.served_name,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 1,
        "temperature": 0,
    }
    return Probe("/v1/chat/completions", body, "choices")


def health() -> str:
    """The path that answers 200 once the program listens."""
    return "/health"


def phase(line: str) -> str | None:
    """The phase that a line of the log announces."""
    return next((name for mark, name in _PHASES if mark in line), None)


def lost(pid: int) -> bool:
    """It is one process; its end is seen by itself."""
    return False


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """The last exception in the log, else how the process ended."""
    when = "while it was in use" if ready else "before it was ready"
    how = _ending(exit_code)
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if _EXCEPTION.match(line)), None)
    message = f"The simulated engine stopped after {elapsed_s:.0f} s ({how}) {when}"
    message += f": {cause.rstrip('.')}." if cause else "."
    quote = one_line(cause) if cause else quoted_end(log_tail)  # it logs no request
    if cause and "out of memory" in cause.lower():
        return Diagnosis("out-of-memory", message, "Take a profile with more memory.", quote=quote)
    if cause and "[Errno 98]" in cause:
        return Diagnosis("address", message, "Start again.", quote=quote)
    if cause and "Connection closed by peer" in cause:  # as Gloo says it
        return Diagnosis("network", message, "Start again.", quote=quote)
    hint = "Look at its --fail-at, --fail-with and --fail-code arguments."
    if exit_code is not None and exit_code < 0:  # mostly somebody from outside
        hint = "Look at engine.log."
    return Diagnosis("engine-exit", message, hint, quote=quote)


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "exit code unknown"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"

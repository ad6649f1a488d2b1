"""How a session is: the content of `status.json`, and the sentence for each reason.

Owns the words (states, reasons) and the file; who decides them is `launcher.serve` inside the job and
`launcher.sessions.state` outside.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from launcher.sessions.paths import write_private
from launcher.sessions.stored import made

SCHEMA = 1
PENDING, LAUNCHING, READY = "PENDING", "LAUNCHING", "READY"
UNHEALTHY, SHUTDOWN, FAILED = "UNHEALTHY", "SHUTDOWN", "FAILED"
ENDED = frozenset({SHUTDOWN, FAILED})
PHASES = ("container", "weights", "compile", "graphs", "warm-up", "probe")
ENGINE_RESTART = "engine-restart"  # the reason of UNHEALTHY while a crashed engine is being started again

# reason: (state, sentence, what to do). The states of DESIGN.md; docs/states.md lists them for people.
ENDINGS: dict[str, tuple[str, str, str | None]] = {
    "user": (SHUTDOWN, "You stopped the session.", None),
    "batch-done": (SHUTDOWN, "The batch run that it was started for is done.", None),
    "handed-over": (SHUTDOWN, "Another session of its endpoint has taken over from it.", None),
    "endpoint": (SHUTDOWN, "Its endpoint has ended it.", None),
    "idle": (
        SHUTDOWN,
        "The session was stopped because nobody used it.",
        "Ask for a longer idle time, or 0 for none.",
    ),
    "time-limit": (SHUTDOWN, "The session reached its time limit.", "Start it again with more hours."),
    "preempted": (
        SHUTDOWN,
        "The cluster took the node back for a job of higher priority.",
        "Start it again, or choose a profile that is not preempted.",
    ),
    "node-fail": (FAILED, "The node failed.", "Start it again; tell the site if it happens twice."),
    "out-of-memory": (
        FAILED,
        "The job needed more memory than it was given.",
        "Choose a profile with more memory.",
    ),
    "cancelled": (SHUTDOWN, "The job was cancelled.", None),
    "together": (SHUTDOWN, "Another session of its batch ended, and they were to end together.", None),
    "deadline": (FAILED, "The cluster could not start the job before its deadline.", "Start it again."),
    "boot-fail": (FAILED, "The node did not start.", "Start it again; tell the site if it happens twice."),
    "never-started": (FAILED, "The job was never submitted.", "Start the session again."),
    "job-exit": (FAILED, "The job ended without saying why.", "Look at the logs of the session."),
    "lost": (
        FAILED,
        "The job is gone, and neither Slurm nor the session's files say why.",
        "Look at the logs of the session.",
    ),
}


def ask_end(stop: Path, reason: str, words: str | None = None) -> None:
    """Write into `stop.json` that the end is asked for, and why: one of `ENDINGS`, and `words` for its sentence."""
    write_private(stop, json.dumps({"reason": reason, **({"words": words} if words else {})}) + "\n")


def asked_end(stop: Path) -> str | None:
    """The reason in `stop.json`, one of `ENDINGS`; None where nobody asked for the end, or it cannot be read."""
    try:
        reason = json.loads(stop.read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return reason if isinstance(reason, str) and reason in ENDINGS else None


def asked_words(stop: Path) -> str | None:
    """The sentence in `stop.json`; None where the reason says all."""
    try:
        words = json.loads(stop.read_text(encoding="utf-8"))["words"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return words[:300] if isinstance(words, str) and words.isprintable() else None


@dataclass(frozen=True, slots=True)
class Phase:
    """One passed or present phase of the start; `elapsed_s` grows while it is the present one."""

    name: str
    started_at: float
    elapsed_s: float
    expected_s: float | None = None  # how long it took last time


@dataclass(frozen=True, slots=True)
class Coming:
    """A phase of last time's start that this one has not reached yet."""

    name: str
    expected_s: float


@dataclass(frozen=True, slots=True)
class Idle:
    """The idle limit, since when nobody used the session, and when it stops for that (Unix times)."""

    limit_s: float
    since: float
    stops_at: float


@dataclass(frozen=True, slots=True)
class Status:
    """One reading of a session; times are Unix times in seconds.

    `restarts` counts how often the scheduler ran the job again, `engine_restarts` how often the session started a
    crashed engine again. `expected_s` is how long the whole start took last time, from LAUNCHING to READY.
    `form_hint` is the hint by the names of the form's fields, `quote` the line of `log` that told the reason, or its
    last lines.
    """

    id: str
    state: str
    since: float
    message: str
    reason: str | None = None
    hint: str | None = None
    form_hint: str | None = None
    quote: str | None = None
    phase: str | None = None
    phases: tuple[Phase, ...] = ()
    expected_s: float | None = None
    coming: tuple[Coming, ...] = ()
    log: str | None = None
    job_id: str | None = None
    restarts: int = 0
    engine_restarts: int = 0
    host: str | None = None
    pid: int | None = None
    updated_at: float = 0.0
    ends_at: float | None = None
    ends_soon: bool = False
    idle: Idle | None = None
    final: bool = False  # ended, and the scheduler has nothing to add

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """What `status.json` holds and `GET /status` answers."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def write(self, path: Path) -> None:
        """Replace `path` atomically."""
        write_private(path, json.dumps(self.to_dict()) + "\n", durable=self.ended)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The status in `path`, or None where there is none that can be read."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("schema") != SCHEMA:
                return None
            data["phases"] = tuple(made(Phase, phase) for phase in data["phases"])
            data["coming"] = tuple(made(Coming, phase) for phase in data.get("coming") or ())
            data["idle"] = made(Idle, data["idle"]) if data["idle"] else None
            return made(cls, data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

"""How far a batch run is: the content of its `status.json`, in OpenAI's words, with what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from launcher.sessions.paths import write_private

SCHEMA = 1
# OpenAI's, and three of ours: `pending` was not begun, `stopped` was broken off and goes on when it is resumed,
# `waiting` has no session that answers.
PENDING, WAITING, STOPPED = "pending", "waiting", "stopped"
VALIDATING, RUNNING, FINALIZING = "validating", "in_progress", "finalizing"
CANCELLING, CANCELLED = "cancelling", "cancelled"
COMPLETED, FAILED = "completed", "failed"
ACTIVE = frozenset({WAITING, VALIDATING, RUNNING, FINALIZING, CANCELLING})
OVER = frozenset({COMPLETED, FAILED, CANCELLED})


@dataclass(frozen=True, slots=True)
class Status:
    """How a run stands. `answered` and `failed` of `total` lines are done; empty lines count for nothing.

    `seconds` were spent sending, `gpu_s` is that time (of a session of its own: the whole of it) times its GPUs.
    `rate` is answers a second lately, `left_s` the time still to come by it. `message` is a sentence where one is due.
    """

    state: str = PENDING
    total: int = 0
    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    gpu_s: float = 0.0
    rate: float = 0.0
    left_s: float | None = None
    message: str = ""
    code: str = ""
    session: str | None = None
    began_at: float | None = None
    updated_at: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def done(self) -> int:
        return self.answered + self.failed

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON holds it."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Replace `path`; raises OSError."""
        write_private(path, json.dumps({"schema": SCHEMA, **asdict(self)}) + "\n", durable=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The status in `path`; where there is none, that of a run that was not begun."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(cls)}
            return cls(**{name: value for name, value in data.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()


Show = Callable[[Status], None]


def cost(status: Status) -> str:
    """What it took, in a line: time, tokens, GPU-hours and tokens for each of them."""
    from launcher.sessions.clock import clock

    said = [f"{status.answered} of {status.total} answered"]
    if status.failed:
        said.append(f"{status.failed} with an error")
    said.append(f"{clock(status.seconds)}")
    if status.tokens and status.seconds > 0:
        each = status.completion_tokens / status.seconds
        said.append(f"{status.tokens} tokens ({status.completion_tokens} generated, {each:.1f} a second)")
    if status.gpu_s > 0:
        hours = status.gpu_s / 3600
        said.append(f"{hours:.2f} GPU-hours")
        if status.tokens:
            said.append(f"{status.tokens / hours:.0f} tokens per GPU-hour")
    return ", ".join(said)


def first_error(path: str) -> str:
    """What the first line of the error file `path` says; empty where there is none."""
    try:
        with open(path, "rb") as file:
            entry = json.loads(file.readline(2**20))
        line, error = entry["line"], entry["error"]
        said = str(error.get("message") or error.get("code"))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return ""
    return f"line {line}: {said[:300]}"

"""What a scheduler says of a job, in the launcher's own few words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from launcher.sessions.paths import write_private

WAITING, RUNNING, OVER = "waiting", "running", "over"


@dataclass(frozen=True, slots=True)
class Job:
    """One reading of a job.

    `state` is `waiting`, `running` or `over`. `reason` is why it waits (Slurm's word) or, when over, a reason of
    `launcher.sessions.status.ENDINGS`, None where the scheduler has nothing to add to what the session says itself.
    """

    id: str
    state: str
    reason: str | None = None
    node: str | None = None
    ends_at: float | None = None
    session: str | None = None
    started_at: float | None = None


def write_job_id(path: Path, job_id: str) -> None:
    """Remember in `job.json` which job carries the session."""
    write_private(path, json.dumps({"schema": 1, "id": job_id}) + "\n")


def read_job_id(path: Path) -> str | None:
    """The id in `job.json`, or None where no job is known yet."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

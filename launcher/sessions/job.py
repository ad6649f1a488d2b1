"""The job that carries a session, as its scheduler sees it, and the small file that remembers its id.

A member of a batch has the id of the batch's job and its place in it: `123+0`, `123+1`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def write_job_id(path: Path, job_id: str, *, over: bool = False) -> None:
    """Remember in `job.json` which job carries the session; `over`: it does no more, though the job may go on."""
    write_private(path, json.dumps({"schema": 1, "id": job_id, "over": over}) + "\n")


def read_job_id(path: Path) -> str | None:
    """The id in `job.json`, or None where no job is known yet."""
    found = _read(path).get("id")
    return None if found is None else str(found)


def is_over(path: Path) -> bool:
    """Whether the job carries the session no more, while it may still carry other members of its batch."""
    return bool(_read(path).get("over"))


def member_of(job_id: str | None) -> tuple[str, int] | None:
    """The id of the batch's job and the place in it, for a member's id; None for any other."""
    base, plus, place = (job_id or "").rpartition("+")
    return (base, int(place)) if plus and base and re.fullmatch(r"[0-9]{1,6}", place) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

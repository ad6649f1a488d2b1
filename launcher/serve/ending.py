"""Why a session that was told to end is ending: its user, its scheduler, or its clock."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from launcher.engines import Diagnosis
from launcher.schedulers import Scheduler
from launcher.sessions.status import ENDINGS


def ending(reason: str) -> Diagnosis:
    """The sentence for one of the reasons of `launcher.sessions.status.ENDINGS`."""
    _, message, hint = ENDINGS[reason]
    return Diagnosis(reason, message, hint)


def why_told(stop: Path, scheduler: Scheduler, job_id: str, ends_at: float) -> Diagnosis:
    """Why TERM came: `stop` is there when the user asked, else the scheduler may know, else the clock may tell."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return ending(str(json.loads(stop.read_text())["reason"]))
    if (reason := scheduler.why_ending(job_id)) is not None:
        return ending(reason)
    return ending("time-limit" if time.time() >= ends_at - 5 else "cancelled")

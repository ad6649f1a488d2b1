"""Why a session is ending: what its user, its scheduler or its clock said, or what failed in it."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from launcher.engines import Diagnosis
from launcher.errors import LauncherError
from launcher.schedulers import Scheduler
from launcher.sessions.status import ENDINGS, asked_end, asked_words


def ending(reason: str) -> Diagnosis:
    """The sentence for one of the reasons of `launcher.sessions.status.ENDINGS`."""
    _, message, hint = ENDINGS[reason]
    return Diagnosis(reason, message, hint)


def why_told(stop: Path, scheduler: Scheduler, job_id: str, ends_at: float) -> Diagnosis:
    """Why TERM came: `stop` tells who asked, else the scheduler may know, else the clock may tell."""
    if (asked := asked_end(stop)) is not None:
        why = ending(asked)
        return dataclasses.replace(why, message=asked_words(stop) or why.message)
    if (reason := scheduler.why_ending(job_id)) is not None:
        return ending(reason)
    return ending("time-limit" if time.time() >= ends_at - 5 else "cancelled")


def failure(error: Exception) -> Diagnosis:
    """Why a session ends that met `error` in its own parts."""
    if isinstance(error, LauncherError):
        return Diagnosis(error.reason or error.kind, error.message, error.hint, quote=error.quote)
    if isinstance(error, OSError) and error.errno is not None:
        return Diagnosis(
            "storage", f"{error.filename or 'A file'}: {error.strerror}.", "Look at the job's log."
        )
    logging.getLogger("launcher.serve").error("a part of the supervisor failed", exc_info=error)
    return Diagnosis(
        "launcher-error",
        f"The launcher itself failed: {type(error).__name__}: {error}.",
        "Please report this with job.log.",
    )

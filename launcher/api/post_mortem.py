"""Why a session is over whose supervisor could not say so: read from what its job wrote, by whoever looks.

Owns the questions to the session's files; what the words mean is `launcher.engines.job_log`'s.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from launcher.engines import Diagnosis
from launcher.engines.causes import quoted_end
from launcher.engines.job_log import explain
from launcher.serve.node import tail
from launcher.sessions.paths import SessionPaths
from launcher.sessions.status import ENDINGS, FAILED, Status

SILENT = ("job-exit", "lost")  # the reasons of those who know none
_TAIL_BYTES = 16 * 1024
_PORTAL_LOG = "output.log"  # Open OnDemand's own, beside job.log: what its script says before ours


def explained(paths: SessionPaths, status: Status) -> Status:
    """`status` with the reason that the job's own log tells, where neither the session nor the scheduler knows one."""
    if status.reason not in SILENT:
        return status
    for log in (paths.job_log, paths.root / _PORTAL_LOG):
        if (found := explain(tail(log, _TAIL_BYTES))) is not None:
            return _with(status, found, log)
    if status.reason == "job-exit" and status.log is None and not _size(paths.job_log):
        return _with(status, _wrote_nothing(paths), None)
    quote = quoted_end(tail(paths.job_log, _TAIL_BYTES))
    return dataclasses.replace(status, quote=quote, log=status.log or (str(paths.job_log) if quote else None))


def _with(status: Status, found: Diagnosis, log: Path | None) -> Status:
    state = ENDINGS[found.reason][0] if found.reason in ENDINGS else FAILED
    return dataclasses.replace(
        status,
        state=state,
        reason=found.reason,
        message=found.message,
        hint=found.hint if found.hint is not None else status.hint,
        form_hint=found.form_hint,
        quote=found.quote,
        log=str(log) if log is not None else status.log,
    )


def _wrote_nothing(paths: SessionPaths) -> Diagnosis:
    root = paths.root
    try:
        free = os.statvfs(root).f_bavail > 0
    except OSError:
        free = True
    if not free:
        return Diagnosis(
            "storage",
            f"The job could not write into {root}: the disk is full.",
            "Free space there, or set places.sessions to another file system with `launcher config`.",
        )
    if paths.job_log.exists():  # the first thing that a job does is to open it
        return Diagnosis(
            "job-exit",
            "The job ended before it could say a word.",
            f"It was killed, or your quota in {root} is used up (`quota -s` shows it on most clusters).",
        )
    return Diagnosis(
        "storage",
        f"The job ended before it could write a line into {root}.",
        "Compute nodes must see that folder, and your quota there must not be used up (`quota -s`); "
        "places.sessions in the settings names another.",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

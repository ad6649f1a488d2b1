"""The batch run that a session was started for: its runner as a child, again where that was killed; and the next job.

What the runner does is `launcher.batch`'s; which job comes next is `launcher.api`'s, which is asked as a program.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from launcher.batch.report import OVER
from launcher.batch.run import Run
from launcher.engines import Diagnosis
from launcher.errors import LauncherError
from launcher.schedulers import local
from launcher.serve.ending import ending
from launcher.serve.process import Child, spare
from launcher.sessions.job import read_job_id
from launcher.sessions.paths import SessionPaths

_GRACE_S = 4.0
_NEXT_S = 60.0
_STRIKES = 3  # killed so often in a row without an answer in between
_PAUSE_S = 0.5
# Ends after which another job may bring the rest. Whoever stopped it wants no other, and a preempted job comes back by
# itself.
_GOES_ON = frozenset({"time-limit", "engine-exit", "out-of-memory", "no-answer", "idle"})
_LOG = logging.getLogger("launcher.serve")


async def carry_batch(folder: Path, paths: SessionPaths, url: str, began: float) -> Diagnosis:
    """Carry the run in `folder` with the session behind `url` until it is over or can go no further; why that is."""
    told = ("--gateway", url, "--began", f"{began:.3f}")
    argv = (sys.executable, "-m", "launcher", "carry-batch", str(paths.root), *told)
    strikes, done = 0, -1
    while True:
        child = await Child.start(argv, os.environ, paths.batch_log, append=True)
        try:
            code = await child.wait()
        finally:
            await child.stop(_GRACE_S)
        status = await asyncio.to_thread(Run(folder).status)
        if status.state in OVER:
            return ending("batch-done")
        if status.code == "time-limit":
            return ending("time-limit")
        strikes = 1 if status.done > done else strikes + 1
        done = max(done, status.done)
        if code >= 0 or strikes >= _STRIKES:
            message = status.message or f"The batch run's program ended with code {code}."
            return Diagnosis("batch-stopped", message, "Look at batch.log, then: launcher batch resume")
        _LOG.warning("the batch run's program ended with code %s and is started again", code)
        await asyncio.sleep(_PAUSE_S)


async def next_job(folder: Path, root: Path, reason: str) -> None:
    """Submit the job that goes on where this one, which ends for `reason`, has to leave off."""
    try:
        if reason not in _GOES_ON or (await asyncio.to_thread(Run(folder).status)).state in OVER:
            return
    except LauncherError:
        return
    argv = (sys.executable, "-m", "launcher", "carry-batch", str(root), "--next")
    try:
        SessionPaths(root).next.unlink(missing_ok=True)
        child = await Child.start(argv, os.environ, SessionPaths(root).batch_log, append=True)
        async with asyncio.timeout(_NEXT_S):
            await child.wait()
        job_id = read_job_id(SessionPaths(root).next)
        if job_id is not None and (pid := local.pid_of(job_id)) is not None:
            spare(pid)
    except (LauncherError, OSError, TimeoutError) as error:
        _LOG.warning("the next job of the batch run was not submitted: %s", error)

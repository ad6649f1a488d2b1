"""Where a session runs: each scheduler submits a script, reads all jobs in one call, cancels, and knows its options.

A scheduler is one module and one line in `SCHEDULERS`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from launcher.errors import SessionError
from launcher.sessions.job import Job
from launcher.sessions.plan import Plan

SCHEDULERS = {"slurm": "launcher.schedulers.slurm", "local": "launcher.schedulers.local"}


class Scheduler(Protocol):
    """What `launcher.api` and `launcher.serve` need from one; `POLL_S` is the least time between asks."""

    POLL_S: float

    def options(self, plan: Plan) -> list[str]:
        """The request for hardware as the scheduler's own options, one `--name=value` each."""

    def expected_start(self, wanted: Sequence[str], *, timeout_s: float = 15) -> float | None:
        """The Unix time at which a job with these options would start; None where the scheduler cannot say.

        Raises SchedulerError when it would refuse the job.
        """

    def submit(self, script: Path) -> str:
        """Submit `script`; the job's id. Raises SchedulerError with the scheduler's own words."""

    def jobs(self, job_ids: list[str]) -> dict[str, Job]:
        """What is known of these jobs (and of others of this user), in one call however many there are."""

    def outcome(self, job_id: str) -> Job | None:
        """The end of a job that `jobs` knows no more, where the scheduler keeps a memory of it."""

    def cancel(self, job_id: str) -> None:
        """End the job; harmless when it is over."""

    def why_ending(self, job_id: str) -> str | None:
        """Asked inside the job when it is told to end: the reason, None where the scheduler does not know."""

    def ends_at(self, plan: Plan, job_id: str, started_at: float) -> float:
        """Asked inside the job: the Unix time at which the job's time is over."""


@functools.cache  # asked for each of a hundred sessions
def scheduler(name: str, ssh: str | None = None) -> Scheduler:
    """The scheduler called `name` (`slurm` or `local`), here or on the host `ssh`."""
    if name not in SCHEDULERS:
        raise SessionError(
            f'There is no scheduler "{name[:40]}".', "Was the session made by another launcher?"
        )
    return cast(Scheduler, importlib.import_module(SCHEDULERS[name]).here(ssh))

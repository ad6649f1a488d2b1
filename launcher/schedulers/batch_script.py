"""The one script of a batch: on Slurm a heterogeneous job, with one component for each session.

https://slurm.schedmd.com/heterogeneous_jobs.html: all components start together or none does, each may have its own
partition, account, QoS and time limit, and the script runs in the first.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from launcher.schedulers import scheduler
from launcher.schedulers.script import job_name, option_line, rendered
from launcher.sessions.plan import Plan


def batch_script(plans: Sequence[Plan], root: Path) -> str:
    """The text of `batch.sh` for sessions with these plans; `root` is the directory of the first."""
    return rendered(
        "batch.sh.j2",
        components=_components(plans) if plans[0].cluster.scheduler == "slurm" else [],
        ids=[plan.id for plan in plans],
        root=shlex.quote(str(root)),
        launcher=shlex.quote(plans[0].launcher),
    )


def _components(plans: Sequence[Plan]) -> list[list[str]]:
    # With the script of the first component ends the whole job: it lasts as long as the longest.
    hours = max(plan.limits.hours for plan in plans)
    first = dataclasses.replace(plans[0], limits=dataclasses.replace(plans[0].limits, hours=hours))
    return [
        [
            *map(option_line, scheduler("slurm").options(plan)),
            f"--job-name={job_name(plan)}",
            "--output=/dev/null",
            "--export=NONE",
            # Last, so that it holds: Slurm 22.05 may leave a requeued heterogeneous job in the queue for ever, always
            # where one of its components was over.
            "--no-requeue",
        ]
        for plan in (first, *plans[1:])
    ]

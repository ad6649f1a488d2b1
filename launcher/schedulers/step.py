"""The step of Slurm that runs a program on each node of this job but the first, and what such a program knows.

Owns srun's words. Asked inside the job only; here, since no other scheduler has several nodes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from launcher.errors import SchedulerError
from launcher.schedulers.command import run
from launcher.schedulers.nodes import names_in
from launcher.sessions.plan import Plan


def job_nodes() -> list[str]:
    """The names of this job's nodes, the first one first; raises SchedulerError outside a job."""
    names = names_in(os.environ.get("SLURM_JOB_NODELIST", ""))
    if not names or not names[0]:
        raise SchedulerError("SLURM_JOB_NODELIST is not set: this is no job of Slurm.")
    return names


def address_of(node: str) -> str:
    """Where the node is reached: what Slurm itself uses, which need not be its name; the name where Slurm is silent."""
    try:
        shown = run(["scontrol", "--oneliner", "show", "node", node], timeout_s=10)
    except SchedulerError:
        return node
    return next((word.partition("=")[2] for word in shown.split() if word.startswith("NodeAddr=")), node)


def elsewhere(plan: Plan, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` once on each of the job's other nodes; it ends when one of them ends with an error.

    The step has what the job has on these nodes (memory, GPUs), and waits for nothing that the job's script uses.
    """
    count = plan.resources.nodes - 1
    # Since 22.05 srun does not take --cpus-per-task from the job. The environment is this process's own, not NONE.
    cpus = plan.resources.cpus
    return [
        "srun", "--overlap", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--relative=1",
        *([f"--cpus-per-task={cpus}"] if cpus is not None else []),
        "--export=ALL", "--input=none", "--mpi=none", "--kill-on-bad-exit=1", "--job-name=ranks", "--", *argv,
    ]  # fmt: skip


def own_rank() -> int:
    """Which of the engine's processes a program is that `elsewhere` runs: 1 on the job's second node, and so on."""
    place = os.environ.get("SLURM_PROCID", "")
    if not place.isdigit():
        raise SchedulerError("SLURM_PROCID is not set: this is no step of Slurm.")
    return int(place) + 1

"""Steps of this job: a program on each of its other nodes or in another of its components, and what such a one knows.

Owns srun's words. Asked inside the job only; here, since no other scheduler has several nodes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from launcher.errors import SchedulerError
from launcher.schedulers.command import run
from launcher.schedulers.nodes import names_in
from launcher.sessions.plan import Plan


def job_nodes(count: int) -> list[str]:
    """The names of this job's first `count` nodes; raises SchedulerError where it has fewer, or is no job."""
    names = names_in(os.environ.get("SLURM_JOB_NODELIST", ""))
    if not names or not names[0]:
        raise SchedulerError("SLURM_JOB_NODELIST is not set: this is no job of Slurm.")
    if len(names) < count:  # job.sh was submitted again with other options
        raise SchedulerError(
            f"The job has {len(names)} of the {count} nodes that its session was planned for.",
            "Submit job.sh as it is, or launch with another --nodes.",
        )
    return names[:count]


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
    return _srun(
        plan, argv, "--overlap", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--relative=1",
        "--kill-on-bad-exit=1", "--job-name=ranks",
    )  # fmt: skip


def component(plan: Plan, argv: Sequence[str], index: int) -> list[str]:
    """The command that runs `argv` in a heterogeneous job's component `index`, which was asked for as `plan` says."""
    return _srun(plan, argv, f"--het-group={index}", "--nodes=1", "--ntasks=1")


def _srun(plan: Plan, argv: Sequence[str], *options: str) -> list[str]:
    # Since 22.05 srun does not take --cpus-per-task from the job. The environment is this process's own, not NONE.
    cpus = plan.resources.cpus
    more = () if cpus is None else (f"--cpus-per-task={cpus}",)
    return ["srun", *options, *more, "--export=ALL", "--input=none", "--mpi=none", "--", *argv]


def own_rank() -> int:
    """Which of the engine's processes a program is that `elsewhere` runs: 1 on the job's second node, and so on."""
    place = os.environ.get("SLURM_PROCID", "")
    if not place.isdigit():
        raise SchedulerError("SLURM_PROCID is not set: this is no step of Slurm.")
    return int(place) + 1

"""What is free now: idle GPUs by partition and type, from one `sinfo` and one `squeue` for a cluster.

What a job would have to wait is `expected_start`'s to say; idle hardware may be kept for somebody else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from launcher.schedulers.command import EPOCH, run
from launcher.schedulers.nodes import Node, names_in, nodes
from launcher.settings.schema import Cluster

# Jobs that wait for a date, for another job, for their owner or for a limit of their own take no hardware from anybody.
_NOT_IN_LINE = re.compile(
    r"Dependency|JobHeld|BeginTime|Limit|Max|Grp|Reservation|Licenses|Partition(Down|Inactive)"
)


@dataclass(frozen=True, slots=True)
class Room:
    """What each of `nodes` equal nodes has left, memory in GiB; from `until` (Unix time) it is somebody else's."""

    gpus: int
    cpus: int
    memory_gb: float
    until: float | None
    nodes: int


@dataclass(frozen=True, slots=True)
class Supply:
    """The nodes of one partition that have one type of GPU (`gpu_type` None: GPUs without a type, or no GPU at all).

    `gpus`, `nodes` and `cpus` count what is in service; `gpus_idle_node` is the largest number of idle GPUs on one
    node. `pending` are the jobs that wait in the partition for hardware, `reasons` how many wait for what.
    `hours_max` None: no limit. `room` is what is left on the nodes.
    """

    partition: str
    gpu_type: str | None
    gpus: int
    gpus_idle: int
    gpus_idle_node: int
    nodes: int
    nodes_idle: int
    cpus: int
    cpus_idle: int
    pending: int
    available: bool
    hours_max: float | None
    default: bool = False
    reasons: Mapping[str, int] = field(default_factory=dict)
    room: tuple[Room, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pending jobs with one answer of squeue: their partitions, why they wait, and backfill's plan for them."""

    partitions: tuple[str, ...]
    reason: str
    starts_at: float | None
    nodes: tuple[str, ...]

    @property
    def in_line(self) -> bool:
        """Whether it waits for hardware; others wait for a date, another job, or a limit of their own."""
        return not _NOT_IN_LINE.search(self.reason)


def supply(cluster: Cluster, *, timeout_s: float = 20) -> list[Supply]:
    """What `cluster` has, by partition and type of GPU, the default partition first.

    Asks Slurm twice, both at once, each for at most `timeout_s`. Raises SchedulerError in one sentence.
    """
    if cluster.scheduler == "local":
        from launcher.schedulers.local import machine

        return group([machine(timeout_s=timeout_s)], [])
    # %S and %Y: when and where backfill has planned to start the job.
    argv = ["squeue", "--all", "--noheader", "--states=PENDING", "--format=%P|%S|%Y|%r"]
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(run, argv, ssh=cluster.ssh, env=EPOCH, timeout_s=timeout_s)
        found = nodes(cluster.ssh, timeout_s=timeout_s)
        return group(found, read_waiting(asked.result()))


def read_waiting(text: str) -> list[Waiting]:
    """What the answer of that `squeue` says; a line that makes no sense is passed over."""
    found = []
    for line in text.splitlines():
        fields = line.split("|", 3)
        if len(fields) == 4:
            partitions, start, hosts, reason = (word.strip() for word in fields)
            planned = tuple(names_in(hosts)) if hosts not in ("", "N/A", "(null)") else ()
            at = float(start) if start.isdigit() else None
            found.append(Waiting(tuple(filter(None, partitions.split(","))), reason or "None", at, planned))
    return found


def group(found: Iterable[Node], waiting: Iterable[Waiting]) -> list[Supply]:
    """The supply that these nodes and these pending jobs make, partition by partition."""
    groups: dict[tuple[str, str | None], list[Node]] = {}
    for node in found:
        for gpu_type in node.gpus or (None,):
            groups.setdefault((node.partition, gpu_type), []).append(node)
    # From when a node is somebody's, and a whole partition where no node is named.
    kept: dict[str, float] = {}
    reasons: dict[str, Counter[str]] = {}
    in_line: Counter[str] = Counter()
    for job in waiting:
        for name in job.nodes or job.partitions:
            if job.starts_at is not None:
                kept[name] = min(job.starts_at, kept.get(name, job.starts_at))
        for partition in job.partitions:
            reasons.setdefault(partition, Counter())[job.reason] += 1
            in_line[partition] += job.in_line
    return [
        _supply(key, groups[key], kept, in_line[key[0]], dict(reasons.get(key[0], {})))
        for key in sorted(groups, key=lambda key: (not groups[key][0].default, key[0], key[1] or ""))
    ]


def _supply(
    key: tuple[str, str | None],
    members: list[Node],
    kept: Mapping[str, float],
    in_line: int,
    reasons: Mapping[str, int],
) -> Supply:
    partition, gpu_type = key
    serving = [node for node in members if node.in_service]
    free = [node for node in serving if node.free]
    idle = [node.gpus_idle(gpu_type) for node in free]
    room: Counter[tuple[int, int, int, float | None]] = Counter()
    for node in free:
        if node.cpus_idle:
            ends = [kept[name] for name in (node.name, partition) if name in kept]
            left = node.gpus_idle(gpu_type), node.cpus_idle, node.memory_idle_mb, min(ends, default=None)
            room[left] += 1
    return Supply(
        partition=partition,
        gpu_type=gpu_type,
        gpus=sum(node.gpus.get(gpu_type, 0) for node in serving),
        gpus_idle=sum(idle),
        gpus_idle_node=max(idle, default=0),
        nodes=len(serving),
        nodes_idle=sum(node.cpus_idle == node.cpus for node in free),
        cpus=sum(node.cpus for node in serving),
        cpus_idle=sum(node.cpus_idle for node in free),
        pending=in_line,
        available=bool(serving) and members[0].up,
        hours_max=members[0].hours_max,
        default=members[0].default,
        reasons=reasons,
        room=tuple(Room(gpus, cpus, mb / 1024, until, n) for (gpus, cpus, mb, until), n in room.items()),
    )

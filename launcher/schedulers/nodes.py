"""The nodes of a Slurm cluster, as one `sinfo` tells of them.

Text and not `--json`: these columns are the same in old and new Slurms, while the JSON has another shape in each, and
that of 22.05 no time limits (docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.schedulers.command import run

# Columns of a fixed width: with a separator of its own, sinfo before 20.11 would not know what is meant.
_COLUMNS = {
    "Partition": 80,
    "Available": 10,
    "NodeList": 80,
    "StateLong": 24,
    "Gres": 256,
    "GresUsed": 256,
    "CPUsState": 40,
    "Memory": 16,
    "AllocMem": 16,
    "Time": 20,
    "Features": 256,
}
# https://slurm.schedmd.com/sinfo.html#SECTION_NODE-STATE-CODES: in use, or waiting for work.
_IN_SERVICE = {"idle", "mixed", "allocated", "completing", "planned", "reserved"}
_OUT = set("*$%@^!")  # not answering, in maintenance, going off, to be restarted
_WAITING = {"idle", "mixed", "planned"}


@dataclass(frozen=True, slots=True)
class Node:
    """One node in one partition; `gpus` and `gpus_used` count by Slurm's own name of the type (None: untyped).

    `in_service`: it runs jobs or could. `free`: what nobody uses of it is anybody's, be it only until a job that
    waits gets it by backfill's plan. `up`: the partition takes jobs.
    `hours_max` is the partition's limit (None: none), memory is in MiB.
    """

    name: str
    partition: str
    default: bool
    up: bool
    in_service: bool
    free: bool
    state: str
    cpus: int
    cpus_idle: int
    memory_mb: int
    memory_idle_mb: int
    hours_max: float | None
    gpus: Mapping[str | None, int] = field(default_factory=dict)
    gpus_used: Mapping[str | None, int] = field(default_factory=dict)
    features: tuple[str, ...] = ()

    def gpus_idle(self, gpu_type: str | None) -> int:
        """How many GPUs of that type nobody has now; none without a core to go with them."""
        if not self.cpus_idle:
            return 0
        return max(0, self.gpus.get(gpu_type, 0) - self.gpus_used.get(gpu_type, 0))


def nodes(ssh: str | None = None, *, timeout_s: float = 20) -> list[Node]:
    """Every node of every partition, hidden ones too; raises SchedulerError."""
    wanted = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    argv = ["sinfo", "--all", "--Node", "--noheader", f"--Format={wanted}"]
    return read_nodes(run(argv, ssh=ssh, timeout_s=timeout_s))


def read_nodes(text: str) -> list[Node]:
    """What the answer of that `sinfo` says; a line that makes no sense is passed over."""
    return [node for line in text.splitlines() if (node := _node(line)) is not None]


def gres_gpus(text: str) -> dict[str | None, int]:
    """GPUs by type in what Slurm calls GRES: `gpu:a100:4(S:0-1),gpu:2,shard:8` is 4 `a100` and 2 without a type."""
    found: dict[str | None, int] = {}
    # Sockets and indices stand in brackets and have commas of their own.
    for part in re.sub(r"\([^()]*\)", lambda match: ":null" if match[0] == "(null)" else "", text).split(","):
        words = [word for word in part.strip().split(":") if word not in ("", "null", "no_consume")]
        if words[:1] != ["gpu"]:
            continue
        number = words[-1] if len(words) > 1 and re.fullmatch(r"\d+", words[-1]) else None
        kind = ":".join(words[1:-1] if number else words[1:]) or None
        found[kind] = found.get(kind, 0) + (int(number) if number else 1)
    return found


def names_in(hosts: str) -> list[str]:
    """The nodes in Slurm's way to write many: `g[01-03],c1` is g01, g02, g03 and c1."""
    found = []
    for word in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", hosts):
        before, bracket, rest = word.partition("[")
        inside, _, after = rest.partition("]")
        for part in inside.split(",") if bracket else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last) + 1) if last.isdigit() and first.isdigit() else None
            spelled = [f"{n:0{len(first)}d}" for n in numbers[:100_000]] if numbers is not None else [part]
            for middle in spelled:
                found += [f"{before}{middle}{end}" for end in (names_in(after) if after else [""])]
    return found


def hours_of(text: str) -> float | None:
    """The hours in Slurm's `2-12:00:00`, `30:00` or `infinite` (None)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return float(text) / 60 if text.isdigit() else None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return days * 24 + hours + minutes / 60 + seconds / 3600


def _node(line: str) -> Node | None:
    fields, at = {}, 0
    for name, width in _COLUMNS.items():
        fields[name], at = line[at : at + width].strip(), at + width
    cpus = re.fullmatch(r"(\d+)/(\d+)/(\d+)/(\d+)", fields["CPUsState"])  # allocated, idle, other, all
    if cpus is None or not fields["NodeList"] or not fields["Partition"]:
        return None
    state = fields["StateLong"].lower()
    word, marks = re.sub(r"(?<=[a-z])[^a-z]+$", "", state), set(re.sub(r"^[a-z]+", "", state))
    in_service = word in _IN_SERVICE and not marks & _OUT
    up = fields["Available"] == "up"
    memory = int(fields["Memory"]) if fields["Memory"].isdigit() else 0
    used = int(fields["AllocMem"]) if fields["AllocMem"].isdigit() else 0
    features = fields["Features"]
    return Node(
        name=fields["NodeList"],
        partition=fields["Partition"].removesuffix("*"),
        default=fields["Partition"].endswith("*"),
        up=up,
        in_service=in_service,
        free=up and in_service and word in _WAITING,
        state=state,
        cpus=int(cpus[4]),
        cpus_idle=int(cpus[2]),
        memory_mb=memory,
        memory_idle_mb=max(0, memory - used),
        hours_max=hours_of(fields["Time"]),
        gpus=gres_gpus(fields["Gres"]),
        gpus_used=gres_gpus(fields["GresUsed"]),
        features=tuple(features.split(",")) if features not in ("", "(null)") else (),
    )

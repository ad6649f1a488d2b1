"""Whether the kernel killed a process of this job because the job's memory was used up.

Slurm's limit is one of the job's control group, which the engine shares with its supervisor. The signal alone does not
tell: somebody may have sent it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_MOUNTS = Path("/proc/self/mounts")


def kills(own: Path = _OWN, mounts: Path = _MOUNTS) -> int:
    """How many processes of this job were killed for want of memory until now; 0 where the kernel does not say.

    Version 2 of control groups counts in `memory.events`, version 1 in `memory.oom_control` (kernel,
    admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst); both have a line `oom_kill N`.
    """
    with contextlib.suppress(OSError, ValueError):
        for file in _counters(own.read_text(), mounts.read_text()):
            with contextlib.suppress(OSError):
                for line in file.read_text().splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
    return 0


def _counters(own: str, mounts: str) -> list[Path]:
    # "4:memory:/slurm/uid_1000/job_7" is version 1, "0::/system.slice/…/task_0" version 2 (cgroups(7)).
    groups = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.lstrip("/")
    found = []
    for line in mounts.splitlines():
        _, folder, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            group = next((path for names, path in groups.items() if "memory" in names.split(",")), None)
            found += [Path(folder, group, "memory.oom_control")] if group is not None else []
        elif kind == "cgroup2" and "" in groups:
            found.append(Path(folder, groups[""], "memory.events"))
    return found

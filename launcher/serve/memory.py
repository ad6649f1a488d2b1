"""The job's memory: how much it may still fill, and whether the kernel killed a process of it because it was used up.

Slurm's limit is one of the job's control group, which the engine shares with its supervisor. The signal alone does not
tell: somebody may have sent it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_MOUNTS = Path("/proc/self/mounts")
_AVAILABLE = Path("/proc/meminfo")
_COUNTERS = {1: "memory.oom_control", 2: "memory.events"}
_LIMITS = {1: "memory.limit_in_bytes", 2: "memory.max"}


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


def room_bytes(own: Path = _OWN, mounts: Path = _MOUNTS, available: Path = _AVAILABLE) -> int:
    """How much memory this job may still fill with what it reads: what is free on the node, within its group's limit.

    Slurm sets the limit on the job's group, above the one that this process is in: `memory.max` in version 2,
    `memory.limit_in_bytes` in version 1. 0 where the kernel does not say.
    """
    free = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in available.read_text().splitlines() if line.startswith("MemAvailable:"))
        free = int(line.split()[1]) * 1024
    limits = [free]
    with contextlib.suppress(OSError, ValueError):
        for folder, top, version in _groups(own.read_text(), mounts.read_text()):
            for above in (folder, *folder.parents):
                if not above.is_relative_to(top):
                    break
                with contextlib.suppress(OSError, ValueError):  # "max" is no number
                    limits.append(int((above / _LIMITS[version]).read_text()))
    return min(limits)


def _counters(own: str, mounts: str) -> list[Path]:
    return [folder / _COUNTERS[version] for folder, _, version in _groups(own, mounts)]


def _groups(own: str, mounts: str) -> list[tuple[Path, Path, int]]:
    """This process's control groups that bound memory: the folder, where they are mounted, and the version."""
    # "4:memory:/slurm/uid_1000/job_7" is version 1, "0::/system.slice/…/task_0" version 2 (cgroups(7)).
    groups = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.lstrip("/")
    found = []
    for line in mounts.splitlines():
        _, top, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            group = next((path for names, path in groups.items() if "memory" in names.split(",")), None)
            found += [(Path(top, group), Path(top), 1)] if group is not None else []
        elif kind == "cgroup2" and "" in groups:
            found.append((Path(top, groups[""]), Path(top), 2))
    return found

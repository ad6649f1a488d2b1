"""This machine as a cluster of one: a session is a process of its own, without a queue.

A job's id is `HOST:PID.START`, the start in clock ticks since boot: a later process with the same PID, or one of
another machine with the same home, is not mistaken for it. The members of a batch are children of its process; their
ids are its id with `+0`, `+1`, …
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from launcher.errors import SchedulerError
from launcher.sessions.job import OVER, RUNNING, Job, member_of
from launcher.sessions.plan import Plan

if TYPE_CHECKING:
    from launcher.schedulers.nodes import Node

POLL_S = 0.2
_MAKERS = {"nvidia", "tesla", "geforce", "quadro", "amd", "instinct", "graphics", "device"}
# The shell between makes the job an orphan: nobody has to wait for it, and Ctrl-C in a terminal does not reach it.
# Bash by name: where another thread is just starting a process, that still holds the new script open for writing, and
# the kernel would not execute it ("Text file busy").
_START = '/bin/bash "$0" </dev/null >/dev/null 2>&1 & echo $!'


def here(ssh: str | None = None) -> ModuleType:
    """This module: there is but one such machine."""
    return sys.modules[__name__]


def options(plan: Plan) -> list[str]:
    """Nothing is requested: the machine is there."""
    return []


def submit(script: Path) -> str:
    """Start `script` in a session of its own."""
    import subprocess  # as what is imported below: whoever only asks for jobs need not wait for it

    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _START, str(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            start_new_session=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SchedulerError(f"{script} cannot be started: {error}.") from error
    pid = done.stdout.strip()
    started = _started(pid)
    return f"{os.uname().nodename}:{pid}.{started or 0}"


def jobs(job_ids: list[str]) -> dict[str, Job]:
    """Which of `job_ids` are alive."""
    here = os.uname().nodename
    # Of another machine's processes nothing is known from here: the session's own words stand.
    return {i: Job(i, RUNNING if _host(i) != here or alive(i) else OVER, None, _host(i)) for i in job_ids}


def outcome(job_id: str) -> Job | None:
    """Nobody keeps a memory of processes."""
    return None


def cancel(job_id: str) -> None:
    """Ask the process to end; its own cleaning up ends the rest. A batch's looks which of its members shall end."""
    if _host(job_id) != os.uname().nodename:
        raise SchedulerError(f"The session runs on {_host(job_id)}.", "Stop it there.")
    if alive(job_id):
        try:
            os.kill(int(_process(job_id)[0]), signal.SIGHUP if member_of(job_id) else signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise SchedulerError(f"Job {job_id} belongs to somebody else.") from error


def why_ending(job_id: str) -> str | None:
    """Only a person ends a process here."""
    return "user"


def ends_at(plan: Plan, job_id: str, started_at: float) -> float:
    """The planned hours, which the session keeps itself."""
    return started_at + plan.limits.hours * 3600


def expected_start(wanted: Sequence[str], *, timeout_s: float = 15) -> float | None:
    """At once: there is no queue here."""
    return time.time()


def machine(*, timeout_s: float = 10) -> Node:
    """This machine as the one node of a partition without a name; its GPUs as `nvidia-smi` counts them."""
    from launcher.schedulers.nodes import Node

    cores = sorted(os.sched_getaffinity(0))
    pages = {name: os.sysconf(f"SC_{name}") for name in ("PHYS_PAGES", "AVPHYS_PAGES", "PAGE_SIZE")}
    gpus, used = _gpus(timeout_s)
    return Node(
        name=os.uname().nodename,
        partition="",
        default=True,
        up=True,
        in_service=True,
        free=True,
        state="idle",
        cpus=len(cores),
        # Whoever runs here asked nobody: the load is all that tells.
        cpus_idle=max(1, len(cores) - round(os.getloadavg()[0])),
        memory_mb=pages["PHYS_PAGES"] * pages["PAGE_SIZE"] // 2**20,
        memory_idle_mb=pages["AVPHYS_PAGES"] * pages["PAGE_SIZE"] // 2**20,
        hours_max=None,
        gpus=gpus,
        gpus_used=used,
    )


def _gpus(timeout_s: float) -> tuple[dict[str | None, int], dict[str | None, int]]:
    from launcher.schedulers.command import run

    query = ["nvidia-smi", "--query-gpu=name,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = run(query, timeout_s=timeout_s).splitlines()
    except SchedulerError:  # no driver, no GPU
        return {}, {}
    found: Counter[str | None] = Counter()
    used: Counter[str | None] = Counter()
    for line in lines:
        name, _, memory = line.rpartition(",")
        kind = gpu_word(name)
        found[kind] += 1
        # The driver's own share is a few hundred MiB; more is somebody's.
        used[kind] += int(memory) > 1024 if memory.strip().isdigit() else 1
    return dict(found), dict(used)


def gpu_word(name: str) -> str | None:
    """`a100` for what the driver calls `NVIDIA A100-SXM4-40GB`: one word, as Slurm's sites write it."""
    words = [w for w in re.split(r"[\s-]+", name.strip().lower()) if w and w not in _MAKERS]
    # RTX 3090, Titan V: a family's name and a number of it.
    return "".join(words[:2] if words and words[0].isalpha() else words[:1]) or None


def own_job_id() -> str:
    """The id of this process."""
    return f"{os.uname().nodename}:{os.getpid()}.{_started(str(os.getpid()))}"


def alive(job_id: str) -> bool:
    """Whether that very process still runs; for a member of a batch, the batch's."""
    pid, started = _process(job_id)
    return pid.isdigit() and _started(pid) == started


def pid_of(job_id: str) -> int | None:
    """The process of a job that lives."""
    return int(_process(job_id)[0]) if alive(job_id) else None


def _host(job_id: str) -> str:
    return job_id.rpartition(":")[0]


def _process(job_id: str) -> tuple[str, str]:
    place = member_of(job_id)
    pid, _, started = (place[0] if place else job_id).rpartition(":")[2].partition(".")
    return pid, started


def _started(pid: str) -> str | None:
    # /proc/PID/stat, field 3 the state and field 22 the start; the name in brackets may hold anything (proc(5)).
    try:
        fields = (
            Path("/proc", pid, "stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]

"""Whether the kernel killed for want of memory: read where either version of control groups says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.serve import memory
from tests.programs.groups import memory_group

_HUNGRY = """
import os, signal, subprocess, sys
from launcher.serve import memory
before = memory.kills()
subprocess.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
killed = memory.kills()
code = subprocess.run([sys.executable, "-c", "held = bytearray(500_000_000)"]).returncode
print(before, killed, memory.kills(), code)
"""


def counted(folder: Path, own: str, mounts: str, *files: tuple[str, str]) -> int:
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "own").write_text(own)
    (folder / "mounts").write_text(mounts.replace("ROOT", str(folder)))
    return memory.kills(folder / "own", folder / "mounts")


def test_version_2_counts_in_memory_events(tmp_path: Path) -> None:
    events = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"
    path = "system.slice/slurmstepd.scope/job_7/step_batch/user/task_0"
    found = counted(
        tmp_path, f"0::/{path}\n", "cgroup2 ROOT cgroup2 rw,nosuid 0 0\n", (f"{path}/memory.events", events)
    )
    assert found == 2


def test_version_1_counts_in_memory_oom_control(tmp_path: Path) -> None:
    own = "5:cpu,cpuacct:/x\n4:memory:/slurm/uid_1/job_7\n0::/unified\n"
    mounts = "cgroup ROOT/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup ROOT/memory cgroup rw,memory 0 0\n"
    said = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    found = counted(
        tmp_path, own, mounts + "cgroup2 ROOT/unified cgroup2 rw 0 0\n",
        ("memory/slurm/uid_1/job_7/memory.oom_control", said),
    )  # fmt: skip
    assert found == 1


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        ("", ""),
        ("nonsense", "nonsense"),
        ("0::/gone", "cgroup2 ROOT cgroup2 rw 0 0\n"),
        ("0::/", "short line\n"),
    ],
)
def test_a_kernel_that_does_not_say_counts_nothing(tmp_path: Path, own: str, mounts: str) -> None:
    assert counted(tmp_path, own, mounts) == 0


def test_an_old_kernel_without_the_line_counts_nothing(tmp_path: Path) -> None:
    mounts = "cgroup2 ROOT cgroup2 rw 0 0\n"
    assert counted(tmp_path, "0::/a\n", mounts, ("a/memory.events", "low 0\n")) == 0
    assert memory.kills(tmp_path / "none", tmp_path / "none") == 0


def test_the_kernels_own_killing_is_told_from_a_signal() -> None:
    with memory_group("200M") as processes:
        enter = f'echo $$ >{processes} && exec "$0" -c "$1"'
        done = subprocess.run(
            ["/bin/sh", "-c", enter, sys.executable, _HUNGRY], capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
    assert done.stdout.split() == ["0", "0", "1", "-9"], done.stderr

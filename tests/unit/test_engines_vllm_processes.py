"""A dead process of vLLM is found below a living one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from launcher.engines import vllm

# Starts the program it is given and never asks how it ended, as vLLM's API server does.
CARELESS = "import subprocess, sys, time; subprocess.Popen([sys.argv[1], sys.argv[2]]); time.sleep(60)"


def careless_parent(program: Path, seconds: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CARELESS, program, seconds])


def program_called(name: str, folder: Path) -> Path:
    return Path(shutil.copy("/bin/sleep", folder / name))


def eventually_lost(pid: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if vllm.lost(pid):
            return True
        time.sleep(0.1)
    return False


def test_a_dead_engine_core_is_found(tmp_path: Path) -> None:
    with careless_parent(program_called("VLLM::EngineCore) Z", tmp_path), "2") as parent:
        assert not vllm.lost(parent.pid)
        assert eventually_lost(parent.pid, 60)
        parent.kill()


def test_a_living_one_and_one_that_is_gone_are_not(tmp_path: Path) -> None:
    with careless_parent(program_called("VLLM::Worker", tmp_path), "30") as parent:
        assert not eventually_lost(parent.pid, 1.5)
        parent.kill()
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert not vllm.lost(gone.pid)


def test_another_program_may_die(tmp_path: Path) -> None:
    with careless_parent(program_called("helper", tmp_path), "0") as parent:
        assert not eventually_lost(parent.pid, 2)
        parent.kill()

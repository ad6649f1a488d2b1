"""`make demo CHECK=1` without its install: the shipped model on real vLLM answers, and nothing is left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_the_demo_answers_and_leaves_nothing_behind() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/demo.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Paris" in result.stdout
    assert [line.split("  ")[-1] for line in result.stdout.splitlines()][
        -1
    ] == "Stopped; nothing is left running."
    sessions = str(ROOT / ".demo" / "sessions")
    left = [process.cmdline() for process in psutil.process_iter() if sessions in " ".join(command(process))]
    assert left == []


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

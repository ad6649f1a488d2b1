"""`make demo CHECK=1` without its install: the shipped model on real vLLM answers, and nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "DEMO_OF_THIS_TEST"  # an engine is given none of LAUNCHER_…


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_the_demo_answers_and_leaves_nothing_behind() -> None:
    before = set(psutil.pids())
    result = subprocess.run(
        [sys.executable, "scripts/demo.py", "--check"],
        cwd=ROOT,
        env={**os.environ, MARK: str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Paris" in result.stdout
    assert result.stdout.splitlines()[-1].split("  ")[-1] == "Stopped; nothing is left running."
    new = [process for process in psutil.process_iter() if process.pid not in before]
    assert [process for process in new if of_the_demo(process)] == []


def of_the_demo(process: psutil.Process) -> bool:
    """Whether it has the demo's environment, or its folders.

    The environment is handed down to every descendant, whoever its parent is by now.
    """
    try:
        words = " ".join(process.cmdline())
        return (
            MARK in process.environ()
            or process.cwd().startswith(str(ROOT / ".demo"))
            or str(ROOT / ".demo") in words
        )
    except psutil.Error:  # gone meanwhile; the test's own user may look at all that the demo started
        return False

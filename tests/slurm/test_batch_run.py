"""A batch run in Slurm jobs of its own: the next job is submitted from within the one that ends, and after a kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.programs.front import wait_until
from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
COUNT = 700


def test_each_line_is_answered_once_over_three_jobs(site: Site, slurm: Cluster, users: People) -> None:
    """FIRST 9: a lost engine, a killed job: the run goes on in the next job; FIRST 8: OpenAI's lines."""
    alice = users.alice
    folder = alice.folder("batch-")
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    with source.open("w") as file:
        for number in range(COUNT):
            body = {"model": "simulated", "messages": [{"role": "user", "content": f"question {number}"}]}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    source.chmod(0o644)
    quick = ("--", "--start-delay-s", "0", "--first-token-ms", "150", "--token-rate", "0")
    words = ("batch", "run", str(source), "-o", str(output), "--profile", "cpu", "--window", "8", "--json")

    def run_of() -> dict[str, Any]:
        found: dict[str, Any] = site.run(alice, "batch", "status", str(output), "--json").data
        return found

    def lines() -> int:
        return output.read_bytes().count(b"\n") if output.exists() else 0

    def after(start: int) -> Callable[[], bool]:
        return lambda: lines() > start

    begun = site.run(alice, *words, "--detach", *quick).data
    assert begun["state"] in ("waiting", "in_progress")
    wait_until(after(50), 60)
    (first,) = run_of()["sessions"]

    def engine_ends() -> bool:
        # Killed until the session gives up: its engine is started again twice.
        status = site.status(alice, first)
        with suppress(psutil.Error):  # one that has just ended
            for child in psutil.Process(status["pid"]).children() if status["pid"] else []:
                if "launcher.engines.simulated.serve" in child.cmdline():
                    child.kill()
        return bool(status["state"] == "FAILED")

    wait_until(engine_ends, 90)
    assert site.status(alice, first)["reason"] == "engine-exit"
    wait_until(lambda: len(run_of()["sessions"]) == 2, 30)
    second = run_of()["sessions"][1]
    assert slurm.job(site.status(alice, second)["job_id"])["Partition"] == "cpu", "as the first one"
    kept = output.read_bytes()
    wait_until(after(lines() + 30), 60)

    status = site.status(alice, second)
    assert status["pid"] is not None
    os.kill(status["pid"], signal.SIGKILL)
    slurm.wait_for(status["job_id"], "FAILED")
    assert site.until(alice, second, "FAILED")["reason"] == "job-exit"
    assert run_of()["state"] == "stopped"
    done = site.run(alice, "batch", "resume", str(output), "--json").data
    assert (done["state"], done["answered"], done["failed"], len(done["sessions"])) == (
        "completed",
        COUNT,
        0,
        3,
    )
    assert output.read_bytes().startswith(kept)
    ids = [json.loads(line)["custom_id"] for line in output.read_text().splitlines()]
    assert sorted(ids) == sorted(f"r{number}" for number in range(COUNT))
    assert output.stat().st_mode & 0o077 == 0, "answers are their reader's alone"
    assert site.until(alice, done["sessions"][-1], "SHUTDOWN")["reason"] == "batch-done"
    log = Path(site.status(alice, first)["directory"], "batch.log").read_text()
    assert "question" not in log

"""The main job on a real Slurm: launch, ready, answer, and every way to end with its own reason."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def ask(site: Site, status: dict[str, Any]) -> str:
    client = openai.OpenAI(base_url=status["base_url"], api_key=site.key(status), max_retries=0)
    with client:
        answer = client.chat.completions.create(
            model=status["served_name"], messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content or ""


def test_from_pending_to_ready_to_shutdown(site: Site, slurm: Cluster, users: People) -> None:
    alice = users.alice
    session = site.launch(alice, "simulated", "--profile", "gpu", "--", "--start-delay-s", "3")
    seen: list[str] = []
    status = site.status(alice, session)
    while not seen or seen[-1] != "READY":
        status = site.status(alice, session)
        if not seen or seen[-1] != status["state"]:
            seen.append(status["state"])
        assert status["state"] in ("PENDING", "LAUNCHING", "READY"), status
    assert seen in (["PENDING", "LAUNCHING", "READY"], ["LAUNCHING", "READY"])
    assert "Simulated answer" in ask(site, status)
    assert status["ends_at"] == pytest.approx(time.time() + 3600, abs=90)
    job = slurm.job(status["job_id"])
    assert job["JobName"] == "launcher-simulated"
    assert job["Partition"] == "gpu"

    stopped = site.run(alice, "stop", session, "--json").data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    assert site.run(alice, "stop", session).code == 0  # a second time is harmless
    directory = Path(status["directory"])
    assert not {"connection.json", "api_key"} & set(os.listdir(directory))
    assert (directory / "record.json").exists()


def test_waiting_in_the_queue_is_pending_with_its_reason(site: Site, slurm: Cluster, users: People) -> None:
    alice = users.alice
    blocker = slurm.submit(alice, "sleep 60", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(blocker, "RUNNING")
    session = site.launch(alice, "simulated", "--profile", "gpu")
    status = site.until(alice, session, "resources", "priority")
    assert status["state"] == "PENDING"
    stopped = site.run(alice, "stop", session, "--json").data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    slurm.scancel(blocker)
    assert site.status(alice, session)["reason"] == "user"


def test_each_end_keeps_its_own_reason_when_slurm_has_forgotten_it(
    site: Site, slurm: Cluster, users: People
) -> None:
    alice = users.alice
    by_scancel = site.launch(alice, "simulated", "--profile", "cpu")
    by_limit = site.launch(alice, "simulated", "--profile", "cpu")
    by_crash = site.launch(
        alice, "simulated", "--profile", "cpu", "--", "--fail-at", "1", "--fail-with", "CUDA error: an illegal thing"
    )  # fmt: skip
    at_start = site.launch(
        alice, "simulated", "--profile", "gpu", "--", "--fail-at", "start", "--fail-code", "3"
    )
    killed = site.launch(alice, "simulated", "--profile", "gpu")
    for session in (by_scancel, by_limit, killed):
        site.until(alice, session, "READY")
    jobs = {s: site.status(alice, s) for s in (by_scancel, by_limit, killed)}
    slurm.end_time_limit(jobs[by_limit]["job_id"])
    slurm.scancel(jobs[by_scancel]["job_id"])
    os.kill(jobs[killed]["pid"], signal.SIGKILL)
    expected = {
        by_scancel: ("SHUTDOWN", "cancelled"),
        by_limit: ("SHUTDOWN", "time-limit"),
        by_crash: ("FAILED", "engine-exit"),
        at_start: ("FAILED", "engine-exit"),
        killed: ("FAILED", "job-exit"),
    }  # fmt: skip
    for session, (state, reason) in expected.items():
        status = site.until(alice, session, "SHUTDOWN", "FAILED", timeout_s=90)
        assert (status["state"], status["reason"]) == (state, reason), status
        assert status["message"].endswith(".")
    slurm.forget_finished_jobs()
    for session, (state, reason) in expected.items():
        status = site.status(alice, session)
        assert (status["state"], status["reason"]) == (state, reason), status


def test_a_preempted_session_is_requeued_and_ready_again_elsewhere(
    site: Site, slurm: Cluster, users: People
) -> None:
    alice = users.alice
    session = site.launch(alice, "simulated", "--profile", "preempt")
    first = site.until(alice, session, "READY")
    old_key = site.key(first)
    high = slurm.submit(alice, "sleep 4", "-p", "urgent", "-w", "g1", "--gpus=4", "-o", "/dev/null")
    site.until(alice, session, "PENDING", timeout_s=60)
    assert not (Path(first["directory"]) / "connection.json").exists()
    slurm.wait_for(high, "COMPLETED", timeout_s=60)
    again = site.until(alice, session, "READY", timeout_s=90)
    assert (again["job_id"], again["restarts"]) == (first["job_id"], 1)
    assert again["base_url"] != first["base_url"]
    assert site.key(again) != old_key
    assert "Simulated answer" in ask(site, again)


def test_a_session_that_nobody_uses_stops(site: Site, users: People) -> None:
    session = site.launch(users.alice, "simulated", "--profile", "cpu", "--idle-minutes", "0.1")
    ready = site.until(users.alice, session, "READY")
    ask(site, ready)
    countdown = site.until(users.alice, session, "READY")
    if countdown["idle"] is not None:
        assert countdown["idle"]["limit_s"] == 6
    assert site.until(users.alice, session, "SHUTDOWN")["reason"] == "idle"


def test_no_process_and_no_socket_stays_behind(site: Site, users: People) -> None:
    session = site.launch(users.alice, "simulated", "--profile", "cpu", "--", "--ignore-term", "30")
    ready = site.until(users.alice, session, "READY")
    before = _processes_of(session)
    assert len(before) >= 2  # the supervisor and the engine
    site.run(users.alice, "stop", session)
    assert site.until(users.alice, session, "SHUTDOWN")["reason"] == "user"
    deadline = time.monotonic() + 20
    while _processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _processes_of(session)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(ready["base_url"].replace("/v1", "/health"), timeout=5)


def _processes_of(session: str) -> list[int]:
    """Every process whose working directory or arguments belong to the session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path("/proc", pid, "cmdline").read_bytes().decode("utf-8", "replace")
            parent = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
            parent_arguments = Path("/proc", parent, "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if session in arguments or session in parent_arguments:
            found.append(int(pid))
    return found

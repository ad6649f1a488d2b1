"""The main job on a real Slurm: launch, ready, answer, and every way to end with its own reason."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.site import SETTINGS, Install, Site
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
    """vec-inf 4, vec-inf 8, della 9: each state in its turn on a real Slurm, one answer, and two stops."""
    alice = users.alice
    session = site.launch(alice, "simulated", "--profile", "gpu", "--", "--start-delay-s", "6")
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
    blocker = slurm.submit(alice, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
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
    """vec-inf 5: five ends, each looked at again when squeue knows the job no more."""
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
    unseen = site.launch(alice, "simulated", "--profile", "gpu")
    jobs = {s: site.until(alice, s, "READY") for s in (by_scancel, by_limit, killed, unseen)}
    slurm.end_time_limit(jobs[by_limit]["job_id"])
    slurm.scancel(jobs[by_scancel]["job_id"])
    os.kill(jobs[killed]["pid"], signal.SIGKILL)
    os.kill(jobs[unseen]["pid"], signal.SIGKILL)
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
    slurm.wait_for(jobs[unseen]["job_id"], "FAILED")
    slurm.forget_finished_jobs()
    expected[unseen] = ("FAILED", "lost")  # nobody looked while Slurm still knew, and no sacct keeps it
    for session, (state, reason) in expected.items():
        status = site.status(alice, session)
        assert (status["state"], status["reason"]) == (state, reason), status


def test_sacct_tells_the_reason_of_what_nobody_looked_at(
    installed: Install, slurm_accounting: Cluster, users: People
) -> None:
    """vec-inf 5: three that could not say for certain why they ended, forgotten by squeue before anybody asks."""
    alice, slurm = users.alice, slurm_accounting
    site = Site(installed, slurm)
    try:
        by_scancel, by_limit, killed = (site.launch(alice, "simulated", "--profile", "cpu") for _ in range(3))
        ready = {s: site.until(alice, s, "READY") for s in (by_scancel, by_limit, killed)}
        slurm.end_time_limit(ready[by_limit]["job_id"])
        slurm.run_as(alice, ["scancel", "--signal=KILL", "--full", ready[by_scancel]["job_id"]])
        os.kill(ready[killed]["pid"], signal.SIGKILL)
        slurm.wait_for(ready[killed]["job_id"], "FAILED")
        slurm.wait_for(ready[by_scancel]["job_id"], "CANCELLED")
        slurm.wait_for(ready[by_limit]["job_id"], "TIMEOUT", timeout_s=90)
        slurm.forget_finished_jobs()
        for session, expected in {
            by_scancel: ("SHUTDOWN", "cancelled"),
            by_limit: ("SHUTDOWN", "time-limit"),
            killed: ("FAILED", "job-exit"),
        }.items():
            assert slurm.state(ready[session]["job_id"]) == ""
            status = site.status(alice, session)
            assert (status["state"], status["reason"]) == expected, status
    finally:
        slurm.run_as(alice, ["scancel", "--me"])
        site.remove()


def test_a_preempted_session_is_requeued_and_ready_again_elsewhere(
    site: Site, slurm: Cluster, users: People
) -> None:
    alice = users.alice
    session = site.launch(alice, "simulated", "--profile", "preempt")
    first = site.until(alice, session, "READY")
    old_key = site.key(first)
    high = slurm.submit(alice, "sleep 8", "-p", "urgent", "-w", "g1", "--gpus=4", "-o", "/dev/null")
    site.until(alice, session, "PENDING", timeout_s=60)
    assert not (Path(first["directory"]) / "connection.json").exists()
    slurm.wait_for(high, "COMPLETED", timeout_s=60)
    again = site.until(alice, session, "READY", timeout_s=90)
    assert (again["job_id"], again["restarts"]) == (first["job_id"], 1)
    assert again["base_url"] != first["base_url"]
    assert site.key(again) != old_key
    assert "Simulated answer" in ask(site, again)


def test_where_preemption_cancels_that_is_the_end(site: Site, slurm: Cluster, users: People) -> None:
    alice = users.alice
    scavenge = {**SETTINGS["profiles"]["preempt"], "partition": "scavenge", "sbatch_args": ["--nodelist=g2"]}
    site.settle(profiles={"scavenge": scavenge})
    session = site.launch(alice, "simulated")
    ready = site.until(alice, session, "READY")
    high = slurm.submit(alice, "sleep 30", "-p", "urgent", "-w", "g2", "--gpus=4", "-o", "/dev/null")
    slurm.wait_for(high, "RUNNING")
    ended = site.until(alice, session, "SHUTDOWN", "FAILED")
    assert (ended["state"], ended["reason"]) == ("SHUTDOWN", "preempted"), ended
    assert ended["job_id"] == ready["job_id"]
    assert not {"connection.json", "api_key"} & set(os.listdir(ended["directory"]))
    slurm.scancel(high)


def test_habits_of_a_user_for_slurms_programs_change_nothing(
    site: Site, slurm: Cluster, users: People
) -> None:
    alice = users.alice
    habits: dict[str, Any] = {"SBATCH_TIMELIMIT": "7", "SBATCH_PARTITION": "urgent", "SBATCH_REQUEUE": "1"}
    habits |= {"SQUEUE_PARTITION": "urgent", "SQUEUE_FORMAT": "%j", "SQUEUE_STATES": "PENDING"}
    habits |= {"SLURM_TIME_FORMAT": "relative", "SCANCEL_PARTITION": "urgent"}
    answer = site.run(alice, "launch", "simulated", "--profile", "cpu", "--wait", "--json", **habits)
    assert answer.code == 0, answer
    assert answer.data["state"] == "READY"
    job = slurm.job(answer.data["job_id"])
    assert (job["TimeLimit"], job["Partition"]) == ("01:00:00", "cpu")
    assert answer.data["ends_at"] == pytest.approx(time.time() + 3600, abs=90)
    stopped = site.run(alice, "stop", answer.data["id"], "--json", **habits)
    assert stopped.data["reason"] == "user"
    slurm.wait_for(answer.data["job_id"], "CANCELLED", "COMPLETED", "FAILED")


def test_a_session_that_nobody_uses_stops(site: Site, users: People) -> None:
    session = site.launch(users.alice, "simulated", "--profile", "cpu", "--idle-minutes", "0.3")
    ready = site.until(users.alice, session, "READY")
    ask(site, ready)
    asked_at = time.time()
    deadline = asked_at + 15  # the countdown is written every ten seconds
    while (countdown := site.status(users.alice, session))["idle"] is None:
        assert time.time() < deadline, countdown
        time.sleep(0.5)
    idle = countdown["idle"]
    assert idle["limit_s"] == pytest.approx(18)
    # The gateway counts an answer as over a little after its client does.
    assert idle["since"] <= asked_at + 3
    assert idle["stops_at"] == pytest.approx(idle["since"] + 18)
    ended = site.until(users.alice, session, "SHUTDOWN")
    assert ended["reason"] == "idle"
    assert ended["since"] >= idle["stops_at"]


@pytest.mark.parametrize("engine", [(), ("--ignore-term", "30")], ids=["willing", "unwilling"])
def test_no_process_and_no_socket_stays_behind(site: Site, users: People, engine: tuple[str, ...]) -> None:
    session = site.launch(users.alice, "simulated", "--profile", "cpu", "--", *engine)
    ready = site.until(users.alice, session, "READY")
    supervisor = psutil.Process(ready["pid"])
    running = [supervisor, *supervisor.children(recursive=True)]
    assert len(running) >= 2  # the engine is the other
    sockets = Path(running[1].cwd())
    assert (sockets / "engine.sock").is_socket()
    stopped = site.run(users.alice, "stop", session, "--json").data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    _, left = psutil.wait_procs(running, timeout=20)
    assert left == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(ready["base_url"].replace("/v1", "/health"), timeout=5)
    if not engine:  # the other is killed by Slurm, supervisor and all, before it can clean up
        assert not sockets.exists()

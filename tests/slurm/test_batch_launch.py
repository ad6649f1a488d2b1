"""Several sessions as one heterogeneous job on a real Slurm: all or none, each with a life of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.site import ROOT, Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

# The backfill scheduler starts a heterogeneous job only where each component could have a node of its own.
CPU = {"model": "simulated", "profile": "cpu", "name": "first"}
GPU = {"model": "simulated", "profile": "gpu", "name": "second"}
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def batch(site: Site, users: People, *members: dict[str, Any], **more: Any) -> str:
    """The path of a batch file that Alice can read."""
    file = site.folder / "batch.yml"
    file.write_text(json.dumps({"members": members, **more}))
    file.chmod(0o644)
    return str(file)


@pytest.fixture(autouse=True)
def nothing_left(shared: Site, slurm: Cluster) -> Iterator[None]:
    yield
    for states in ("--state=PENDING", "--state=RUNNING"):
        slurm.run_as(slurm.people.alice, ["scancel", "--me", states])


@pytest.fixture(scope="module")
def shared(installed: Install, slurm: Cluster) -> Iterator[Site]:
    """One site for the tests of this file that change no settings."""
    made = Site(installed, slurm)
    yield made
    slurm.run_as(slurm.people.alice, ["scancel", "--me"])
    made.remove()


def launch(site: Site, users: People, *arguments: str) -> tuple[str, list[str]]:
    """The id of the batch's job, and those of its sessions."""
    answer = site.run(users.alice, "batch-launch", "--json", *arguments)
    assert answer.code == 0, answer
    return answer.data["job_id"], [session["id"] for session in answer.data["sessions"]]


def stop(site: Site, users: People, wanted: str) -> dict[str, Any]:
    answer = site.run(users.alice, "stop", wanted, "--json", timeout_s=100)
    assert answer.code == 0, answer
    return answer.data


def sessions_of(site: Site, users: People) -> list[str]:
    return [session["id"] for session in site.run(users.alice, "status", "--json").data["sessions"]]


def ready(site: Site, users: People, job: str) -> list[dict[str, Any]]:
    answer = site.run(users.alice, "wait", job, "--json", timeout_s=120)
    assert answer.code == 0, answer
    found: list[dict[str, Any]] = answer.data["sessions"]
    return found


def ask(site: Site, status: dict[str, Any]) -> str:
    with openai.OpenAI(base_url=status["base_url"], api_key=site.key(status), max_retries=0) as client:
        answer = client.chat.completions.create(
            model=status["served_name"], messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content or ""


def test_all_start_in_one_job_and_each_is_a_session_of_its_own(
    shared: Site, slurm: Cluster, users: People
) -> None:
    """vec-inf 9: one heterogeneous job, each with status and base URL; vec-inf 13: its script alone does it again."""
    alice = users.alice
    job, sessions = launch(shared, users, "--batch-config", batch(shared, users, CPU, GPU))
    both = ready(shared, users, job)
    assert [status["job_id"] for status in both] == [f"{job}+0", f"{job}+1"]
    assert [status["state"] for status in both] == ["READY", "READY"]
    assert len({status["base_url"] for status in both}) == 2
    keys = {shared.key(status) for status in both}
    assert len(keys) == 2
    for status in both:
        assert "Simulated answer" in ask(shared, status)
    with pytest.raises(openai.AuthenticationError):
        ask(shared, {**both[0], "key_file": both[1]["key_file"]})
    assert slurm.job(f"{job}+0")["Requeue"] == "0"  # Slurm might never start it again
    assert shared.status(alice, f"{job}+1")["id"] == sessions[1]
    assert [s["id"] for s in shared.status(alice, job)["sessions"]] == sessions
    assert sessions[0] in shared.run(alice, "status", job).text
    stopped = stop(shared, users, job)
    assert [(s["state"], s["reason"]) for s in stopped["sessions"]] == [("SHUTDOWN", "user")] * 2
    slurm.wait_for(f"{job}+0", "COMPLETED", "CANCELLED")

    script = Path(both[0]["directory"]) / "batch.sh"
    again = slurm.run_as(alice, ["sbatch", "--parsable", str(script)]).stdout.strip()
    slurm.wait_for(f"{again}+0", "RUNNING")
    anew = [shared.until(alice, session, "READY") for session in sessions]
    assert [status["job_id"] for status in anew] == [f"{again}+0", f"{again}+1"]
    assert not {shared.key(status) for status in anew} & keys
    stop(shared, users, again)


def test_one_member_fails_or_is_stopped_and_the_others_go_on(
    shared: Site, slurm: Cluster, users: People
) -> None:
    """vec-inf 9: each member ends with its own reason, the last one ends the job; one squeue tells of all."""
    alice = users.alice
    job, sessions = launch(shared, users, "--batch-config", batch(shared, users, CPU, GPU, GPU))
    first, second, third = ready(shared, users, job)
    assert asked_squeue(shared, users, "status", job, "--json") == 1

    os.kill(second["pid"], signal.SIGKILL)  # it can say no last word
    failed = shared.until(alice, sessions[1], "FAILED")
    assert failed["reason"] == "job-exit"
    assert not {"connection.json", "api_key"} & set(os.listdir(failed["directory"]))
    slurm.wait_for(f"{job}+1", "CANCELLED")  # its GPU is free again, before the others end

    stopped = stop(shared, users, f"{job}+0")  # where the batch's script runs
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    assert slurm.state(f"{job}+2") == "RUNNING"
    assert "Simulated answer" in ask(shared, third)

    slurm.run_as(alice, ["scancel", f"{job}+2"])  # nobody told the launcher
    assert shared.until(alice, sessions[2], "SHUTDOWN")["reason"] == "cancelled"
    slurm.wait_for(f"{job}+0", "COMPLETED", "FAILED")
    reasons = [status["reason"] for status in shared.status(alice, job)["sessions"]]
    assert reasons == ["user", "job-exit", "cancelled"]
    assert first["id"] == sessions[0]


def asked_squeue(site: Site, users: People, *arguments: str) -> int:
    """How often a command calls squeue."""
    folder = users.alice.folder()
    calls, program = folder / "calls", folder / "squeue"
    program.write_text(f'#!/bin/sh\necho >>{shlex.quote(str(calls))}\nexec /usr/bin/squeue "$@"\n')
    program.chmod(0o755)
    assert site.run(users.alice, *arguments, PATH=f"{folder}:/usr/bin:/bin").code == 0
    return len(calls.read_text().splitlines())


def test_together_means_that_the_end_of_one_ends_all(shared: Site, slurm: Cluster, users: People) -> None:
    """vec-inf 9: the first has a time limit of its own, though its job lasts longer; asked for, its end is all's."""
    short = {**CPU, "hours": 0.003}
    job, sessions = launch(shared, users, "--together", "--batch-config", batch(shared, users, short, GPU))
    assert slurm.job(f"{job}+0")["TimeLimit"] == "01:00:00"
    other = shared.until(users.alice, sessions[1], "SHUTDOWN")
    assert other["reason"] == "together"
    assert shared.status(users.alice, sessions[0])["reason"] == "time-limit"
    slurm.wait_for(f"{job}+0", "COMPLETED", "CANCELLED")


def test_a_member_stopped_in_the_queue_never_starts(shared: Site, slurm: Cluster, users: People) -> None:
    """vec-inf 9: a batch that waits shows why; without one member it starts, without all it leaves the queue."""
    alice = users.alice
    blocker = slurm.submit(alice, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(blocker, "RUNNING")
    file = batch(shared, users, CPU, GPU)
    job, sessions = launch(shared, users, "--batch-config", file)
    gone, _ = launch(shared, users, "--batch-config", file)
    assert {s["state"] for s in shared.status(alice, job)["sessions"]} == {"PENDING"}
    stopped = stop(shared, users, gone)["sessions"]
    assert [(s["state"], s["reason"]) for s in stopped] == [("SHUTDOWN", "user")] * 2
    slurm.wait_for(f"{gone}+0", "CANCELLED")

    one = stop(shared, users, f"{job}+1")
    assert (one["state"], one["reason"]) == ("SHUTDOWN", "user")
    assert shared.status(alice, sessions[0])["state"] == "PENDING"
    slurm.scancel(blocker)
    assert "Simulated answer" in ask(shared, shared.until(alice, sessions[0], "READY"))
    slurm.wait_for(f"{job}+1", "CANCELLED")
    assert shared.status(alice, sessions[1])["reason"] == "user"
    assert not (Path(one["directory"]) / "engine.log").exists()
    stop(shared, users, job)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"model": "simulatd"}, "simulatd"),
        ({"model": "simulated", "profile": "nope"}, "nope"),
        ({"model": "simulated", "profile": "cpu", "hours": 9}, "hour"),
        ({"model": "simulated", "profile": "cpu", "partition": "nowhere"}, "partition"),  # sbatch says so
        ({"model": "simulated", "profile": "cpu", "hour": 1}, "hour"),
        ({"profile": "cpu"}, "model"),
    ],
    ids=["model", "profile", "hours", "partition", "word", "none"],
)
def test_all_or_none(shared: Site, users: People, second: dict[str, Any], words: str) -> None:
    """vec-inf 9: what is wrong with one member stops all, and nothing is left of it."""
    alice = users.alice
    before = sessions_of(shared, users)
    answer = shared.run(alice, "batch-launch", "--json", "--batch-config", batch(shared, users, CPU, second))
    assert answer.code > 0
    assert words in answer.data["error"]["message"]
    assert sessions_of(shared, users) == before
    assert shared.slurm.run_as(alice, ["squeue", "--me", "--noheader", "--states=PENDING"]).stdout == ""


def test_a_job_that_depends_on_a_session_uses_it(shared: Site, slurm: Cluster, users: People) -> None:
    """vec-inf 14: a downstream job by --dependency, using what `launch --json` says."""
    alice = users.alice
    launched = shared.run(alice, "launch", "simulated", "--profile", "gpu", "--json").data
    folder = alice.folder()
    script, output = folder / "downstream.sh", folder / "answer"
    script.write_text((ROOT / "docs" / "examples" / "downstream.sh").read_text())
    options = [f"--dependency=after:{launched['job_id']}", "--kill-on-invalid-dep=yes", f"--output={output}"]
    argv = ["sbatch", "--parsable", *options, str(script), launched["id"]]
    done = slurm.run_as(alice, argv, env=shared.env)
    assert done.returncode == 0, done.stderr
    slurm.wait_for(done.stdout.strip(), "COMPLETED", "FAILED", timeout_s=90)
    assert "Simulated answer" in output.read_text(), output.read_text()
    assert shared.status(alice, launched["id"])["reason"] == "user"

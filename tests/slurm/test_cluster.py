"""The tests' Slurm does what other tests stand on; preemption and time limits are shown by whole sessions."""

from __future__ import annotations

import time

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = pytest.mark.slurm


def test_jobs_run_as_the_user_who_submitted(slurm: Cluster, users: People) -> None:
    for person in (users.alice, users.bob):
        output = person.folder() / "out"
        job = slurm.submit(person, "id -un; pwd; sleep 0.2", "-o", str(output))
        fields = slurm.wait_for(job, "COMPLETED")
        assert fields["NodeList"] == "c1"
        assert output.read_text().split() == [person.name, str(person.home)]
        assert output.stat().st_uid == person.uid


@pytest.mark.parametrize(
    ("request_", "seen"), [("--gpus=2", 2), ("--gres=gpu:a100:1", 1), ("--gpus-per-node=a100:4", 4)]
)
def test_gpus_are_handed_out(slurm: Cluster, request_: str, seen: int) -> None:
    alice = slurm.people.alice
    output = alice.folder() / "out"
    job = slurm.submit(alice, "echo $CUDA_VISIBLE_DEVICES", "-p", "gpu", request_, "-o", str(output))
    slurm.wait_for(job, "COMPLETED")
    assert len(output.read_text().strip().split(",")) == seen


def test_a_job_waits_for_gpus(slurm: Cluster) -> None:
    alice = slurm.people.alice
    options = ("-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    first = slurm.submit(alice, "sleep 60", *options)
    slurm.wait_for(first, "RUNNING")
    second = slurm.submit(alice, "sleep 60", *options)
    fields = slurm.wait_for(second, "PENDING")
    deadline = time.monotonic() + 10
    while fields["Reason"] not in ("Resources", "Priority") and time.monotonic() < deadline:
        time.sleep(0.2)
        fields = slurm.job(second)
    assert fields["Reason"] in ("Resources", "Priority")
    slurm.scancel(second, first)
    slurm.wait_for(first, "CANCELLED")


def test_sacct_fails_without_accounting(slurm: Cluster) -> None:
    done = slurm.run_as(slurm.people.alice, ["sacct"])
    assert done.returncode != 0
    assert "accounting storage is disabled" in done.stderr


def test_sacct_remembers_with_accounting(slurm_accounting: Cluster) -> None:
    alice = slurm_accounting.people.alice
    job = slurm_accounting.submit(alice, "exit 3", "-o", "/dev/null")
    slurm_accounting.wait_for(job, "FAILED")
    slurm_accounting.forget_finished_jobs()
    question = ["sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,ExitCode"]
    assert slurm_accounting.run_as(alice, question).stdout.strip() == f"{job}|FAILED|3:0"


def test_users_see_each_others_jobs_but_not_their_files(slurm: Cluster, users: People) -> None:
    private = users.alice.folder() / "secret"
    slurm.run_as(users.alice, ["sh", "-c", f"echo hidden > {private}"])
    assert slurm.run_as(users.bob, ["cat", str(private)]).returncode != 0
    job = slurm.submit(users.alice, "sleep 30", "-J", "named", "-o", "/dev/null")
    assert "named" in slurm.run_as(users.bob, ["squeue", "-h", "-o", "%j", "-j", job]).stdout
    assert slurm.run_as(users.bob, ["scancel", job]).returncode != 0
    slurm.scancel(job)

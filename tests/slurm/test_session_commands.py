"""Cleanup, details, records and reruns of sessions on a real Slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def test_cleanup_removes_what_is_over_and_a_record_starts_the_same_again(
    site: Site, slurm: Cluster, users: People
) -> None:
    """vec-inf 4: why it waits; vec-inf 10: by job ids; a dry run deletes nothing; the files of running jobs stay.

    The record of one user starts the same for another, who is charged himself.
    """
    alice, bob = users.alice, users.bob
    over, later = (
        site.launch(
            alice, "simulated", "--profile", "gpu", "--gpus", "1", "--memory-gb", "2", "--hours", "0.5"
        )
        for _ in range(2)
    )
    runs = site.launch(alice, "simulated", "--profile", "cpu")
    jobs = {session: site.until(alice, session, "READY") for session in (over, later, runs)}
    held = slurm.submit(alice, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    waits = site.launch(alice, "simulated", "--profile", "gpu")
    details = site.run(alice, "details", later, "--json").data
    assert details["job"]["id"] == jobs[later]["job_id"]
    assert site.key(jobs[later]) not in json.dumps(details)
    was = slurm.job(jobs[later]["job_id"])
    for session in (over, later):
        assert site.run(alice, "stop", session).code == 0
    shared = site.folder / "record.json"  # as one would publish it
    shared.write_text((Path(jobs[later]["directory"]) / "record.json").read_text())
    shared.chmod(0o644)
    slurm.forget_finished_jobs()

    number = jobs[later]["job_id"]
    dry = site.run(alice, "cleanup", "--before-job-id", number, "--dry-run", "--json")
    assert [one["id"] for one in dry.data["removed"]] == [over]
    assert Path(jobs[over]["directory"]).exists()
    gone = site.run(alice, "cleanup", "--before-job-id", number, "--yes", "--json")
    assert [one["id"] for one in gone.data["removed"]] == [over]
    assert not Path(jobs[over]["directory"]).exists()
    everything = site.run(alice, "cleanup", "--yes", "--json").data
    assert [one["id"] for one in everything["removed"]] == [later]
    assert {one["id"] for one in everything["kept"]} == {runs, waits}
    assert site.status(alice, runs)["state"] == "READY"
    pending = site.status(alice, waits)
    assert (pending["model_status"], pending["failed_reason"]) == ("PENDING", None)
    assert pending["pending_reason"] in ("resources", "priority")
    assert " Pending Reason " in site.run(alice, "status", waits).text
    slurm.scancel(held)

    # Nobody else can remove it, or read its record.
    assert site.run(bob, "cleanup", jobs[runs]["directory"], "--yes").code != 0
    assert site.run(bob, "record", f"{jobs[runs]['directory']}/preliminary.json").code != 0
    assert Path(jobs[runs]["directory"]).exists()

    assert site.run(bob, "rerun", str(shared), "--dry-run", "--json").data["differences"] == []
    started = site.run(bob, "rerun", str(shared), "--strict", "--json").data
    again = site.until(bob, started["id"], "READY")
    job = slurm.job(again["job_id"])
    same = ("Partition", "TimeLimit", "NumNodes", "NumCPUs", "MinMemoryNode", "TresPerNode")
    assert {name: job[name] for name in same} == {name: was[name] for name in same}
    assert (job["Partition"], job["TimeLimit"]) == ("gpu", "00:30:00")

"""The Python API on a real Slurm, as an ordinary user: a queue that costs nothing, several at once, asyncio."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

import pytest

from tests.programs.front import wait_until
from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, Person

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]

WAITING = """\
import json
from launcher import Launcher

with Launcher() as launcher:
    sessions = [launcher.launch("simulated", profile="gpu", name=name) for name in ("first", "second")]
    told = []
    connections = launcher.wait_all(
        sessions, 15, lambda session, status: told.append((session.plan.name, status.state, status.reason))
    )
    states = [status.state for status in launcher.statuses(sessions)]
    jobs = [session.job_id for session in sessions]
after = [(status.state, status.reason) for status in launcher.statuses(sessions)]
print(json.dumps({"told": told, "states": states, "after": after, "jobs": jobs,
                  "urls": [connection.base_url for connection in connections]}))
"""
ASYNCIO = """\
import asyncio
import json
from launcher import AsyncLauncher

async def main():
    async with AsyncLauncher(cluster="test") as launcher:
        members = [{"model": "simulated", "profile": profile} for profile in ("cpu", "gpu")]
        first, second = await launcher.batch_launch(members, hours=0.5)
        await launcher.wait_all([first, second], 60)
        members = [member.id for member in await launcher.members(first.job_id.partition("+")[0])]
        print(json.dumps({"jobs": [first.job_id, second.job_id], "same": members == [first.id, second.id]}))
    assert {(await each.status()).reason for each in (first, second)} == {"user"}

asyncio.run(main())
"""


def python(site: Site, person: Person, text: str) -> dict[str, Any]:
    """What a program of `person` prints, with the Python of the installed site."""
    program = site.install.launcher.replace("bin/launcher", "bin/python")
    done: subprocess.CompletedProcess[str] = site.slurm.run_as(
        person, [program, "-"], env=site.env, stdin=text, timeout_s=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_queue_costs_no_time_and_the_block_ends_its_jobs(
    site: Site, slurm: Cluster, users: People
) -> None:
    """vec-inf 11: the queue is longer than the time that a start is given; Blackfish 15: a block ends its jobs."""
    alice = users.alice
    blocker = slurm.submit(alice, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(blocker, "RUNNING")

    def free() -> None:
        # Both wait, and Slurm has said so more than once.
        wait_until(lambda: len(_waiting(slurm, alice)) == 2, 60)
        threading.Event().wait(16)
        slurm.scancel(blocker)

    thread = threading.Thread(target=free)
    thread.start()
    said = python(site, alice, WAITING)
    thread.join()
    assert ["first", "PENDING"] in [told[:2] for told in said["told"]]
    assert {told[0] for told in said["told"] if told[1] == "READY"} == {"first", "second"}
    assert said["states"] == ["READY", "READY"]
    assert said["after"] == [["SHUTDOWN", "user"], ["SHUTDOWN", "user"]]
    assert len(set(said["urls"])) == len(set(said["jobs"])) == 2


def _waiting(slurm: Cluster, person: Person) -> list[str]:
    argv = ["squeue", "--me", "--noheader", "--states=PENDING", "--format=%i"]
    return slurm.run_as(person, argv).stdout.split()


def test_a_batch_with_asyncio(site: Site, users: People) -> None:
    """vec-inf 9, 11, Blackfish 15: one job for both, ended with the block."""
    said = python(site, users.alice, ASYNCIO)
    first, second = said["jobs"]
    assert (first.rpartition("+")[2], second.rpartition("+")[2]) == ("0", "1")
    assert first.rpartition("+")[0] == second.rpartition("+")[0]
    assert said["same"]

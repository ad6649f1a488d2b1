"""An endpoint on a real Slurm: a small job of its own, sessions as jobs, a controller that is away for a while."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.programs.endpoint import Door, Load
from tests.programs.front import wait_until
from tests.site import SETTINGS, Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, Person

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

OFFERS = {
    "sim": {"model": "simulated", "profiles": ["cpu"], "hours": 0.5},
    "brittle": {"model": "simulated", "profiles": ["preempted"], "hours": 0.5},
    "nowhere": {"model": "simulated", "profiles": ["broken", "gpu"], "hours": 0.5},
    "crowded": {"model": "simulated", "profiles": ["whole", "gpu"], "hours": 0.5},
}


class Endpoint(Door):
    """Alice's endpoint, which a job of hers carries."""

    def __init__(self, site: Site, slurm: Cluster, alice: Person) -> None:
        super().__init__()
        self.site, self.slurm, self.alice = site, slurm, alice
        submitted = site.run(alice, "gateway", "submit", "--profile", "cpu", "--json")
        assert submitted.code == 0, submitted
        self.job = str(submitted.data["job"])
        self.find()
        token = site.run(alice, "keys", "get-access-token")
        assert token.code == 0, token
        self.key = token.text.strip()

    def find(self) -> None:
        """Where the gateway is now."""
        wait_until(lambda: self.status()["gateways"], 60)
        (gateway,) = self.status()["gateways"]
        self.pid, self.port = gateway["pid"], int(gateway["base_url"].rpartition(":")[2].partition("/")[0])

    def status(self) -> dict[str, Any]:
        found = self.site.run(self.alice, "gateway", "status", "--json")
        assert found.code == 0, found
        return found.data

    def jobs(self) -> list[str]:
        """The jobs of sessions that wait or run."""
        argv = ["squeue", "--me", "--noheader", "--format=%i %k"]
        lines = self.slurm.run_as(self.alice, argv).stdout.splitlines()
        return [line.split()[0] for line in lines if "launcher:" in line]


@pytest.fixture(scope="module")
def endpoint(installed: Install, slurm: Cluster, users: People) -> Iterator[Endpoint]:
    """One for all tests of this file."""
    site = Site(installed, slurm)
    profiles = {
        "broken": {"cluster": "test", "partition": "missing", "hours_max": 1},
        "preempted": {**SETTINGS["profiles"]["preempt"], "sbatch_args": ["--nodelist=g2"]},
        # The gateway's own job has a core of that node.
        "whole": {"cluster": "test", "partition": "cpu", "cpus": 8, "hours_max": 1},
    }
    site.settle(offers=OFFERS, profiles={**SETTINGS["profiles"], **profiles})
    yield Endpoint(site, slurm, users.alice)
    slurm.run_as(users.alice, ["scancel", "--me"])
    site.remove()


def test_fifty_first_requests_start_one_job_on_slurm(endpoint: Endpoint) -> None:
    """FIRST 3: fifty first requests start one job, on a real Slurm."""
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(endpoint.chat, "sim", hold_s=90) for _ in range(50)]
        assert Counter(one.result()[0] for one in asked) == {200: 50}
    (job,) = endpoint.jobs()
    status, listed, _ = endpoint.ask("GET", "/test/jobs")
    assert status == 200
    assert [(one["Job ID"], one["Models"]) for one in listed["running"]] == [(job, "sim")]


def test_a_controller_that_is_away_fails_no_request(endpoint: Endpoint, slurm: Cluster) -> None:
    """FIRST 1: requests go on while Slurm's controller is killed and started again; nothing is started twice."""
    assert endpoint.chat("sim", hold_s=90)[0] == 200
    before = endpoint.jobs()
    with Load(endpoint, "sim", threads=2) as load:
        load.more(5)
        with slurm.without_controller():
            load.more(100)
        load.more(50)
        wait_until(lambda: endpoint.jobs() == before, 40)
    assert set(load.statuses) == {200}, load.troubles


def test_a_profile_that_slurm_refuses_gives_way_to_the_next(endpoint: Endpoint, slurm: Cluster) -> None:
    """FIRST 7: where a start is refused, the next place of the offer serves."""
    before = set(endpoint.jobs())
    assert endpoint.chat("nowhere", hold_s=120)[0] == 200
    (job,) = set(endpoint.jobs()) - before
    assert slurm.job(job)["Partition"] == "gpu"


def test_a_profile_without_room_is_passed_over(endpoint: Endpoint, slurm: Cluster) -> None:
    """FIRST 7: the first place with capacity serves, so that nobody waits for a full one while another is idle."""
    before = set(endpoint.jobs())
    assert endpoint.chat("crowded", hold_s=120)[0] == 200
    (job,) = set(endpoint.jobs()) - before
    assert slurm.job(job)["Partition"] == "gpu"


def test_a_cancelled_job_is_noticed_and_started_again_when_asked_for(
    endpoint: Endpoint, slurm: Cluster
) -> None:
    assert endpoint.chat("sim", hold_s=90)[0] == 200
    before = endpoint.jobs()
    listed = endpoint.ask("GET", "/test/jobs")[1]["running"]
    job = next(one["Job ID"] for one in listed if one["Models"] == "sim")
    slurm.scancel(job)
    wait_until(lambda: job not in endpoint.jobs(), 40)
    assert endpoint.chat("sim", hold_s=90)[0] == 200
    assert len(set(endpoint.jobs()) - set(before)) == 1


def test_a_preempted_session_is_seen_at_once_and_serves_again(
    endpoint: Endpoint, slurm: Cluster, users: People
) -> None:
    assert endpoint.chat("brittle", hold_s=90)[0] == 200
    (job,) = [job for job in endpoint.jobs() if slurm.job(job)["Partition"] == "preempt"]
    urgent = slurm.submit(users.bob, "sleep 5", "-p", "urgent", "-w", "g2", "--gpus=4", "-o", "/dev/null")
    slurm.wait_for(urgent, "RUNNING")
    refused = endpoint.chat("brittle")
    assert (refused[0], refused[1]["error"]["code"]) == (503, "model_starting")
    assert endpoint.chat("brittle", hold_s=120)[0] == 200
    assert slurm.job(job)["Restarts"] == "1"
    assert len([one for one in endpoint.jobs() if slurm.job(one)["Partition"] == "preempt"]) == 1


def test_a_killed_gateway_job_runs_again_and_finds_its_sessions(endpoint: Endpoint, slurm: Cluster) -> None:
    """FIRST 1: after kill -9 of the gateway another one serves on the same port, with the same keys and sessions."""
    before, port = endpoint.jobs(), endpoint.port
    os.kill(endpoint.pid, signal.SIGKILL)
    slurm.wait_for(endpoint.job, "COMPLETED", "FAILED", "CANCELLED")
    again = endpoint.site.run(endpoint.alice, "gateway", "submit", "--profile", "cpu", "--json")
    assert again.code == 0, again
    wait_until(lambda: [one for one in endpoint.status()["gateways"] if one["pid"] != endpoint.pid], 60)
    assert endpoint.chat("sim", hold_s=60)[0] == 200
    assert endpoint.port == port
    assert endpoint.jobs() == before
    ended = endpoint.site.run(endpoint.alice, "gateway", "stop", "--sessions", "--json")
    assert ended.code == 0, ended
    assert ended.data["job"] == again.data["job"]
    wait_until(lambda: not endpoint.jobs(), 60)

"""An endpoint on a real Slurm: a small job of its own, sessions as jobs, and what may end any of them, under load."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.programs.endpoint import Door, Load
from tests.programs.front import wait_until
from tests.site import SETTINGS, Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, Person

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

OFFERS = {
    "sim": {"model": "simulated", "profiles": ["cpu", "gpu"], "hours": 0.5},
    "brief": {"model": "simulated", "profiles": ["core"], "hours": 1 / 60},  # Slurm's least limit
    "brittle": {"model": "simulated", "profiles": ["preempted"], "hours": 0.5},
    "nowhere": {"model": "simulated", "profiles": ["broken", "gpu"], "hours": 0.5},
    "crowded": {"model": "simulated", "profiles": ["whole", "gpu"], "hours": 0.5},
}
# Slurm looks every 30 s for what to warn or to end: so early a limit must be set for the job to be warned at once.
_WARNED_S = 145.0
LINES = 500  # of the batch run: more than one job of a minute answers
SLOW = ("--start-delay-s", "0", "--first-token-ms", "500", "--token-rate", "0")


class Endpoint(Door):
    """Alice's endpoint, which a job of hers carries; other offers than `sim` are asked for from the beginning."""

    def __init__(self, site: Site, slurm: Cluster, alice: Person, threads: ThreadPoolExecutor) -> None:
        super().__init__()
        self.site, self.slurm, self.alice = site, slurm, alice
        submitted = site.run(alice, "gateway", "submit", "--profile", "cpu", "--json")
        assert submitted.code == 0, submitted
        self.job = str(submitted.data["job"])
        self.find()
        self.followed = threads.submit(self._follow)
        token = site.run(alice, "keys", "get-access-token")
        assert token.code == 0, token
        self.key = token.text.strip()
        names = [name for name in OFFERS if name != "sim"]
        self.firsts: dict[str, Future[Any]] = {
            name: threads.submit(self.chat, name, hold_s=120) for name in names
        }

    def _follow(self) -> str:
        """The job that follows: submitted near the limit of the first, which is then moved away from the tests."""
        self.slurm.end_time_limit(self.job, _WARNED_S)
        wait_until(lambda: len(self.carriers()) == 2, 120)
        self.slurm.scontrol("update", f"JobId={self.job}", "TimeLimit=60")
        (following,) = set(self.carriers()) - {self.job}
        return following

    def find(self, *, other_than: int | None = None) -> None:
        """Where the gateway is now, once it is not that process."""

        def there() -> list[dict[str, Any]]:
            return [one for one in self.status()["gateways"] if one["pid"] != other_than]

        wait_until(there, 90)
        (gateway,) = there()
        self.pid, self.port = gateway["pid"], int(gateway["base_url"].rpartition(":")[2].partition("/")[0])

    def status(self) -> dict[str, Any]:
        found = self.site.run(self.alice, "gateway", "status", "--json")
        assert found.code == 0, found
        return found.data

    def jobs(self, model: str) -> list[str]:
        """The jobs of the model's sessions that wait or run, as Slurm has them."""
        return [job for job, told in self._squeue("%i %k") if told.startswith(f"launcher:{model}-")]

    def session(self, job: str) -> str:
        """The session that the job carries."""
        return dict(self._squeue("%i %k"))[job].removeprefix("launcher:")

    def carriers(self) -> list[str]:
        """The jobs that carry the gateway, or wait to do so."""
        return [job for job, name in self._squeue("%i %j") if name == "launcher-gateway"]

    def _squeue(self, form: str) -> list[tuple[str, str]]:
        argv = ["squeue", "--me", "--noheader", f"--format={form}"]
        lines = self.slurm.run_as(self.alice, argv).stdout.splitlines()
        return [(job, rest) for job, _, rest in (line.strip().partition(" ") for line in lines)]

    def counted(self, model: str) -> int:
        """How many answers the usage has of a model."""
        found = self.site.run(self.alice, "usage", "--by", "model", "--json").data["usage"]
        return sum(one["requests"] - one["errors"] for one in found if one["name"] == model)


@pytest.fixture(scope="module")
def endpoint(installed: Install, slurm: Cluster, users: People) -> Iterator[Endpoint]:
    """One for all tests of this file."""
    site = Site(installed, slurm)
    profiles = {
        "broken": {"cluster": "test", "partition": "missing", "hours_max": 1},
        "core": {**SETTINGS["profiles"]["cpu"], "cpus": 1},
        "preempted": {**SETTINGS["profiles"]["preempt"], "sbatch_args": ["--nodelist=g2"]},
        # The gateway's own job has a core of that node.
        "whole": {"cluster": "test", "partition": "cpu", "cpus": 8, "hours_max": 1},
    }
    # A folder of its own: what belongs to the endpoint lies beside that of the sessions.
    places = {"sessions": f"{site.sessions}/sessions"}
    site.settle(offers=OFFERS, profiles={**SETTINGS["profiles"], **profiles}, places=places)
    with ThreadPoolExecutor(len(OFFERS) + 1) as threads:
        yield Endpoint(site, slurm, users.alice, threads)
    print((users.alice.home / site.folder.name / "endpoint" / "gateway.log").read_text())
    slurm.run_as(users.alice, ["scancel", "--me", "--state=PENDING"])
    slurm.run_as(users.alice, ["scancel", "--me"])
    site.remove()


@pytest.fixture(scope="module")
def brief(endpoint: Endpoint) -> Iterator[Load]:
    """Steady requests, none of which waits for a start, from the first session's on until it was handed over."""
    assert endpoint.firsts["brief"].result()[0] == 200
    with Load(endpoint, "brief", threads=2, pause_s=0.1) as load:
        yield load


@pytest.fixture(scope="module")
def urgent(endpoint: Endpoint, slurm: Cluster, users: People) -> str:
    """A job that preempts the one of `brittle`; Slurm looks every 30 s whether its time of grace is over."""
    assert endpoint.firsts["brittle"].result()[0] == 200
    return slurm.submit(users.bob, "sleep 300", "-p", "urgent", "-w", "g2", "--gpus=4", "-o", "/dev/null")


@pytest.fixture(scope="module", autouse=True)
def run(endpoint: Endpoint) -> dict[str, Any]:
    """A batch run in jobs of its own, each of one minute, which goes on while the other tests run."""
    folder = endpoint.alice.folder("batch-")
    source = folder / "in.jsonl"
    with source.open("w") as file:
        for number in range(LINES):
            body = {"model": "simulated", "messages": [{"role": "user", "content": f"question {number}"}]}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    source.chmod(0o644)
    words = (
        "batch",
        "run",
        str(source),
        "-o",
        str(folder / "out.jsonl"),
        "--window",
        "4",
        "--detach",
        "--json",
    )
    begun = endpoint.site.run(endpoint.alice, *words, "--profile", "core", "--time", "0:01:00", "--", *SLOW)
    assert begun.code == 0, begun
    return begun.data


def test_fifty_first_requests_start_one_job_on_slurm(endpoint: Endpoint) -> None:
    """FIRST 3: fifty first requests start one job, on a real Slurm."""
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(endpoint.chat, "sim", hold_s=90) for _ in range(50)]
        assert Counter(one.result()[0] for one in asked) == {200: 50}
    (job,) = endpoint.jobs("sim")
    status, listed, _ = endpoint.ask("GET", "/test/jobs")
    assert status == 200
    running = {one["Job ID"]: one["Models"] for one in listed["running"]}
    assert running[job] == "sim"


def test_a_controller_that_is_killed_fails_no_request(endpoint: Endpoint, slurm: Cluster) -> None:
    """FIRST 1: requests go on while Slurm's controller is killed and started again; nothing is started twice."""
    before = endpoint.jobs("sim")
    with Load(endpoint, "sim", threads=2) as load:
        load.more(5)
        with slurm.without_controller():
            load.more(60)
        load.more(20)
        wait_until(lambda: endpoint.jobs("sim") == before, 40)
    assert set(load.statuses) == {200}, load.troubles


@pytest.mark.usefixtures("brief", "urgent")
@pytest.mark.parametrize("offer", ["nowhere", "crowded"])
def test_a_profile_that_slurm_refuses_or_has_no_room_for_gives_way_to_the_next(
    endpoint: Endpoint, slurm: Cluster, offer: str
) -> None:
    """FIRST 7: where a start is refused, or would wait while another place is idle, that other place serves."""
    assert endpoint.firsts[offer].result()[0] == 200
    (job,) = endpoint.jobs(offer)
    assert slurm.job(job)["Partition"] == "gpu"


def test_a_session_that_is_killed_or_cancelled_gives_way_to_one_more(
    endpoint: Endpoint, slurm: Cluster
) -> None:
    """FIRST 7: what had not begun is answered by the next session of the model, whatever ended the one before."""
    with Load(endpoint, "sim", threads=2, hold_s=90) as load:
        for killed in (True, False):
            load.more(5)
            (job,) = endpoint.jobs("sim")
            if killed:
                (session,) = [one for one in endpoint.status()["sessions"] if one["model"] == "sim"]
                os.kill(endpoint.site.status(endpoint.alice, session["session"])["pid"], signal.SIGKILL)
            else:
                slurm.scancel(job)
            slurm.wait_for(job, "FAILED", "CANCELLED", "COMPLETED")
            load.more(5)
            (now,) = endpoint.jobs("sim")
            assert now != job
    assert set(load.statuses) == {200}, load.troubles


def test_a_preempted_session_is_seen_at_once_and_serves_again(
    endpoint: Endpoint, slurm: Cluster, urgent: str
) -> None:
    (job,) = endpoint.jobs("brittle")
    slurm.wait_for(urgent, "RUNNING")
    refused = endpoint.chat("brittle")
    assert (refused[0], refused[1]["error"]["code"]) == (503, "model_starting")
    slurm.scancel(urgent)
    assert endpoint.chat("brittle", hold_s=120)[0] == 200
    assert slurm.job(job)["Restarts"] == "1"
    assert endpoint.jobs("brittle") == [job]


def test_a_session_is_handed_over_before_its_time_limit_with_no_failed_request(
    endpoint: Endpoint, slurm: Cluster, brief: Load
) -> None:
    """FIRST 5: under steady load a successor takes over from a job that Slurm would end; nobody notices."""
    first, *_ = sorted(endpoint.jobs("brief"), key=int)
    session = endpoint.session(first)
    slurm.wait_for(first, "COMPLETED", "CANCELLED", "TIMEOUT", "FAILED", timeout_s=120)
    brief.more(20)
    brief.stop()
    assert set(brief.statuses) == {200}, brief.troubles
    assert endpoint.site.until(endpoint.alice, session, "SHUTDOWN")["reason"] == "handed-over"
    assert len(endpoint.jobs("brief")) == 1


def test_a_gateway_that_is_killed_or_reaches_its_time_limit_is_there_again(
    endpoint: Endpoint, slurm: Cluster
) -> None:
    """FIRST 1: killed it goes on in its job, and at the limit in the next one: same port, keys, sessions and usage."""
    sessions, port = endpoint.jobs("sim"), endpoint.port
    before = endpoint.counted("sim")
    following = endpoint.followed.result()
    wait_until(lambda: slurm.job(following)["Reason"] == "Dependency", 60)
    slurm.end_time_limit(endpoint.job)
    with Load(endpoint, "sim", threads=2) as load:
        load.more(5)
        killed = endpoint.pid
        os.kill(killed, signal.SIGKILL)
        endpoint.find(other_than=killed)
        load.more(20)
        slurm.wait_for(endpoint.job, "TIMEOUT", "COMPLETED", timeout_s=90)
        endpoint.find(other_than=endpoint.pid)
        load.more(20)
    assert endpoint.port == port
    assert endpoint.carriers() == [following]
    assert endpoint.jobs("sim") == sessions
    # Nobody listened, it was killed in the middle of the answer, or it said when to come again.
    refused = {0, 1, 503}
    assert set(load.statuses) <= {200, *refused}, load.troubles
    answered, lost = load.statuses[200], sum(load.statuses[one] for one in refused)
    wait_until(lambda: endpoint.counted("sim") >= before + answered)
    assert endpoint.counted("sim") <= before + answered + lost


def test_a_batch_run_goes_on_in_the_job_after_its_time_limit(endpoint: Endpoint, run: dict[str, Any]) -> None:
    """FIRST 9: before Slurm would end its job a run drains it and submits the next; each line is answered once."""

    def now() -> dict[str, Any]:
        return endpoint.site.run(endpoint.alice, "batch", "status", run["output"], "--json").data

    wait_until(lambda: now()["state"] == "completed", 120)
    assert (now()["answered"], now()["failed"]) == (LINES, 0)
    ids = [json.loads(line)["custom_id"] for line in Path(run["output"]).read_text().splitlines()]
    assert sorted(ids) == sorted(f"r{number}" for number in range(LINES))
    first, *_, last = now()["sessions"]
    assert endpoint.site.until(endpoint.alice, first, "SHUTDOWN")["reason"] == "time-limit"
    assert endpoint.site.until(endpoint.alice, last, "SHUTDOWN")["reason"] == "batch-done"
    job = endpoint.site.status(endpoint.alice, first)["job_id"]
    assert endpoint.slurm.state(job) == "COMPLETED", "Slurm did not have to end it"


def test_stop_ends_the_job_that_carries_it_and_the_one_that_waits(endpoint: Endpoint, slurm: Cluster) -> None:
    (carrier,) = endpoint.carriers()
    for _ in range(2):  # as Slurm warns a job before its limit; once more, as of one that was requeued
        slurm.scancel("--batch", "--signal=USR1", carrier)
        wait_until(lambda: len(endpoint.carriers()) == 2, 60)
    assert endpoint.status()["job"]["id"] == carrier
    ended = endpoint.site.run(endpoint.alice, "gateway", "stop", "--sessions", "--json")
    assert ended.code == 0, ended
    assert ended.data["job"] == carrier
    wait_until(lambda: not endpoint.carriers() and not any(map(endpoint.jobs, OFFERS)), 60)

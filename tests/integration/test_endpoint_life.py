"""The life of an endpoint with real processes: what starts, what takes over, what is found again after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher import Session
from tests.programs.endpoint import Endpoint, Load
from tests.programs.front import wait_until
from tests.programs.postgres import Postgres

pytestmark = pytest.mark.timeout(180)

PAIR = {"sim": {"model": "simulated"}, "twin": {"model": "simulated", "minimum": 2, "maximum": 2}}

OLD = {
    "brief": {"model": "simulated", "hours": 0.022},
    "idler": {"model": "simulated", "idle_minutes": 0.05},
    "hot": {"model": "simulated", "idle_minutes": 0.05, "minimum": 1},
    "slow": {
        "model": "simulated",
        "idle_minutes": 0.05,
        "maximum": 2,
        "in_flight": 1,
        "launch": {"engine_args": ["--token-rate", "1.5", "--answer", "la " * 60]},
    },
}


@pytest.fixture(scope="module")
def pair(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two gateways of one user on one state in PostgreSQL, for all tests of this file."""
    state, folder = postgres.database(), tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as kept:
        one = kept.enter_context(Endpoint(folder, PAIR, state=state))
        two = Endpoint(folder, PAIR, state=state, port=0)
        two.key = one.key
        yield one, kept.enter_context(two)


class Meanwhile:
    """An endpoint of its own whose sessions grow old while the other tests run."""

    def __init__(self, folder: Path, kept: contextlib.ExitStack) -> None:
        self.endpoint = kept.enter_context(Endpoint(folder, OLD))
        threads = kept.enter_context(ThreadPoolExecutor(4))
        firsts = [threads.submit(self.endpoint.chat, name, hold_s=90, max_tokens=1) for name in OLD]
        assert [one.result()[0] for one in firsts] == [200] * 4
        (self.first,) = self.living("brief-")
        self.streams = [threads.submit(self.endpoint.chat, "slow", stream=True) for _ in range(2)]
        self.load = kept.enter_context(Load(self.endpoint, "brief", threads=2, pause_s=0.1, hold_s=60))

    def living(self, beginning: str) -> list[Session]:
        """The sessions whose id begins so and that are not over."""
        return [session for session in self.endpoint.sessions() if session.id.startswith(beginning)]


@pytest.fixture(scope="module", autouse=True)
def meanwhile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meanwhile]:
    with contextlib.ExitStack() as kept:
        yield Meanwhile(tmp_path_factory.mktemp("old"), kept)


def test_fifty_first_requests_at_two_gateways_start_one_job(pair: tuple[Endpoint, Endpoint]) -> None:
    """FIRST 3: fifty first requests start one job, also with two gateways; one that is not held is told when."""
    one, two = pair
    status, answer, headers = one.chat("sim")
    assert (status, answer["error"]["code"]) == (503, "model_starting")
    assert answer["error"]["state"] == "starting"
    assert int(headers["retry-after"]) > 0
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(pair[n % 2].chat, "sim", hold_s=60) for n in range(50)]
        assert Counter(one.result()[0] for one in asked) == {200: 50}
    # The fifty of a burst are no reason to start a second one: they were answered before it could be there.
    assert len([s for s in one.all_sessions() if s.id.startswith("sim-")]) == 1
    assert [row.slot for row in two.rows() if row.model == "sim"] == [0]
    shown = {
        name: endpoint.ask("GET", "/v1/models")[1]["data"] for name, endpoint in zip("ab", pair, strict=True)
    }
    assert shown["a"] == shown["b"]
    assert {model["id"]: model["state"] for model in shown["a"]}["sim"] == "ready"


def test_the_jobs_are_listed_as_they_are(pair: tuple[Endpoint, Endpoint]) -> None:
    """FIRST 6: the jobs of a cluster, running and others; another cluster is not known."""
    one, _ = pair
    one.chat("sim", hold_s=60)
    status, jobs, _ = one.ask("GET", "/local/jobs")
    assert status == 200
    (running,) = [job for job in jobs["running"] if job["Models"] == "sim"]
    assert (running["Models"], running["Framework"], running["Cluster"]) == ("sim", "simulated", "local")
    assert jobs["queued"] == []
    assert one.ask("GET", "/elsewhere/jobs")[0] == 404


def test_a_replica_that_is_killed_under_load_fails_no_request(pair: tuple[Endpoint, Endpoint]) -> None:
    """FIRST 7: what had not begun goes to another replica, and a new replica comes."""
    one, two = pair
    wait_until(lambda: len(replicas(one, "twin")) == 2, 60)
    with Load(one, "twin", threads=4) as load:
        load.more(10)
        killed = next(s for s in one.sessions() if s.id in replicas(one, "twin"))
        pid = killed.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        load.more(20)
        wait_until(lambda: killed.id not in (now := replicas(one, "twin")) and len(now) == 2, 60)
    assert set(load.statuses) == {200}, load.troubles
    wait_until(lambda: replicas(one, "twin") == replicas(two, "twin"))


def test_a_gateway_that_is_killed_finds_its_sessions_and_the_other_goes_on(
    pair: tuple[Endpoint, Endpoint],
) -> None:
    """FIRST 1: the address outlives the process behind it: kill -9, the same port, the same sessions and keys."""
    one, two = pair
    one.chat("sim", hold_s=60)
    before, url = {session.id for session in one.sessions()}, one.url
    with Load(two, "sim", threads=2) as load:
        one.kill()
        load.more(10)
        one.start()
        assert one.url == url
        assert one.chat("sim", hold_s=10)[0] == 200
        load.more(10)
    assert set(load.statuses) == {200}
    assert {session.id for session in one.sessions()} <= before
    assert len(one.all_sessions()) == len(
        {row.session for row in one.rows()} | {s.id for s in one.all_sessions()}
    )


def test_it_tells_where_it_is_and_ends(pair: tuple[Endpoint, Endpoint]) -> None:
    one, two = pair
    found = command(one, "status", "--json")
    assert {each["base_url"] for each in found["gateways"]} == {one.url, two.url}
    assert {each["session"] for each in found["sessions"]} == {s.id for s in one.sessions()}
    assert two.key not in json.dumps(found)
    assert two.process is not None
    two.process.terminate()  # Slurm and the script of a gateway's job both say it: that is no wish for haste
    assert two.terminate() == 0
    assert [each["base_url"] for each in command(one, "status", "--json")["gateways"]] == [one.url]
    ended = command(one, "stop", "--sessions", "--json")
    assert len(ended["sessions"]) == len(found["sessions"])
    assert one.process is not None
    assert one.process.wait(30) == 0
    wait_until(lambda: not one.sessions(), 60)


def test_a_successor_takes_over_before_the_time_limit_with_no_failed_request(meanwhile: Meanwhile) -> None:
    """FIRST 5: a replica that leaves is drained, and its successor is there before; no request fails."""
    wait_until(lambda: meanwhile.first.status().ended, 150)
    over = meanwhile.first.status()
    ever = [session for session in meanwhile.endpoint.all_sessions() if session.id.startswith("brief-")]
    (second, *_) = [session for session in ever if session.id != meanwhile.first.id]
    assert (over.reason, over.message) == ("handed-over", f"It was handed over to session {second.id}.")
    meanwhile.load.more(20)
    assert set(meanwhile.load.statuses) == {200}, meanwhile.load.troubles
    assert meanwhile.living("brief-")


def test_what_idles_is_stopped_but_not_what_is_kept_hot_nor_a_running_stream(meanwhile: Meanwhile) -> None:
    """FIRST 4: an idle session is stopped; one that is kept hot is not, and a running stream keeps its own alive."""
    wait_until(lambda: not meanwhile.living("idler-"), 90)
    stopped = meanwhile.endpoint.ask("GET", "/local/jobs")[1]["stopped"]
    assert "idler" in [job["Models"] for job in stopped]
    assert meanwhile.living("hot-")
    if not all(stream.done() for stream in meanwhile.streams):
        assert meanwhile.living("slow-")
    for stream in meanwhile.streams:
        status, answer, _ = stream.result(90)
        assert status == 200
        assert answer.rstrip().endswith("data: [DONE]")


def test_more_requests_than_one_replica_carries_start_another_which_leaves_again(
    meanwhile: Meanwhile,
) -> None:
    """FIRST 5: requests that stay raise the replicas up to the maximum; drained ones leave, and none fails."""
    wait_until(lambda: not meanwhile.living("slow-"), 120)
    ever = [session for session in meanwhile.endpoint.all_sessions() if session.id.startswith("slow-")]
    assert len(ever) == 2, meanwhile.endpoint.log.read_text()


def replicas(endpoint: Endpoint, name: str) -> set[str]:
    """Those that answer, as `/status` has them."""
    (model,) = [one for one in endpoint.ask("GET", "/status")[1]["models"] if one["name"] == name]
    return {one["id"] for one in model["replicas"] if not one["leaving"]}


def command(endpoint: Endpoint, *words: str) -> Any:
    argv = [sys.executable, "-m", "launcher", "gateway", *words]
    done = subprocess.run(argv, env=endpoint.env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

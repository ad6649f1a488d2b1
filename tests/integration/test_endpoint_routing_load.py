"""An endpoint over three real engines that are not equally quick, under load: shares, and one that is killed."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.programs.front import Answer, chat, events, wait_until
from tests.programs.replicas import Replica, RunningEndpoint, endpoint

CHAT = "/v1/chat/completions"


@pytest.fixture
def front() -> Iterator[RunningEndpoint]:
    """An endpoint without any model."""
    with endpoint() as made:
        yield made


@pytest.fixture(scope="module")
def trio() -> Iterator[list[Replica]]:
    """Three replicas as quick as 1:2:4, started at once."""
    rates = ("20", "40", "80")
    with tempfile.TemporaryDirectory(prefix="iod") as folder, ThreadPoolExecutor(3) as pool:
        arguments = ("--first-token-ms", "0", "--tokens", "8", "--token-rate")
        made = list(pool.map(lambda rate: Replica(Path(folder) / rate, *arguments, rate, quick=False), rates))
        yield made
        for replica in made:
            replica.close()


def test_shares_of_real_replicas_follow_their_speed(front: RunningEndpoint, trio: list[Replica]) -> None:
    """Three simulated engines as quick as 1:2:4 get requests about as quickly as they answer here.

    How exactly is what tests/unit/test_endpoint_routing.py simulates; on a busy machine a measured speed is a guess.
    """
    lanes = front.fleet.add("m", *(replica.place for replica in trio))
    left = itertools.count()

    def ask(_: int) -> None:
        while next(left) < 300:
            assert front.ask("POST", CHAT, body=chat(model="m")).status == 200

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(ask, range(9)))
    got = [replica.usage.requests for replica in trio]
    speeds = [lane.speed or 0.0 for lane in lanes]
    for count, speed in zip(got, speeds, strict=True):
        assert count / sum(got) == pytest.approx(speed / sum(speeds), rel=0.4), (got, speeds)
    assert got[0] < got[1] < got[2]


def test_nothing_is_lost_but_started_streams_when_a_replica_is_killed_under_load(
    front: RunningEndpoint, trio: list[Replica]
) -> None:
    """FIRST 7: kill -9 of one of three engines: every request is answered, and a stream that was cut says so."""
    front.fleet.add("m", *(replica.place for replica in trio))
    enough, answers = threading.Event(), list[tuple[bool, Answer]]()

    def ask(streamed: bool) -> None:
        while not enough.is_set():
            answers.append((streamed, front.ask("POST", CHAT, body=chat(model="m", stream=streamed))))

    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 30)
    trio[0].engine.kill()
    wait_until(lambda: "m-1" in front.fleet.looked_at)
    before = len(answers)
    wait_until(lambda: len(answers) > before + 30)
    enough.set()
    for thread in threads:
        thread.join()
    assert {answer.status for _, answer in answers} == {200}
    cut = 0
    for streamed, answer in answers:
        assert streamed or answer.json()["usage"]["completion_tokens"] == 8
        if streamed and b"[DONE]" not in answer.body:
            assert events(answer.body)[-1]["error"]["code"] == "engine_died"
            cut += 1
    moved, lost = front.front.counts.moved, front.front.counts.lost
    assert lost == cut
    assert 1 <= moved + lost <= 8
    assert front.status()["moved"] == moved

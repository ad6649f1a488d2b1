"""Waiting for sessions on a Slurm whose squeue says what the test has written; the clock is the test's own."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from launcher import Session
from launcher.api import waiting
from launcher.errors import SchedulerError, SessionError
from launcher.planning import Request, make_plan
from launcher.sessions.job import write_job_id
from launcher.sessions.paths import SessionPaths
from launcher.settings.layers import load

SQUEUE = """\
#!/bin/sh
echo asked >>"{folder}/asked"
exec cat "{folder}/said"
"""


class Desk:
    """Sessions of jobs 1, 2, …, what squeue says of them, and the time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.folder, self.now = folder, 0.0
        (folder / "squeue").write_text(SQUEUE.format(folder=folder))
        (folder / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr("launcher.api.waiting.time.monotonic", lambda: self.now)
        self.sessions = [self._session(str(number)) for number in range(1, count + 1)]

    def _session(self, job_id: str) -> Session:
        plan = make_plan(Request("simulated"), load({}), door="python")
        plan = dataclasses.replace(plan, cluster=dataclasses.replace(plan.cluster, scheduler="slurm"))
        paths = SessionPaths(self.folder / plan.id)
        paths.root.mkdir()
        paths.plan.write_text(plan.to_json())
        write_job_id(paths.job, job_id)
        return Session(paths)

    def say(self, *states: str) -> None:
        lines = [
            f"{number}|{state}|None|{int(time.time()) - 9}|{int(time.time()) + 999}|c1|launcher:{session.id}"
            for number, (session, state) in enumerate(zip(self.sessions, states, strict=True), 1)
        ]
        (self.folder / "said").write_text("\n".join(lines) + "\n")

    def asked(self) -> int:
        return len((self.folder / "asked").read_text().splitlines())

    def take(self, steps: waiting.Steps[object]) -> list[str]:
        """The states that are told until the next pause, and then two seconds and a half."""
        told = []
        while (step := next(steps)) is not None:
            told.append(step[1].state)
        self.now += 2.5
        return told


def test_the_time_in_the_queue_is_free_also_after_a_preemption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vec-inf 11, Blackfish 3: no time in the queue counts, neither before the first start nor after a preemption."""
    desk = Desk(tmp_path, monkeypatch, 1)
    steps = waiting.until_ready(desk.sessions, 4.0)
    desk.say("PENDING")
    assert [desk.take(steps) for _ in range(4)] == [["PENDING"], [], [], []]
    desk.say("RUNNING")
    assert desk.take(steps) == ["LAUNCHING"]
    desk.say("PENDING")
    assert [desk.take(steps) for _ in range(4)] == [["PENDING"], [], [], []]
    desk.say("RUNNING")
    assert [desk.take(steps) for _ in range(2)] == [["LAUNCHING"], []]
    with pytest.raises(SessionError, match="is not ready after 4 s"):
        desk.take(steps)


def test_each_session_has_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch, 2)
    steps = waiting.until_ready(desk.sessions, 4.0)
    desk.say("RUNNING", "PENDING")
    desk.take(steps)
    desk.say("PENDING", "RUNNING")
    desk.take(steps)
    desk.say("RUNNING", "RUNNING")
    assert desk.take(steps) == ["LAUNCHING"]
    with pytest.raises(SessionError, match=f"Session {desk.sessions[1].id} is not ready"):
        desk.take(steps)


def test_one_question_to_slurm_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch, 5)
    desk.say(*["PENDING"] * 5)
    steps = waiting.until_ready(desk.sessions, None)
    assert desk.take(steps) == ["PENDING"] * 5
    assert desk.take(steps) == []
    assert desk.asked() == 2
    desk.now -= 2.4  # too soon to ask again
    assert desk.take(steps) == []
    assert desk.asked() == 2


def test_slurm_is_asked_more_seldom_the_longer_the_queue_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, monkeypatch, 2)
    desk.say("PENDING", "PENDING")
    steps = waiting.until_ready(desk.sessions, None)
    while desk.now < 3600:
        desk.take(steps)
    assert 100 < desk.asked() < 200
    desk.say("RUNNING", "PENDING")
    while "LAUNCHING" not in desk.take(steps):
        assert desk.now < 3600 + 40
    before = desk.asked()
    for _ in range(20):
        desk.take(steps)
    assert desk.asked() == before + 20


def test_a_slurm_that_restarts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For five minutes; then its own words are raised."""
    desk = Desk(tmp_path, monkeypatch, 1)
    desk.say("PENDING")
    steps = waiting.until_ready(desk.sessions, None)
    desk.take(steps)
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    desk.take(steps)
    desk.now += 290
    assert desk.take(steps) == []
    desk.now += 10
    with pytest.raises(SchedulerError, match="Unable to contact"):
        desk.take(steps)

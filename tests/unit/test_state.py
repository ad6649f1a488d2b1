"""One truth from two witnesses: the session's own words and the scheduler's."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from launcher.planning import Request, make_plan
from launcher.schedulers.slurm import Slurm
from launcher.sessions.job import OVER, RUNNING, WAITING, Job
from launcher.sessions.plan import Plan
from launcher.sessions.state import current
from launcher.sessions.status import (
    FAILED,
    LAUNCHING,
    PENDING,
    READY,
    SHUTDOWN,
    UNHEALTHY,
    Coming,
    Idle,
    Phase,
    Status,
    ask_end,
    asked_end,
)
from launcher.settings.layers import load


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(Request("simulated"), load({}), door="shell")


def own(plan: Plan, state: str, reason: str | None = None, job_id: str = "7") -> Status:
    final = state in (SHUTDOWN, FAILED) and reason not in ("cancelled", "preempted")
    return Status(
        plan.id,
        state,
        1.0,
        "The session's own words.",
        reason=reason,
        job_id=job_id,
        final=final,
        updated_at=time.time(),
    )


def test_a_waiting_job_is_pending_whatever_the_files_say(plan: Plan) -> None:
    requeued = current(plan, own(plan, SHUTDOWN, "preempted"), Job("7", WAITING, "Priority"), "7")
    assert (requeued.state, requeued.reason) == (PENDING, "priority")
    assert "other jobs are ahead" in requeued.message


def test_a_node_kept_for_a_job_ahead_is_not_said_to_be_down(plan: Plan) -> None:
    """Slurm 22.05's own words for a job behind one that waits for the same node."""
    words = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
    found = current(plan, None, Job("7", WAITING, words), "7")
    assert found.reason == "reqnodenotavail"
    assert found.message.endswith(
        "the nodes that it needs are down, reserved, or kept for jobs that are ahead."
    )


def test_a_running_job_is_what_the_session_says(plan: Plan) -> None:
    assert current(plan, own(plan, READY), Job("7", RUNNING), "7").state == READY
    assert current(plan, None, Job("7", RUNNING), "7").state == LAUNCHING


def test_the_words_of_a_former_life_are_not_believed(plan: Plan) -> None:
    assert current(plan, own(plan, READY, job_id="6"), Job("7", RUNNING), "7").state == LAUNCHING
    assert current(plan, own(plan, SHUTDOWN, "preempted"), Job("7", RUNNING), "7").state == LAUNCHING


def test_a_requeued_job_that_died_with_its_node_is_not_ready(plan: Plan) -> None:
    """The node could not say that it failed: status.json still has READY, of the same job id."""
    before = dataclasses.replace(own(plan, READY), updated_at=time.time() - 60)
    assert current(plan, before, Job("7", WAITING, "BeginTime"), "7").state == PENDING
    again = Job("7", RUNNING, started_at=time.time() - 5)
    assert current(plan, before, again, "7").state == LAUNCHING
    assert current(plan, own(plan, READY), again, "7").state == READY


@pytest.mark.parametrize(("silent_s", "state"), [(100, READY), (200, UNHEALTHY)])
def test_a_supervisor_that_is_silent_for_minutes_is_not_well(plan: Plan, silent_s: float, state: str) -> None:
    before = dataclasses.replace(own(plan, READY), updated_at=time.time() - silent_s)
    found = current(plan, before, Job("7", RUNNING, started_at=time.time() - 900), "7")
    assert (found.state, found.reason, found.final) == (
        state,
        "no-beat" if state == UNHEALTHY else None,
        False,
    )


def test_what_is_never_submitted_is_given_up(plan: Plan) -> None:
    just, long = (dataclasses.replace(plan, created_at=time.time() - age_s) for age_s in (590, 610))
    assert current(just, None, None, None).state == PENDING
    given_up = current(long, None, None, None)
    assert (given_up.state, given_up.reason, given_up.final) == (FAILED, "never-started", True)


@pytest.mark.parametrize(
    ("said", "slurm", "state", "reason"),
    [
        ("idle", None, SHUTDOWN, "idle"),
        ("engine-exit", None, FAILED, "engine-exit"),
        ("user", "cancelled", SHUTDOWN, "user"),
        ("cancelled", "time-limit", SHUTDOWN, "time-limit"),
        ("cancelled", "cancelled", SHUTDOWN, "cancelled"),
        (None, "out-of-memory", FAILED, "out-of-memory"),
        (None, "node-fail", FAILED, "node-fail"),
        (None, None, FAILED, "job-exit"),
    ],
)
def test_an_ended_job_keeps_its_true_reason(
    plan: Plan, said: str | None, slurm: str | None, state: str, reason: str
) -> None:
    """vec-inf 5: what Slurm says holds where the session had no time to speak: memory, a lost node."""
    before = own(plan, SHUTDOWN if state == SHUTDOWN else FAILED, said) if said else own(plan, READY)
    found = current(plan, before, Job("7", OVER, slurm), "7")
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("OUT_OF_MEMORY", FAILED, "out-of-memory"),
        ("NODE_FAIL", FAILED, "node-fail"),
        ("TIMEOUT", SHUTDOWN, "time-limit"),
        ("CANCELLED by 1000", SHUTDOWN, "cancelled"),
        ("PREEMPTED", SHUTDOWN, "preempted"),
        ("FAILED", FAILED, "job-exit"),
    ],
)
def test_slurms_word_for_an_end_is_read_from_squeue_and_from_sacct(
    plan: Plan, word: str, state: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vec-inf 5: the ends that only Slurm can tell, also when squeue has forgotten the job."""
    said = {"squeue": f"7|{word.split()[0]}|None|1|2|c1|launcher:{plan.id}", "sacct": word}
    for name, text in said.items():
        (program := tmp_path / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for job in (Slurm().jobs(["7"])["7"], Slurm().outcome("7")):
        found = current(plan, own(plan, READY), job, "7")
        assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize("asked", ["user", "together"])
def test_a_session_whose_end_was_asked_for_was_not_just_cancelled(plan: Plan, asked: str) -> None:
    found = current(plan, own(plan, SHUTDOWN, "cancelled"), Job("7", OVER, "cancelled"), "7", asked=asked)
    assert (found.reason, found.final) == (asked, True)
    assert current(plan, own(plan, READY), None, "7", asked=asked).reason == asked


def test_what_asked_for_an_end(tmp_path: Path) -> None:
    stop = tmp_path / "stop.json"
    assert asked_end(stop) is None
    ask_end(stop, "together")
    assert asked_end(stop) == "together"
    for text in ("", "[]", "{}", '{"reason": null}', '{"reason": ["user"]}', '{"reason": "$(id)"}'):
        stop.write_text(text)
        assert asked_end(stop) is None


def test_what_is_being_ended_has_no_reason_yet(plan: Plan) -> None:
    found = current(plan, own(plan, SHUTDOWN, "cancelled"), Job("7", RUNNING, "ending"), "7")
    assert (found.state, found.final) == ("UNHEALTHY", False)


def test_a_job_that_nobody_knows_is_lost_unless_the_session_said_why(plan: Plan) -> None:
    assert current(plan, own(plan, READY), None, "7").reason == "lost"
    assert current(plan, own(plan, FAILED, "engine-exit"), None, "7").reason == "engine-exit"
    assert current(plan, None, None, None).state == PENDING


def test_a_status_survives_its_file(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("status") / "status.json"
    written = dataclasses.replace(
        own(plan, READY),
        ends_at=5.0,
        restarts=2,
        engine_restarts=1,
        phases=(Phase("weights", 1.0, 2.0, 3.0),),
        coming=(Coming("probe", 0.5),),
        expected_s=9.0,
        idle=Idle(60, 1.0, 61.0),
    )
    written.write(path)
    assert Status.read(path) == written
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{torn")
    assert Status.read(path) is None


def test_the_status_of_an_older_or_newer_launcher_is_read(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    phases = (Phase("weights", 1.0, 2.0),)
    written = dataclasses.replace(own(plan, READY), phases=phases)
    data = json.loads(json.dumps(written.to_dict()))
    older = {k: v for k, v in data.items() if k not in ("expected_s", "coming", "engine_restarts")}
    older["phases"][0].pop("expected_s")
    newer = {**data, "mood": "fine", "phases": [{**data["phases"][0], "mood": 1}]}
    for found in (older, newer):
        path.write_text(json.dumps(found))
        assert Status.read(path) == written

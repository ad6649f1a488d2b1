"""A batch on this machine: the members are children of one process, with ids and ends as on Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from launcher import Launcher, LauncherError, Session
from launcher.api import batch_launch
from launcher.cli import main
from launcher.errors import RequestError, SchedulerError, SessionError
from launcher.schedulers import local
from launcher.sessions.job import member_of, write_job_id
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)


def job_of(session: Session) -> str:
    place = member_of(session.job_id)
    assert place is not None
    return place[0]


def test_the_members_of_a_batch_end_one_by_one(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 9: `batch_launch_models`; each member is a session, the last one ends the process."""
    first, second, third = sessions = launcher.batch_launch(["simulated"] * 3, page=False)
    connections = launcher.wait_all(sessions)
    for named in (["--all"], [first.id, second.id, third.id], [f"{job_of(first)}+0", job_of(first)]):
        assert main(["wait", *named, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["sessions"]
        assert {status["id"] for status in told} == {session.id for session in sessions}
    assert main(["wait"]) == 2
    assert "Name sessions" in capsys.readouterr().err
    assert len({(connection.port, connection.key) for connection in connections}) == 3
    job = job_of(first)
    assert [session.job_id for session in sessions] == [f"{job}+0", f"{job}+1", f"{job}+2"]
    assert [session.id for session in launcher.members(job)] == [session.id for session in sessions]
    assert launcher.session(f"{job}+1").id == second.id
    with pytest.raises(SessionError, match="carries 3 sessions"):
        launcher.session(job)

    assert first.stop().reason == "user"
    killed = second.status().pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: second.status().final)
    assert (second.status().state, second.status().reason) == ("FAILED", "job-exit")
    assert not second.paths.key.exists()
    assert third.status().state == "READY"
    assert third.stop().reason == "user"
    wait_until(lambda: not local.alive(job))
    assert [session.status().reason for session in sessions] == ["user", "job-exit", "user"]


def test_together_and_the_end_of_the_whole(launcher: Launcher, capsys: pytest.CaptureFixture[str]) -> None:
    """vec-inf 9: the end of one ends all where that was asked for; the end of the job ends all anyway."""
    one, other = launcher.batch_launch(["simulated", "simulated"], together=True, page=False)
    launcher.wait_all([one, other])
    one.stop()
    wait_until(lambda: other.status().final)
    assert other.status().reason == "together"

    assert main(["batch-launch", "simulated", "simulated", "--no-page", "--wait"]) == 0
    told = capsys.readouterr().out
    sessions = [session for session in launcher.sessions() if not session.status().ended]
    job = job_of(sessions[0])
    for place, session in enumerate(launcher.members(job)):
        assert f"{job}+{place}" in told
        assert session.id in told
    local.cancel(job)
    wait_until(lambda: all(session.status().final for session in sessions))
    wait_until(lambda: not local.alive(job))
    assert not any(session.paths.connection.exists() for session in sessions)


def test_a_member_that_ends_with_another_before_it_can_say_so(launcher: Launcher) -> None:
    """vec-inf 9: nobody stopped it; its batch ended together."""
    one, other = launcher.batch_launch(["simulated", "simulated"], together=True, page=False)
    launcher.wait_all([one, other])
    job = job_of(one)
    local.cancel(job)
    wait_until(lambda: not local.alive(job))
    # As one that has just begun: it knows its job, and listens to no signal yet.
    said = f'printf \'{{"id": "%s"}}\' "$LAUNCHER_JOB_ID" > {other.paths.job}'
    other.paths.job_script.write_text(f"#!/bin/bash\n{said}\nexec sleep 600\n")
    with subprocess.Popen([one.paths.batch_script], start_new_session=True) as again:
        try:
            wait_until(lambda: one.status().state == "READY")
            one.stop(wait=False)
            wait_until(lambda: again.poll() is not None)
        finally:
            again.terminate()
    assert (one.status().reason, other.status().reason) == ("user", "together")


def test_a_member_that_cannot_be_told_does_not_keep_the_others(launcher: Launcher) -> None:
    one, odd, other = launcher.batch_launch(["simulated"] * 3, together=True, page=False)
    launcher.wait_all([one, odd, other])
    odd.paths.stop.mkdir()  # where its end would be written
    one.stop()
    wait_until(lambda: other.status().final)
    assert other.status().reason == "together"
    wait_until(lambda: not local.alive(job_of(one)))


def test_one_that_refuses_does_not_keep_the_others_from_being_stopped(launcher: Launcher) -> None:
    odd, other = launcher.batch_launch(["simulated"] * 2, page=False)
    launcher.wait_all([odd, other])
    job_id = odd.job_id
    assert job_id is not None
    write_job_id(odd.paths.job, "elsewhere:1.1+0")
    with pytest.raises(SchedulerError, match="runs on elsewhere"):
        batch_launch.stop([odd, other])
    wait_until(lambda: other.status().final)
    write_job_id(odd.paths.job, job_id)
    assert (other.status().reason, odd.status().state) == ("user", "READY")
    assert odd.stop().reason == "user"


def test_the_script_of_a_batch_alone_starts_the_same_sessions_again(launcher: Launcher) -> None:
    """vec-inf 13: the script, submitted again by hand, starts the same sessions with fresh keys."""
    sessions = launcher.batch_launch(["simulated", "simulated"], page=False)
    keys = [connection.key for connection in launcher.wait_all(sessions)]
    job = job_of(sessions[0])
    for session in sessions:
        session.stop(wait=False)
    wait_until(lambda: not local.alive(job))
    with subprocess.Popen([sessions[0].paths.batch_script], start_new_session=True) as again:
        try:
            wait_until(lambda: all(session.status().state == "READY" for session in sessions))
            assert not {connection.key for connection in launcher.wait_all(sessions)} & {*keys}
        finally:
            again.send_signal(signal.SIGTERM)
    assert all(session.status().ended for session in sessions)


def test_what_cannot_be_submitted_leaves_nothing(launcher: Launcher, tmp_path: Path) -> None:
    """vec-inf 9: all or none."""
    with pytest.raises(LauncherError, match="simulatd"):
        launcher.batch_launch(["simulated", "simulatd"])
    with pytest.raises(RequestError, match="A batch needs models"):
        launcher.batch_launch([])
    assert launcher.sessions() == []

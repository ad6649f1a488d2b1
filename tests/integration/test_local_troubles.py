"""Whole sessions on this machine: the page as a browser gets it, and troubles that a session must outlive."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from launcher import Connection, Launcher, LauncherError
from launcher.api import Session, write_session
from launcher.errors import SchedulerError, StorageError
from launcher.schedulers import local
from launcher.serve.node import MEMBER_ID
from launcher.sessions import registry
from launcher.sessions.job import write_job_id
from launcher.sessions.status import READY, Status, ask_end

pytestmark = pytest.mark.timeout(180)
BROWSER = {"Accept": "text/html"}
SLURM_SITE = """
clusters: {main: {scheduler: slurm}}
profiles: {cpu: {cluster: main, hours_max: 4}}
"""


def get(connection: Connection, path: str, cookie: str = "") -> tuple[int, str]:
    link = http.client.HTTPConnection(connection.host, connection.port, timeout=10)
    link.request("GET", path, headers={**BROWSER, "Cookie": cookie} if cookie else BROWSER)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, text


def login(connection: Connection) -> str:
    link = http.client.HTTPConnection(connection.host, connection.port, timeout=10)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    link.request("POST", "/login", urlencode({"key": connection.key}), form)
    answer = link.getresponse()
    assert answer.status == 303
    link.close()
    return (answer.getheader("Set-Cookie") or "").partition(";")[0]


def until(found: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def page_of(session: Session) -> psutil.Process:
    found = []
    for child in psutil.Process(session.status().pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "launcher.ui" in child.cmdline():
                found.append(child)
    (page,) = found
    return page


def test_the_page_needs_a_login_and_comes_back_when_its_process_is_killed(launcher: Launcher) -> None:
    with launcher.launch("simulated", page=True) as session:
        connection = session.wait()
        assert get(connection, "/")[0] == 401
        cookie = login(connection)
        until(lambda: get(connection, "/", cookie)[0] == 200, 60)
        assert "gradio" in get(connection, "/", cookie)[1].lower()
        assert get(connection, "/", f"{cookie}x")[0] == 401
        first = page_of(session)
        first.kill()
        until(lambda: not first.is_running(), 10)
        until(lambda: get(connection, "/", cookie)[0] == 200, 60)
        assert "gradio" in get(connection, "/", cookie)[1].lower()
        second = page_of(session)
        assert second.pid != first.pid
        assert session.status().state == "READY"
    assert psutil.wait_procs([second], timeout=10)[1] == []


def test_a_session_outlives_a_folder_that_cannot_be_written_for_a_while(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        away = session.paths.root.with_name("away")
        session.paths.root.rename(away)
        left_at = time.time()
        time.sleep(12)  # the status is written every ten seconds
        assert get(connection, "/health")[0] == 200
        away.rename(session.paths.root)
        until(
            lambda: (s := Status.read(session.paths.status)) is not None and s.updated_at > left_at + 12, 60
        )
        assert session.status().state == "READY"
        assert session.connection == connection
        with session.openai() as client:
            assert client.models.list().data
    assert session.status().reason == "user"


def test_a_supervisor_that_is_stopped_for_long_is_not_called_dead(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        session.wait()
        pid = session.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, 15)
            own = Status.read(session.paths.status)
            assert own is not None
            Status(**{f: getattr(own, f) for f in own.__slots__} | {"updated_at": time.time() - 200}).write(
                session.paths.status
            )
            found = session.status()
            assert (found.state, found.reason, found.final) == ("UNHEALTHY", "no-beat", False)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: session.status().state == "READY", 60)


def test_a_session_of_another_machine_is_alive_and_stopped_there(launcher: Launcher) -> None:
    plan = launcher.plan("simulated")
    paths = registry.make(Path(plan.places.sessions), plan.id)
    write_session(plan, paths)
    job_id = "elsewhere:4711.99"
    write_job_id(paths.job, job_id)
    now = time.time()
    Status(plan.id, READY, now, "The model answers.", job_id=job_id, updated_at=now).write(paths.status)
    session = launcher.session(plan.id)
    assert session.status().state == "READY"
    assert local.outcome(job_id) is None
    with pytest.raises(SchedulerError, match=r"runs on elsewhere\. Stop it there"):
        session.stop()
    assert not paths.stop.exists()  # nobody stopped it: a later end has another reason
    assert session.status().state == "READY"


@pytest.mark.parametrize(("told", "reason"), [("job+1", "together"), ("former+1", "user")])
def test_an_end_asked_for_before_the_session_can_hear_it_is_remembered(
    launcher: Launcher, told: str, reason: str
) -> None:
    """What was asked of a former job of the same session is forgotten."""
    plan = launcher.plan("simulated")
    paths = launcher.make(plan)
    write_session(plan, paths)
    write_job_id(paths.job, told)
    ask_end(paths.stop, "together")
    with subprocess.Popen([paths.job_script], env={**os.environ, MEMBER_ID: "job+1"}) as job:
        until(lambda: (now := Status.read(paths.status)) is not None and now.state == READY, 60)
        job.terminate()
    ended = Status.read(paths.status)
    assert ended is not None
    assert ended.reason == reason


def test_a_session_that_is_being_submitted_is_not_called_lost(launcher: Launcher) -> None:
    """Its job's id may be written after the scheduler was asked, which then knows nothing of that job."""
    plan = launcher.plan("simulated")
    paths = registry.make(Path(plan.places.sessions), plan.id)
    write_session(plan, paths)
    session = Session(paths)
    job_id, jobs = session.job_id, session.scheduler.jobs([])
    write_job_id(paths.job, local.own_job_id())
    assert session.status_from(jobs, job_id).state == "PENDING"
    assert Status.read(paths.status) is None
    assert session.status().state == "LAUNCHING"
    paths.job.unlink()  # the id is this very process's


def test_a_session_file_of_a_later_version_hides_no_other(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = []
    for _ in range(2):
        plan = launcher.plan("simulated")
        sessions.append(registry.make(Path(plan.places.sessions), plan.id))
        write_session(plan, sessions[-1])
    newer, other = sessions
    newer.plan.write_text(newer.plan.read_text().replace('"schema": 1', '"schema": 2'))
    assert '"schema": 2' in newer.plan.read_text()
    assert [session.paths.root for session in launcher.sessions()] == [other.root]
    assert "passed over" in capsys.readouterr().err


def test_a_job_whose_id_cannot_be_kept_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for Slurm's programs: this sbatch takes the job and leaves the folder so that no id can be kept."""
    programs = {
        "sbatch": 'mkdir "$(dirname "$2")/job.json"; echo 77',
        "scancel": f'echo "$@" >{tmp_path}/cancelled',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "site.yml").write_text(SLURM_SITE)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(tmp_path / "sessions"))
    with pytest.raises(LauncherError) as caught:
        Launcher().launch("simulated")
    assert isinstance(caught.value, StorageError)
    assert (tmp_path / "cancelled").read_text() == "77\n"
    assert list((tmp_path / "sessions").iterdir()) == []

"""Sessions on this machine without a queue: the Python API, and every way to end, with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import Launcher, LauncherError, Session
from launcher.errors import EngineError, SessionError
from launcher.settings.layers import load
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)


def gone(pid: int, timeout_s: float = 15) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(session: Session, state: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while session.status().state != state:
        assert time.monotonic() < deadline, session.status()
        time.sleep(0.1)


def test_a_session_lives_as_long_as_its_block(launcher: Launcher) -> None:
    seen = []
    with launcher.launch("simulated") as session:
        connection = session.wait(progress=lambda status: seen.append(status.state))
        with session.openai() as client:
            answer = client.chat.completions.create(
                model=connection.model, messages=[{"role": "user", "content": "Hello"}]
            )
        assert answer.choices[0].message.content
        pid = session.status().pid
        assert pid is not None
        engine = children(pid)
    assert seen[-1] == "READY"
    assert (session.status().state, session.status().reason) == ("SHUTDOWN", "user")
    assert all(gone(process) for process in [pid, *engine])
    assert connection.key not in repr(connection)


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_what_the_command_line_says_of_a_session_without_a_page(launcher: Launcher) -> None:
    said = command("launch", "simulated", "--no-page", "--wait", "--hours", "0.08").splitlines()
    (session,) = launcher.sessions()
    with session:
        rows = [line for line in said if line.startswith(("Base URL", "Page", "Model  ", "API key"))]
        assert [row[:10].strip() for row in rows] == ["Base URL", "Model", "API key"]
        assert all(row[9] == " " != row[10] for row in rows)
        shown = command("status", session.id)
        assert "Base URL" in shown
        assert "Page" not in shown
        assert "(ends soon)" in shown
        assert json.loads(command("status", session.id, "--json"))["page_url"] is None
        assert "its end was asked for" in command("stop", session.id, "--no-wait")


def test_an_exception_in_the_block_stops_the_session(launcher: Launcher) -> None:
    def mishap(session: Session) -> None:
        with session:
            session.wait()
            raise ZeroDivisionError

    session = launcher.launch("simulated")
    with pytest.raises(ZeroDivisionError):
        mishap(session)
    assert session.status().reason == "user"


def test_a_session_can_be_stopped_while_it_starts(launcher: Launcher) -> None:
    with launcher.launch("simulated", engine_args=("--start-delay-s", "60")) as session:
        pass
    assert session.status().reason == "user"
    with pytest.raises(SessionError, match="You stopped the session"):
        session.wait()


def test_waiting_for_a_failed_session_raises_its_reason(launcher: Launcher) -> None:
    """della 6: the waiting ends with the reason."""
    session = launcher.launch(
        "simulated", engine_args=("--fail-at", "start", "--fail-with", "CUDA out of memory")
    )
    with pytest.raises(EngineError) as caught:
        session.wait()
    assert caught.value.reason
    assert "stopped" in caught.value.message
    wait_until(session.paths.record.exists, 60)  # the engine is being stopped
    assert session.connection is None


@pytest.mark.parametrize("hangs_at", ["start", "ready"])
def test_an_engine_that_never_answers_is_given_up(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, hangs_at: str
) -> None:
    """della 9: that it listens, and says that it is healthy, makes no session ready."""
    monkeypatch.setenv("LAUNCHER_SESSION__START_TIMEOUT_MINUTES", "0.05")
    session = Launcher(load()).launch("simulated", engine_args=("--hang-at", hangs_at))
    with pytest.raises(EngineError, match=r"did not answer within 0\.05 minutes"):
        session.wait()
    assert session.status().reason == "start-timeout"


def test_an_engine_that_crashes_later_fails_within_seconds(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_SESSION__ENGINE_RESTARTS", "0")
    made = Launcher(load())
    with made.launch("simulated", engine_args=("--fail-at", "3", "--fail-code", "9")) as session:
        session.wait()
        until(session, "FAILED")
        assert "exit code 9" in session.status().message
        assert not session.paths.connection.exists()


def test_the_time_limit_ends_it(launcher: Launcher) -> None:
    session = launcher.launch("simulated", hours=12 / 3600)  # on a busy machine the start takes most of it
    session.wait()
    assert session.status().ends_soon
    until(session, "SHUTDOWN")
    assert session.status().reason == "time-limit"


def test_a_killed_supervisor_takes_its_engine_along(launcher: Launcher) -> None:
    session = launcher.launch("simulated")
    session.wait()
    pid = session.status().pid
    assert pid is not None
    engine = children(pid)
    assert engine
    os.kill(pid, signal.SIGKILL)
    assert all(gone(process) for process in engine)
    assert (session.status().state, session.status().reason) == ("FAILED", "job-exit")


def test_the_script_alone_starts_the_same_session_again_with_a_new_key(launcher: Launcher) -> None:
    """vec-inf 13: job.sh by hand."""
    session = launcher.launch("simulated")
    first = session.wait()
    session.stop()
    process = subprocess.Popen([session.paths.job_script], start_new_session=True)
    try:
        until(session, "READY")
        second = session.connection
        assert second is not None
        assert second.key != first.key
        assert second.model == first.model
    finally:
        process.terminate()
        process.wait(60)
    assert session.status().state == "SHUTDOWN"


def test_usage_and_files_are_in_the_record(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        with session.openai() as client:
            client.chat.completions.create(
                model=connection.model, messages=[{"role": "user", "content": "Hello"}]
            )
    record = json.loads(session.paths.record.read_text())
    assert record["usage"]["requests"] >= 1
    assert record["usage"]["completion_tokens"] > 0
    assert record["end"]["reason"] == "user"
    assert record["plan"]["id"] == session.id
    assert connection.key not in session.paths.record.read_text()


def test_the_second_start_says_how_long_the_first_one_took(launcher: Launcher) -> None:
    slow = ("--start-delay-s", "10")  # of which six are the weights', while two programs are asked
    with launcher.launch("simulated", engine_args=slow) as first:
        first.wait()
        phases = first.status().phases
        assert {phase.expected_s for phase in phases} == {None}
    program = str(Path(sys.executable).parent / "launcher")
    with launcher.launch("simulated", engine_args=slow) as second:
        deadline = time.monotonic() + 30
        while second.status().phase != "weights":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shown = subprocess.run(
            [program, "status", second.id], capture_output=True, text=True, check=True, timeout=30
        )
        status = second.status()
        waited = subprocess.run(
            [program, "wait", second.id], capture_output=True, text=True, check=True, timeout=30
        )
        ready = second.status()
    spent = rf"\d+ s of about {phases[0].elapsed_s:.0f} s"
    assert re.search(rf"weights, {spent}", shown.stdout), shown.stdout
    assert re.search(rf"LAUNCHING weights .*\({spent}\)", waited.stdout), waited.stdout
    assert status.expected_s is not None
    assert status.expected_s >= sum(phase.elapsed_s for phase in phases)
    assert status.phases[0].expected_s == phases[0].elapsed_s
    assert [phase.name for phase in status.coming] == [phase.name for phase in phases[1:]]
    assert ready.coming == ()


def test_status_of_many_is_one_answer(launcher: Launcher) -> None:
    with launcher.launch("simulated") as first, launcher.launch("simulated") as second:
        first.wait()
        second.wait()
        assert [status.state for status in launcher.statuses(launcher.sessions())] == ["READY", "READY"]
        one, other = first.connection, second.connection
        assert one is not None
        assert other is not None
        assert one.port != other.port
        with pytest.raises(LauncherError, match="may be any of"):
            launcher.session("simulated-")
        first.stop()
        assert launcher.session("simulated-").id == second.id  # the living one
        assert second.status().state == "READY"


def test_ctrl_c_while_waiting_says_how_to_stop_it(launcher: Launcher) -> None:
    program = str(Path(sys.executable).parent / "launcher")
    # A shell's background job ignores Ctrl-C, and so would what it starts: this one shall not.
    with subprocess.Popen(
        [program, "launch", "simulated", "--wait", "--", "--start-delay-s", "30"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "LAUNCHING" in line:
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "launcher stop simulated-" in error
    assert "Traceback" not in error
    (session,) = launcher.sessions()
    assert session.stop().reason == "user"

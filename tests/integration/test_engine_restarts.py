"""An engine that crashes after it was ready: the session goes on under the same address, or says why it cannot."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import Connection, Launcher, Session
from launcher.errors import EngineError
from launcher.sessions.status import Status
from launcher.settings.layers import load
from tests.programs.groups import memory_group

pytestmark = pytest.mark.timeout(180)

# A stand-in for vLLM's command that lives a second life differently from the first: `$lives` counts them in a file.
STAND_IN = """#!/bin/bash
uds= name=
for word; do
  [ "$previous" = --uds ] && uds=$word
  case $word in --served-model-name=*) name=${word#*=} ;; esac
  previous=$word
done
lives=$(($(cat "$LIVES" 2>/dev/null || echo 0) + 1))
echo "$lives" >"$LIVES"
SECOND_LIFE
exec "$LAUNCHER_PYTHON" -m launcher.engines.simulated.serve --uds "$uds" --served-name "$name"
"""


def engine_of(session: Session) -> psutil.Process:
    supervisor = psutil.Process(session.status().pid)
    until(lambda: children_with(supervisor, "--uds"))
    (engine,) = children_with(supervisor, "--uds")
    return engine


def pages_of(supervisor: psutil.Process) -> list[int]:
    return [page.pid for page in children_with(supervisor, "launcher.ui")]


def children_with(supervisor: psutil.Process, word: str) -> list[psutil.Process]:
    found = []
    for child in supervisor.children():
        with contextlib.suppress(psutil.Error):  # it has just ended: what tells the hardware, say
            if word in child.cmdline():
                found.append(child)
    return found


def until(found: Callable[[], Any], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_state(session: Session, state: str, timeout_s: float = 60) -> Status:
    until(lambda: session.status().state == state, timeout_s)
    return session.status()


def is_back(session: Session) -> bool:
    status = session.status()
    return status.state == "READY" and status.engine_restarts == 1


def say(session: Session, **options: Any) -> str:
    with session.openai(**options) as client:
        answer = client.chat.completions.create(
            model=session.plan.model.served_name, messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content or ""


def get(connection: Connection, path: str) -> tuple[int, str | None, str]:
    link = http.client.HTTPConnection(connection.host, connection.port, timeout=10)
    link.request("GET", path, headers={"Authorization": f"Bearer {connection.key}"})
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, answer.getheader("Retry-After"), text


def record(session: Session) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(session.paths.record.read_text())
    return made


def two_lives(folder: Path, second: str, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A launcher whose vLLM does `second` (shell, may look at $lives) before it serves."""
    program = folder / "venv" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.replace("SECOND_LIFE", second))
    program.chmod(0o755)
    variables = {"LAUNCHER_PYTHON": sys.executable, "LIVES": str(folder / "lives")}
    tried = {"kind": "venv", "path": str(folder / "venv"), "env": variables}
    site = folder / "site.yml"
    site.write_text(json.dumps({"environments": {"launcher": None, "tried": tried}}))
    monkeypatch.setenv("LAUNCHER_SITE", str(site))
    return Launcher(load())


def test_a_killed_engine_costs_its_clients_a_retry(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        before = session.wait()
        with session.openai(max_retries=12) as client:  # on a busy machine a start takes several of them
            messages: Any = [{"role": "user", "content": "Hello"}]
            client.chat.completions.create(model=before.model, messages=messages)
            first = engine_of(session)
            first.kill()
            until(lambda: not first.is_running())
            again = client.chat.completions.create(model=before.model, messages=messages)
        assert again.choices[0].message.content
        assert session.connection == before
        status = session.status()
        assert (status.state, status.reason, status.restarts, status.engine_restarts) == ("READY", None, 0, 1)
        assert engine_of(session).pid != first.pid
    (restart,) = record(session)["restarts"]
    assert restart["reason"] == "engine-exit"
    assert "SIGKILL" in restart["message"]
    assert restart["ready_after_s"] > 0
    assert record(session)["end"]["reason"] == "user"
    log = session.paths.engine_log.read_text()
    assert "is started again (1 of 2)" in log
    assert log.count("Application startup complete") == 2  # what the first one said is still there


def status_command(session: Session) -> dict[str, Any]:
    command = [sys.executable, "-m", "launcher", "status", session.id, "--json"]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    )
    return found


def test_while_it_is_started_again_the_session_says_so_and_keeps_its_page(launcher: Launcher) -> None:
    with launcher.launch("simulated", page=True, engine_args=("--start-delay-s", "4")) as session:
        connection = session.wait()
        supervisor = psutil.Process(session.status().pid)
        until(lambda: pages_of(supervisor))
        pages = pages_of(supervisor)
        usual = session.status()
        assert (usual.expected_s, usual.coming) == (None, ())
        os.kill(engine_of(session).pid, signal.SIGSEGV)
        until(lambda: session.status().phase == "weights")
        status = session.status()
        code, retry_after, text = get(connection, "/v1/models")
        told = get(connection, "/status")[2]
        assert (status.state, status.reason) == ("UNHEALTHY", "engine-restart")
        assert status.message == "The engine stopped by itself and is being started again."
        assert status.phases[0].expected_s == usual.phases[0].elapsed_s
        assert status.expected_s is not None
        assert [phase.name for phase in status.coming] == [phase.name for phase in usual.phases[1:]]
        assert session.connection == connection
        shown = status_command(session)
        assert (shown["base_url"], shown["page_url"]) == (connection.base_url, connection.page_url)
        assert shown["key_file"] == str(session.paths.key)
        assert code == 503
        assert int(retry_after or 0) > 0
        assert "engine-restart" in told
        assert connection.key not in text
        until(lambda: is_back(session))
        assert pages_of(supervisor) == pages


def test_an_engine_that_crashes_again_and_again_is_given_up(launcher: Launcher) -> None:
    # So long each life is, and the first answer must have come through before.
    args = ("--fail-at", "2", "--fail-code", "9", "--fail-with", "CUDA error: an illegal thing")
    session = launcher.launch("simulated", engine_args=args)
    failed = until_state(session, "FAILED", 120)
    assert failed.reason == "engine-exit"
    assert "exit code 9" in failed.message
    assert failed.message.endswith("It had been started again twice.")
    assert failed.engine_restarts == 2
    assert not session.paths.connection.exists()
    assert not session.paths.key.exists()
    until(session.paths.record.exists)
    assert [restart["ready_after_s"] is not None for restart in record(session)["restarts"]] == [True, True]


def test_a_site_that_allows_no_restart_has_none(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_SESSION__ENGINE_RESTARTS", "0")
    session = Launcher(load()).launch("simulated")
    session.wait()
    engine_of(session).kill()
    failed = until_state(session, "FAILED")
    assert "SIGKILL" in failed.message
    assert "started again" not in failed.message
    until(session.paths.record.exists)
    assert record(session)["restarts"] == []


@pytest.mark.parametrize(
    ("second", "reason", "said"),
    [
        ("[ $lives = 1 ] || exit 3", "engine-exit", "exit code 3"),
        ("[ $lives = 1 ] || exec sleep 600", "start-timeout", "did not answer within 0.1 minutes"),
        ('rm -f "$0"', "engine-missing", "cannot be started"),
    ],
)
def test_an_engine_that_cannot_be_started_again_ends_the_session(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, reason: str, said: str
) -> None:
    monkeypatch.setenv("LAUNCHER_SESSION__START_TIMEOUT_MINUTES", "0.1")
    session = two_lives(tmp_path, second, monkeypatch).launch("tiny-chat")
    session.wait()
    engine_of(session).kill()
    failed = until_state(session, "FAILED")
    assert failed.reason == reason
    assert said in failed.message
    assert failed.message.endswith("It had been started again once.")
    until(session.paths.record.exists)
    (restart,) = record(session)["restarts"]
    assert restart["ready_after_s"] is None


def test_what_a_crashed_engine_leaves_behind_is_ended_before_the_next_one(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = (
        "sleep 601 & a=$!; setsid sleep 602 & b=$!; (trap '' TERM; sleep 603; sleep 604) & c=$!\n"
        f'echo $a $b $c >"{tmp_path}/left.$lives"'
    )
    with two_lives(tmp_path, left, monkeypatch).launch("tiny-chat", page=True) as session:
        session.wait()
        first = [int(pid) for pid in (tmp_path / "left.1").read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in first)
        supervisor = psutil.Process(session.status().pid)
        until(lambda: pages_of(supervisor))
        engine_of(session).kill()
        until(lambda: (tmp_path / "left.2").exists())
        assert not any(psutil.pid_exists(pid) for pid in first)
        until(lambda: is_back(session))
        assert say(session)
        assert pages_of(supervisor)
        second = [int(pid) for pid in (tmp_path / "left.2").read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in second)
    until(lambda: not any(psutil.pid_exists(pid) for pid in second))


@pytest.mark.parametrize("put", ["folder", "link", "file"])
def test_whatever_stands_in_the_sockets_place_is_taken_away(launcher: Launcher, put: str) -> None:
    with launcher.launch("simulated") as session:
        session.wait()
        engine = engine_of(session)
        place = Path(engine.cwd()) / "engine.sock"
        assert stat.S_ISSOCK(place.stat().st_mode)
        kept = session.paths.root / "kept"
        kept.write_text("mine")
        place.unlink()
        if put == "folder":
            (place / "below").mkdir(parents=True)
        elif put == "link":
            place.symlink_to(kept)
        else:
            place.write_text("not a socket")
        engine.kill()
        until(lambda: is_back(session))
        assert say(session)
        assert kept.read_text() == "mine"


def test_a_session_can_be_stopped_while_its_engine_is_started_again(launcher: Launcher) -> None:
    with launcher.launch("simulated", engine_args=("--start-delay-s", "3")) as session:
        session.wait()
        first = engine_of(session)
        runtime = Path(first.cwd())
        first.kill()
        until(lambda: session.status().phase is not None)
        second = engine_of(session)
    assert (session.status().state, session.status().reason) == ("SHUTDOWN", "user")
    until(lambda: not second.is_running())
    until(lambda: not runtime.exists())


def test_waiting_for_a_session_whose_engine_comes_back_goes_on(launcher: Launcher) -> None:
    with launcher.launch("simulated", engine_args=("--start-delay-s", "2")) as session:
        before = session.wait()
        engine_of(session).kill()
        until(lambda: session.status().reason == "engine-restart")
        assert session.wait(60) == before
        assert say(session)


def test_a_restart_is_no_idle_time_and_no_new_lease(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_SESSION__IDLE_MINUTES", "0.1")  # 6 s, less than one start takes
    session = Launcher(load()).launch("simulated", engine_args=("--start-delay-s", "7"))
    session.wait()
    engine_of(session).kill()
    until(lambda: is_back(session))
    assert until_state(session, "SHUTDOWN").reason == "idle"


def test_a_crash_before_the_first_answer_fails_at_once(launcher: Launcher) -> None:
    session = launcher.launch("simulated", engine_args=("--fail-at", "ready"))
    with pytest.raises(EngineError, match="before it was ready"):
        session.wait()
    until(session.paths.record.exists)
    assert record(session)["restarts"] == []
    assert session.status().engine_restarts == 0


def test_an_engine_that_the_kernel_killed_for_memory_is_not_started_again(launcher: Launcher) -> None:
    """vec-inf 5: by the kernel's out-of-memory killer."""
    program = str(Path(sys.executable).parent / "launcher")
    with memory_group("500M") as processes:
        enter = f'echo $$ >{processes}; exec "$@"'
        subprocess.run(
            ["/bin/sh", "-c", enter, "sh", program, "launch", "simulated", "--wait"],
            check=True, timeout=60, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with launcher.sessions()[0] as session:
            Path(f"/proc/{engine_of(session).pid}/oom_score_adj").write_text("1000")
            hungry = [sys.executable, "-c", "held = bytearray(600_000_000)"]
            subprocess.run(["/bin/sh", "-c", enter, "sh", *hungry], check=False, timeout=60)
            failed = until_state(session, "FAILED")
    assert (failed.reason, failed.engine_restarts) == ("out-of-memory", 0)
    assert failed.message == "The job needed more memory than it was given."


def test_an_engine_that_cannot_be_reached_is_noticed_at_the_first_failed_request(launcher: Launcher) -> None:
    """Within seconds: the supervisor asks by itself only once a minute."""
    with launcher.launch("simulated") as session:
        connection = session.wait()
        place = Path(engine_of(session).cwd()) / "engine.sock"
        away = place.with_name("away")
        place.rename(away)
        time.sleep(6)  # until no connection to the engine is kept open
        assert get(connection, "/v1/models")[0] == 502
        until(lambda: session.status().reason == "no-answer", 30)
        away.rename(place)

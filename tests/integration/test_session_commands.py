"""What one says of sessions after they were launched: status, details, record, rerun, cleanup, on this machine.

One session of the simulated engine carries most of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher, Session
from launcher.cli import main
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.programs.terminal import Terminal
from tests.settings import without_site


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """The Python API with folders of this file's own; the commands use them too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in without_site(tmp_path_factory.mktemp("commands")).items():
            patch.setenv(name, value)
        yield Launcher(load())


@pytest.fixture(scope="module")
def running(launcher: Launcher) -> Iterator[Session]:
    with launcher.launch("simulated", hours=0.5, name="carrier") as session:
        session.wait()
        wait_until(session.paths.preliminary.exists)
        yield session


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; what it printed, as data where it was JSON."""

    def run(*line: str, code: int = 0) -> Any:
        assert main(line) == code
        text = capsys.readouterr().out
        return json.loads(text) if "--json" in line else text

    return run


def test_the_status_has_vec_infs_names_beside_ours(running: Session, said: Any) -> None:
    """vec-inf 4: JSON has `model_name, model_status, base_url, pending_reason, failed_reason`."""
    connection = running.connection
    assert connection is not None
    shown = said("status", running.id, "--json")
    names = ("model_name", "model_status", "base_url", "pending_reason", "failed_reason")
    assert [shown[name] for name in names] == ["simulated", "READY", connection.base_url, None, None]
    assert (shown["model"], shown["state"]) == ("simulated", "READY")
    text = said("status", running.id)
    for row in ("Model Name", "Model Status", "Base URL"):
        assert f" {row} " in text
    assert connection.key not in text


def test_the_status_of_all_is_filtered(running: Session, said: Any) -> None:
    """Blackfish 2: `ls --filter`."""
    assert [
        one["id"] for one in said("status", "--filter", "state=READY,name=carrier", "--json")["sessions"]
    ] == [running.id]
    assert said("ls", "--filters", "status=HEALTHY,image=simulated", "--all", "--json")["sessions"]
    assert said("ls", "--filters", "status=STOPPED", "--json") == {"sessions": []}
    assert "No session is like that." in said("status", "--filter", "state=FAILED")
    said("status", "--filter", "state=GONE", code=2)
    said("status", running.id, "--filter", "state=READY", code=2)


def test_the_long_list_has_blackfishs_and_vec_infs_columns(running: Session, said: Any) -> None:
    """Blackfish 2: `ls` with the same columns; vec-inf 4: `status` without id lists all my jobs."""
    connection = running.connection
    assert connection is not None
    head, row = (
        [cell.strip() for cell in line.strip("│|").split("│" if "│" in line else "|")]
        for line in said("ls", "--long", "--filters", f"id={running.id}").splitlines()[1:4:2]
    )
    shown = dict(zip(head, row, strict=True))
    assert head[:9] == ["ID", "Engine", "Model", "Created", "Updated", "State", "Port", "Name", "Profile"]
    assert shown["Base URL"] == connection.base_url
    assert (shown["Port"], shown["Name"], shown["Engine"]) == (str(connection.port), "carrier", "simulated")
    assert shown["Created"].endswith(" ago")
    data = said("status", running.id, "--json")
    assert (data["port"], data["name"], data["engine"]) == (connection.port, "carrier", "simulated")


def test_details_have_everything_but_the_key(running: Session, said: Any) -> None:
    """Blackfish 2: `details`."""
    connection = running.connection
    assert connection is not None
    with running.openai() as client:
        client.chat.completions.create(model="simulated", messages=[{"role": "user", "content": "Hello"}])
    shown = said("details", running.id, "--json")
    assert shown["usage"]["requests"] >= 1
    assert shown["usage"]["completion_tokens"] > 0
    assert shown["status"]["state"] == "READY"
    assert shown["connection"]["base_url"] == connection.base_url
    assert shown["job"]["id"] == running.job_id
    assert shown["plan"]["limits"]["hours"] == 0.5
    assert shown["origins"]["hours"] == "request"
    assert shown["hardware"]["host"]
    assert re.search(r" ends_at +│ 20\d\d-", said("details", running.id))
    assert {"session.json", "api_key", "engine.log"} <= {file["name"] for file in shown["files"]}
    text = said("details", running.id)
    for part in (connection.base_url, "hours", "request", "engine.log", str(running.paths.root)):
        assert part in text
    names = re.findall(r"(?m)^. +name +. \S+ +. (\S*)", text)  # of environment and cluster, and its own
    assert names == ["", "", "request"]
    assert connection.key not in text + json.dumps(shown)
    assert running.details()["id"] == running.id


def test_the_record_of_a_living_session_is_preliminary_and_says_so(
    running: Session, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--json"]) == 0  # that of the latest session
    printed = capsys.readouterr()
    assert "The record is preliminary: the session still runs" in printed.err
    shown = json.loads(printed.out)
    assert (shown["preliminary"], shown["end"], shown["plan"]["id"]) == (True, None, running.id)
    assert shown["environment"]["packages"]
    assert shown["times"]["ended_at"] is None
    assert launcher.record(running.id).preliminary
    connection = running.connection
    assert connection is not None
    assert connection.key not in running.paths.preliminary.read_text()


def test_a_living_session_is_not_cleaned_up(running: Session, said: Any) -> None:
    """vec-inf 10: refuses to touch a running job's files."""

    def files() -> list[str]:  # but for what becomes status.json in the next moment
        return sorted(name for name in os.listdir(running.paths.root) if not name.startswith(".status.json."))

    before = files()
    shown = said("cleanup", running.id, "--yes", "--json")
    assert shown["removed"] == []
    assert shown["kept"][0]["kept"].startswith("It is READY.")
    assert files() == before
    assert running.status().state == "READY"


def test_from_a_record_the_same_is_started_again(launcher: Launcher, said: Any, tmp_path: Path) -> None:
    """The whole way: a session ends, its record is moved away, the session is removed, and is started again."""
    with launcher.launch("simulated", hours=0.25, name="first", engine_args=("--token-rate", "77")) as first:
        first.wait()
        with first.openai() as client:
            client.chat.completions.create(model="simulated", messages=[{"role": "user", "content": "Hello"}])
    record = json.loads(first.paths.record.read_text())
    assert not first.paths.preliminary.exists()
    assert (record["preliminary"], record["end"]["reason"]) == (False, "user")
    assert record["usage"]["requests"] == 1
    kept = tmp_path / "paper.json"
    kept.write_text(json.dumps(record))
    assert said("cleanup", first.id, "--yes", "--json")["bytes"] > 0
    assert not first.paths.root.exists()

    assert "ran the launcher's simulated engine" in said("record", str(kept), "--methods")
    with launcher.rerun(str(kept), strict=True) as again:
        assert again.wait().model == "simulated"
        assert again.id != first.id
        assert again.plan.engine_args == ("--token-rate", "77")
        assert again.plan.limits.hours == 0.25
        assert again.plan.origins["rerun"] == first.id
    launcher.cleanup(again.id)
    assert not again.paths.root.exists()


def test_a_killed_session_keeps_its_preliminary_record(launcher: Launcher, said: Any) -> None:
    session = launcher.launch("simulated", hours=0.25)
    session.wait()
    wait_until(session.paths.preliminary.exists)
    pid = session.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: session.status().ended)
    found = launcher.record(session.id)
    assert found.preliminary
    assert found.part("end")["state"] == "FAILED"
    assert said("details", session.id, "--json")["status"]["state"] == "FAILED"
    shown = said("status", session.id, "--json")
    assert shown["failed_reason"] == shown["message"]
    # On a terminal one is asked, and only a yes removes it.
    for answer, left in (("n", True), ("y", False)):
        with Terminal([sys.executable, "-m", "launcher", "cleanup", session.id]) as terminal:
            terminal.wait_for("Remove 1 session?")
            terminal.press(answer)
            terminal.press("enter")
            assert terminal.ended() == int(left)
        assert session.paths.root.exists() is left


def test_who_breaks_off_a_stop_is_told_that_it_may_go_on(launcher: Launcher, said: Any) -> None:
    text = said("launch", "simulated", "--hours", "0.25", "--", "--answer", "two words")
    assert "--answer 'two words'" in text  # as it can be pasted
    session = next(s for s in launcher.sessions() if s.id in text)
    session.wait()
    pid = session.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that it does not end meanwhile
    try:
        stop = subprocess.Popen(
            [sys.executable, "-m", "launcher", "stop", session.id], stderr=subprocess.PIPE, text=True
        )
        wait_until(session.paths.stop.exists)
        stop.send_signal(signal.SIGINT)
        assert f"launcher status {session.id}" in stop.communicate(timeout=60)[1]
        assert stop.returncode == 130
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: session.status().ended, 60)
    assert session.status().reason == "user"
    launcher.cleanup(session.id)


def test_a_second_ctrl_c_is_no_traceback(running: Session) -> None:
    with Terminal(
        [sys.executable, "-m", "launcher", "logs", "-f", running.id], env=dict(os.environ)
    ) as terminal:
        terminal.wait_for("startup complete")
        terminal.press("ctrl-c")
        terminal.wait_for("^C")
        with contextlib.suppress(OSError):  # it has ended
            terminal.press("ctrl-c")
        assert terminal.ended() == 130
        assert b"^C\r\n" in terminal.sent  # the shell's next line begins at its own
        assert "Traceback" not in terminal.text

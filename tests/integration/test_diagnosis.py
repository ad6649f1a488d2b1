"""A session that fails says why, wherever one asks: Python's exception, `launcher status`, record.json, the card.

Real processes without a queue; what each line of a log means is tested in tests/unit/test_causes.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from launcher import Launcher, Session
from launcher.api.post_mortem import explained
from launcher.cli import main
from launcher.errors import EngineError
from launcher.ondemand.card import settled
from launcher.sessions.paths import SessionPaths
from launcher.sessions.state import ended
from launcher.sessions.status import Status
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)


def failure(session: Session) -> EngineError:
    with pytest.raises(EngineError) as found:
        session.wait(timeout_s=60)
    return found.value


def test_the_line_that_told_is_in_the_exception_the_status_the_card_and_the_record(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 5, della 6: an engine that fails ends the waiting, with the reason and the line of its log."""
    words = "the <b>weights</b> of `x` are *odd* $(id)"
    session = launcher.launch("simulated", engine_args=("--fail-at", "start", "--fail-with", words))
    words = f"RuntimeError: {words}"
    error = failure(session)
    assert (error.reason, error.quote) == ("engine-exit", words)
    assert error.log == str(session.paths.engine_log)
    assert words in Path(error.log).read_text()

    capsys.readouterr()
    assert main(["status", session.id]) == 0
    shown = capsys.readouterr().out
    assert "Log says" in shown
    assert words in shown
    assert main(["status", session.id, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["quote"], told["log"]) == (words, error.log)
    assert main(["wait", session.id]) == 7
    assert f"> {words}" in capsys.readouterr().err
    assert main(["wait", session.id, "--json"]) == 7
    assert json.loads(capsys.readouterr().out)["error"]["quote"] == words

    wait_until(session.paths.record.exists, 60)  # the engine is being stopped
    end = json.loads(session.paths.record.read_text())["end"]
    assert (end["reason"], end["quote"], end["log"]) == ("engine-exit", words, error.log)
    card = settled(session.paths.root)
    assert "The log says:" in card
    assert "<b>weights" not in card
    assert "&#42;odd&#42;" in card  # Markdown sees no emphasis in it


@pytest.mark.parametrize("how", ["gone", "no interpreter", "not runnable"])
def test_a_launcher_that_the_node_does_not_have_is_named(
    launcher: Launcher, tmp_path: Path, how: str
) -> None:
    program = tmp_path / "launcher"
    if how != "gone":
        program.write_text("#!/nowhere/venv/bin/python3\n")
        program.chmod(0o755 if how == "no interpreter" else 0o644)
    session = launcher.submit(dataclasses.replace(launcher.plan("simulated"), launcher=str(program)))
    error = failure(session)
    assert error.reason == "environment"
    assert str(program) in error.message
    assert "the site" in (error.hint or "")
    assert "job.sh: line" in (error.quote or "")
    assert error.log == str(session.paths.job_log)
    status = session.status()
    assert (status.state, status.reason, status.quote) == ("FAILED", "environment", error.quote)
    assert Status.read(session.paths.status) == status  # it is kept: tomorrow nobody else knows it


def test_a_launcher_whose_python_lost_it_is_named(launcher: Launcher, tmp_path: Path) -> None:
    program = tmp_path / "launcher"
    program.write_text(f"#!{sys.executable} -IS\nfrom launcher.cli import main\nmain()\n")
    program.chmod(0o755)
    session = launcher.submit(dataclasses.replace(launcher.plan("simulated"), launcher=str(program)))
    error = failure(session)
    assert (error.reason, error.quote) == ("environment", "ModuleNotFoundError: No module named 'launcher'")
    assert "Install the launcher again" in (error.hint or "")


def test_what_the_launcher_itself_said_in_the_job_is_passed_on(launcher: Launcher) -> None:
    session = launcher.submit(dataclasses.replace(launcher.plan("simulated"), engine="nosuch"))
    error = failure(session)
    assert 'Unknown engine "nosuch".' in error.message
    assert error.log == str(session.paths.job_log)


def silent(launcher: Launcher, tmp_path: Path, reason: str = "job-exit") -> tuple[SessionPaths, Status]:
    root = tmp_path / "session"
    root.mkdir()
    return SessionPaths(root), ended(launcher.plan("simulated"), None, reason, "4711")


def test_a_job_that_could_not_write_a_line_is_told_of_its_folder_and_quota(
    launcher: Launcher, tmp_path: Path
) -> None:
    paths, status = silent(launcher, tmp_path)
    found = explained(paths, status)
    assert found.reason == "storage"
    assert str(paths.root) in found.message
    assert "quota" in (found.hint or "")
    paths.job_log.touch()  # it could open the file, and no more
    found = explained(paths, status)
    assert (found.reason, found.message) == ("job-exit", "The job ended before it could say a word.")
    assert "quota" in (found.hint or "")


def test_what_open_ondemand_kept_of_the_job_is_read_too(launcher: Launcher, tmp_path: Path) -> None:
    paths, status = silent(launcher, tmp_path)
    (paths.root / "output.log").write_text(
        "Script starting...\n"
        f"./job.sh: line 15: {paths.job_log}: Disk quota exceeded\n"
    )  # fmt: skip
    found = explained(paths, status)
    assert (found.reason, found.message) == (
        "storage",
        f"The job ended: your quota is used up ({paths.job_log}).",
    )
    assert found.log == str(paths.root / "output.log")


def test_an_end_of_slurms_that_only_the_log_knows_has_slurms_reason(
    launcher: Launcher, tmp_path: Path
) -> None:
    paths, status = silent(launcher, tmp_path, "lost")
    paths.job_log.write_text(
        "slurmstepd: error: *** JOB 4711 ON g1 CANCELLED AT 2026-11-21T16:17:16 DUE TO TIME LIMIT ***\n"
    )
    found = explained(paths, status)
    assert (found.state, found.reason) == ("SHUTDOWN", "time-limit")


@pytest.mark.parametrize("reason", ["job-exit", "lost"])
def test_an_unknown_end_stays_unknown_and_carries_the_last_lines(
    launcher: Launcher, tmp_path: Path, reason: str
) -> None:
    paths, status = silent(launcher, tmp_path, reason)
    paths.job_log.write_text("".join(f"line {number}\n" for number in range(100)))
    found = explained(paths, status)
    assert (found.reason, found.message) == (reason, status.message)
    assert (found.quote or "").splitlines() == [f"line {number}" for number in range(95, 100)]
    assert found.log == str(paths.job_log)


@pytest.mark.parametrize("reason", ["user", "node-fail", "time-limit", "engine-exit"])
def test_a_reason_that_is_known_is_not_doubted(launcher: Launcher, tmp_path: Path, reason: str) -> None:
    paths, status = silent(launcher, tmp_path, reason)
    paths.job_log.write_text("OSError: [Errno 28] No space left on device\n")
    assert explained(paths, status) is status

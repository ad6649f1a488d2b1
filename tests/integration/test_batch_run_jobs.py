"""Batch runs with jobs of their own on this machine: killed, at their time limit, cancelled; a folder of texts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher import AsyncLauncher, Launcher
from launcher.api import batch_carry, batch_runs
from launcher.api.batch_runs import BatchRun
from launcher.api.launcher import write_session
from launcher.batch.losses import Losses
from launcher.batch.report import CANCELLED, COMPLETED, PENDING, STOPPED, WAITING
from launcher.cli import main
from launcher.cli.completion import words
from launcher.errors import EngineError, RequestError, SessionError
from launcher.sessions.paths import write_private
from tests.programs.batch_chaos import ENGINE, check, lines, suffer, write
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(180)
PACED = ("--start-delay-s", "0", "--first-token-ms", "50", "--token-rate", "0")  # 1500 by 8 take 9.4 s
QUICK = ("--start-delay-s", "0", "--first-token-ms", "0", "--token-rate", "0")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def begun(launcher: Launcher, path: Path, **more: Any) -> BatchRun:
    """A run in its own job, submitted."""
    more.setdefault("engine_args", QUICK)
    batch = batch_runs.begin(launcher, path, window=8, **more)
    batch_carry.begun(batch)
    return batch


def test_runner_engine_and_job_are_killed_and_each_id_is_answered_once(
    launcher: Launcher, tmp_path: Path
) -> None:
    """FIRST 9: kill -9 of runner, engine and job at random lines: one answer an id, earlier bytes unchanged."""
    seed = random.randrange(10**6)
    print("seed", seed)
    outcome = suffer(launcher, tmp_path, 900, 3, seed)
    check(outcome, 900)
    batch = outcome.batch
    wait_until(lambda: all(launcher.session(one).status().ended for one in batch.sessions), 30)
    assert len(batch.sessions) == 2, (
        "one engine start for each job, and one more job for the one that was killed"
    )
    assert launcher.session(batch.sessions[-1]).status().reason == "batch-done"


def test_a_line_that_ends_the_engine_each_time_keeps_no_other_from_its_answer(
    launcher: Launcher, tmp_path: Path
) -> None:
    """What earlier runners have seen of it is known; alone with the engine for the second time, it is an error."""
    deadly = ("--first-token-ms", "20", "--start-delay-s", "0", "--fail-on", "question 13")
    source = write(tmp_path / "in.jsonl", 60)
    batch = batch_runs.begin(launcher, source, window=8, engine_args=deadly)
    for _ in range(4):
        Losses(batch.run.folder / "losses").add("r13")
    batch_carry.begun(batch)
    done = batch_carry.follow(batch)
    assert (done.state, done.answered, done.failed) == (COMPLETED, 59, 1)
    assert sorted(ids(Path(batch.spec.output))) == sorted(
        f"r{number}" for number in range(60) if number != 13
    )
    (told,) = [json.loads(line) for line in Path(batch.spec.errors).read_text().splitlines()]
    assert (told["custom_id"], told["line"], told["error"]["code"]) == ("r13", 14, "engine_lost")
    (only,) = batch.sessions
    assert launcher.session(only).status().engine_restarts == 1
    assert "question" not in (batch.run.folder / "losses").read_text(), "no prompt in the state"


def test_a_time_limit_is_followed_by_the_next_job(launcher: Launcher, tmp_path: Path) -> None:
    """FIRST 9: the job stops before its time limit, and submits the next one by itself; nobody has to wait for it."""
    batch = begun(launcher, write(tmp_path / "in.jsonl", 1500), hours=10 / 3600, engine_args=PACED)
    wait_until(lambda: batch.status().state == COMPLETED, 120)
    assert sorted(ids(Path(batch.spec.output))) == sorted(f"r{number}" for number in range(1500))
    assert len(batch.sessions) >= 2
    sessions = [launcher.session(one) for one in batch.sessions]
    wait_until(lambda: all(session.status().ended for session in sessions), 30)
    assert [session.status().reason for session in sessions] == [
        *["time-limit"] * (len(sessions) - 1),
        "batch-done",
    ]
    assert all("Traceback" not in session.paths.batch_log.read_text() for session in sessions)


def test_cancel_ends_its_job_and_resume_begins_another(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", 400)
    batch = begun(launcher, path, engine_args=PACED)
    same = ["batch", "run", str(path), "--window", "8", "--detach", "--json"]
    assert main(same) == 0, "the same again finds it"
    assert json.loads(capsys.readouterr().out)["sessions"] == batch.sessions
    with pytest.raises(SessionError, match="carries the run already"):
        batch.start()
    wait_until(lambda: lines(batch) > 10, 60)
    assert main(["batch", "cancel", batch.id]) == 0
    wait_until(lambda: batch.status().state == CANCELLED, 30)
    (first,) = batch.sessions
    wait_until(lambda: launcher.session(first).status().ended, 30)
    kept = lines(batch)
    assert 10 < kept < 400
    capsys.readouterr()
    assert main(["batch", "resume", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["answered"], len(told["sessions"])) == (COMPLETED, 400, 2)
    assert sorted(ids(Path(batch.spec.output))) == sorted(f"r{number}" for number in range(400))


def test_a_job_that_waits_is_cancelled_with_its_run(launcher: Launcher, tmp_path: Path) -> None:
    batch = begun(launcher, write(tmp_path / "in.jsonl", 5), engine_args=("--hang-at", "start"))
    wait_until(lambda: batch.status().state == WAITING and batch.session is not None, 30)
    batch.cancel()
    session = batch.session
    assert session is not None
    wait_until(lambda: session.status().ended, 30)
    assert batch.status().state == CANCELLED


def test_a_job_whose_submission_was_killed_is_followed_by_another(launcher: Launcher, tmp_path: Path) -> None:
    batch = batch_runs.begin(launcher, write(tmp_path / "in.jsonl", 5), engine_args=QUICK)
    # What a kill between the session's folder and sbatch leaves, half a minute ago.
    plan = batch_runs.planned(launcher, batch.means, batch.run.folder)
    plan = dataclasses.replace(plan, created_at=time.time() - 31)
    write_session(plan, launcher.make(plan))
    write_private(batch.run.folder / "sessions.json", json.dumps([{"id": plan.id, "done": 0}]))
    assert not batch.goes_on
    batch_carry.begun(batch)
    assert batch_carry.follow(batch).answered == 5
    assert batch.sessions[0] == plan.id
    assert len(batch.sessions) == 2


def test_a_model_that_cannot_start_is_not_started_again(launcher: Launcher, tmp_path: Path) -> None:
    batch = begun(
        launcher, write(tmp_path / "in.jsonl", 5), engine_args=("--fail-at", "start", "--fail-with", "No GPU")
    )
    with pytest.raises(EngineError, match="No GPU"):
        batch_carry.follow(batch)
    assert len(batch.sessions) == 1
    assert batch.status().state == STOPPED


def test_a_session_that_runs_answers_a_run_and_a_folder(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blackfish 11: batch chat over a folder, with the machinery of batch runs."""
    session = launcher.launch("simulated", page=False, engine_args=QUICK)
    session.wait(60)
    texts = tmp_path / "letters"
    (texts / "deep").mkdir(parents=True)
    (texts / "a.txt").write_text("one two three")
    (texts / "deep" / "b.txt").write_text("four")
    (tmp_path / "prompt").write_text("Translate:")
    answers = tmp_path / "answers"
    chat = [
        "batch",
        "chat",
        "--prompt-file",
        str(tmp_path / "prompt"),
        "--input-dir",
        str(texts),
        "-o",
        str(answers),
    ]
    assert main([*chat, "--session", session.id]) == 0
    assert "2 of 2 answered" in capsys.readouterr().out
    assert (answers / "a.txt").read_text() == "Simulated answer: your question has 4 words.\n"
    assert (answers / "deep" / "b.txt").read_text() == "Simulated answer: your question has 2 words.\n"
    (texts / "a.txt").write_text("one")
    (texts / "c.txt").write_bytes(b"\xff")
    assert main([*chat, "--session", session.id, "--json"]) == 1, "one text has no answer"
    (texts / "c.txt").unlink()
    told = json.loads(capsys.readouterr().out)
    assert (told["answered"], told["total"]) == (2, 2)
    assert (answers / "a.txt").read_text() == "Simulated answer: your question has 2 words.\n"

    done = launcher.batch_run(write(tmp_path / "in.jsonl", 30), session=session.id)
    assert (done.status().state, done.status().answered) == (COMPLETED, 30)
    assert done.status().session == session.id
    assert [one.id for one in launcher.batch_runs()] == sorted(
        (one.id for one in launcher.batch_runs()), key=lambda name: name == done.id
    )
    assert not session.status().ended, "it is not ours to stop"
    wrong = write(tmp_path / "other.jsonl", 1, model="other")
    assert main(["batch", "run", str(wrong), "--session", session.id]) == 1
    assert "1 with an error" in capsys.readouterr().out
    session.stop()
    more = write(tmp_path / "more.jsonl", 3)
    assert main(["batch", "run", str(more), "--session", session.id]) == 6
    assert "is over" in capsys.readouterr().err
    texts_again = launcher.batch_run(more, model="simulated", engine_args=QUICK)
    assert texts_again.status().answered == 3
    assert words(["launcher", "batch", "status", "mo"], 3) == [texts_again.id]


async def test_the_same_with_asyncio(launcher: Launcher, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", 400)
    wanted: dict[str, Any] = {"model": "simulated", "engine_args": ENGINE, "window": 8}
    going = asyncio.create_task(AsyncLauncher(launcher.settings).batch_run(path, **wanted))
    while not (known := await asyncio.to_thread(launcher.batch_runs)) or lines(known[0]) < 20:
        await asyncio.sleep(0.05)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    batch = await AsyncLauncher(launcher.settings).batch_run(path, **wanted)
    assert (batch.status().state, batch.status().answered) == (COMPLETED, 400)
    assert len(batch.sessions) == 1, "its job went on"


def test_a_run_that_waits_for_a_session_can_be_cancelled(launcher: Launcher, tmp_path: Path) -> None:
    session = launcher.launch("simulated", page=False, engine_args=("--hang-at", "start"))
    batch = batch_runs.begin(launcher, write(tmp_path / "in.jsonl", 3), session=session.id)
    with ThreadPoolExecutor(1) as apart:
        going = apart.submit(batch_carry.through, batch)
        wait_until(lambda: batch.status().state == WAITING, 30)
        assert "does not answer yet" in batch.status().message
        batch.cancel()
        assert going.result(30).state == CANCELLED
    session.stop()
    path = write(tmp_path / "gone.jsonl", 1)
    gone = batch_runs.begin(launcher, path, session=session.id)
    path.unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        batch_carry.through(gone)
    assert gone.status().state == PENDING

"""What is killed while a batch runs: its program, the gateway; and what must not end a session that carries one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest

from launcher import Launcher, Session
from launcher.batch.batches import Place
from tests.integration.batching import ask, begun, ended, line, runner, running
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)
LINES = 1200


def answered(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def test_each_line_is_answered_once_whatever_is_killed(tmp_path: Path) -> None:
    """FIRST 9: its program, then the gateway itself are killed; a new one goes on, each id has one answer."""
    with running(tmp_path) as session:
        with session.openai() as client:
            batch = begun(client, [line(f"line {n}", max_tokens=20) for n in range(LINES)])
            place = Place(next(session.paths.batches.glob(f"batches/*/{batch.id}")))
            wait_until(lambda: answered(place.output) > 50)
            supervisor = session.status().pid
            assert supervisor is not None
            first = runner(supervisor)
            assert first is not None
            first.kill()
            before = place.output.read_bytes()
            wait_until(lambda: answered(place.output) > before.count(b"\n") + 50)
            assert client.batches.retrieve(batch.id).status == "in_progress"
            second = runner(supervisor)
            assert second is not None
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)
        between = place.output.read_bytes()
        assert between.startswith(before[: before.rfind(b"\n") + 1])
        assert 100 < between.count(b"\n") < LINES
        with again(session), session.openai() as client:
            done = ended(client, batch)
            assert done.status == "completed"
            assert done.request_counts is not None
            assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 0)
            output = client.files.content(done.output_file_id or "").read()
            found = [json.loads(one)["custom_id"] for one in output.splitlines()]
    assert sorted(found) == sorted(f"line {n}" for n in range(LINES))
    assert output.startswith(between[: between.rfind(b"\n") + 1])


class again:  # noqa: N801 - reads as a sentence
    """The session in the same folder, served once more, as a requeued job does."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        paths = self._session.paths
        before = paths.connection.read_bytes()
        argv = [sys.executable, "-m", "launcher", "serve", str(paths.root)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        wait_until(lambda: paths.connection.exists() and paths.connection.read_bytes() != before)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


def test_a_batch_keeps_its_session_awake(launcher: Launcher) -> None:
    """FIRST 4: a session with an idle limit of seconds lives as long as its batch waits for its key's next minute."""
    session = launcher.launch("simulated", idle_minutes=0.1)
    connection = session.wait()
    _, secret = session.keys.new("slow", requests_per_minute=8)
    wait_until(lambda: ask(connection, "GET", "/v1/batches", key=secret)[0] == 200)
    with openai.OpenAI(base_url=connection.base_url, api_key=secret) as client:
        batch = begun(client, [line(str(n)) for n in range(7)])
    place = Place(next(session.paths.batches.glob(f"batches/*/{batch.id}")))
    wait_until(lambda: place.read_state().final or session.status().state != "READY")
    assert place.read_state().status == "completed"
    wait_until(lambda: session.status().state != "READY")
    assert session.status().reason == "idle"

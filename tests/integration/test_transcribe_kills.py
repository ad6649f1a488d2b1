"""`launcher transcribe` under kill -9, a time limit and Ctrl-C: nothing is lost, the outputs are equal."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher import Session
from launcher.sessions.status import READY
from tests.integration.transcribing import ALL, Desk, desk, left_behind, transcripts
from tests.programs.front import wait_until
from tests.speech import needs_speech

pytestmark = pytest.mark.timeout(300)
_PIECE = 400  # bytes of a piece with one word, about


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    needs_speech()
    with desk(tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.fixture(scope="module")
def first(shared: Desk) -> tuple[Session, float]:
    """A session that a person has started, and how long that took."""
    started = time.monotonic()
    return shared.session(), time.monotonic() - started


def ready(shared: Desk) -> Session:
    """The one session that is ready, once there is one."""
    found: list[Session] = []

    def one() -> bool:
        found[:] = [session for session in shared.launcher.sessions() if session.status().state == READY]
        return len(found) == 1

    wait_until(one, 90)
    return found[0]


def engine_of(session: Session) -> int:
    """A process of the server: gunicorn's own or the one with the model."""
    pid = session.status().pid
    return random.choice(psutil.Process(pid).children(recursive=True)).pid


def test_a_session_that_was_named_is_not_replaced(shared: Desk, first: tuple[Session, float]) -> None:
    session, _ = first
    shared.audio("named/talk.wav", repeat=30)
    process = shared.start("named", "--session", session.id, "--format", "txt")
    shared.wait_for_pieces("named", 2 * _PIECE, process)
    session.stop()
    text, error = process.communicate(timeout=100)
    assert process.returncode == 6
    assert "stalled" in text
    assert f"Session {session.id} is over. You stopped the session." in error
    assert "Go on with: launcher transcribe named --format txt" in error


def test_three_kills_in_a_row_and_the_same_command_again(shared: Desk) -> None:
    """Blackfish 10: the same command goes on."""
    for folder in ("killed", "plain"):
        shared.audio(f"{folder}/one.wav")
        # Long enough for three kills, or for another command, before its end.
        shared.audio(f"{folder}/two.wav", repeat=15)
    shared.audio("other/short.wav", words=("yes",))
    undisturbed = shared.start("plain", "--model", "words", *ALL)
    session = ready(shared)
    other = shared.run("other", "--format", "txt")
    assert other.code == 0, other
    assert f"Session {session.id} is used." in other.error
    assert "goes on" not in other.text
    undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0
    assert session.status().reason == "user", "the one that leaves last stops it"
    command = ("killed", "--model", "words", "--keep", *ALL)
    seed = random.randrange(10**6)
    print("seed", seed)
    random.seed(seed)
    kills = random.sample(("command", "server", "session"), 3)
    process = shared.start(*command)
    for what in kills:
        shared.wait_for_pieces("killed", random.randrange(1, 6) * _PIECE, process)
        session = ready(shared)
        if what == "command":
            process.kill()
            process.communicate()
            process = shared.start(*command)
        elif what == "server":
            os.kill(engine_of(session), signal.SIGKILL)
        else:
            pid = session.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
    text, error = process.communicate(timeout=200)
    assert process.returncode == 0, (kills, error)
    for path, content in transcripts(shared.folder / "plain").items():
        assert transcripts(shared.folder / "killed")[path].decode() == content.decode(), (kills, error)
    assert len(transcripts(shared.folder / "plain")) == 10
    assert left_behind(shared.folder / "killed") == []
    kept = ready(shared)
    assert f"Session {kept.id} goes on. Stop it with: launcher stop {kept.id}" in text
    kept.stop()


def test_a_time_limit_goes_on_by_itself_and_ctrl_c_leaves_no_session(
    shared: Desk, first: tuple[Session, float]
) -> None:
    """Blackfish 10: over the time limit too."""
    shared.audio("long/talk.wav", repeat=60)  # a quarter of an hour: nobody waits for its end here
    hours = (6 + 2 * first[1]) / 3600
    command = ("long", "--model", "words", "--format", "txt", "--hours", f"{hours:.5f}")
    log = shared.folder / "log"
    with log.open("w") as file:
        process = shared.start(*command, terminal=file)

    def said(words: str) -> bool:
        return words in log.read_text() or process.poll() is not None

    wait_until(lambda: said("Another one goes on."), 120)
    assert "The session reached its time limit. Another one goes on." in log.read_text(), log.read_text()
    ready(shared)
    shared.wait_for_pieces("long", 2 * _PIECE, process)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "stalled" in text
    assert "of it are kept; the same command goes on from there." in text
    end = log.read_text()
    assert "Traceback" not in end
    assert f"Go on with: launcher transcribe {' '.join(command)}" in end
    assert all(session.status().ended for session in shared.launcher.sessions())
    planned = shared.run(*command, "--dry-run", "--json").data["recordings"][0]
    assert planned["state"] == "begun"
    assert planned["done_s"] > 0


def test_a_term_of_a_batch_job_ends_it_as_ctrl_c_does(shared: Desk) -> None:
    before = {session.id for session in shared.launcher.sessions()}
    process = shared.start("named", "--model", "words", "--format", "txt")
    starting: list[Session] = []

    def begun() -> bool:
        starting[:] = [session for session in shared.launcher.sessions() if session.id not in before]
        return bool(starting) and (starting[0].paths.root / "transcribe.lock").exists()

    wait_until(begun)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    assert "Go on with: launcher transcribe named --model words --format txt" in error
    assert starting[0].status().ended


def test_a_start_that_fails_says_why_and_begins_nothing(shared: Desk, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    model = Path(__file__).parents[2] / "launcher" / "models" / "shipped" / "tiny-whisper"
    subprocess.run(["cp", "-r", model, broken], check=True)
    (broken / "model.bin").write_bytes((broken / "model.bin").read_bytes()[:100_000])
    shared.audio("unbegun/talk.wav", words=("yes",))
    done = shared.run("unbegun", "--model", str(broken))
    assert done.code in (4, 7), done
    assert done.error.count("is started for this") <= 1
    assert left_behind(shared.folder / "unbegun") == []

"""The Python API for those who block: blocks that end what they started, several sessions at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher import Launcher, Session, Status
from launcher.errors import EngineError, RequestError, SessionError
from launcher.schedulers import local
from launcher.sessions.paths import write_private
from launcher.settings.layers import load
from tests.hostile import HOSTILE
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)
SLOW = ("--start-delay-s", "60")


def test_several_are_waited_for_together_and_end_with_the_block(launcher: Launcher) -> None:
    """vec-inf 11: each step is told, answers come in the order of the question; Blackfish 15: a block of a launcher."""
    other = launcher.launch("simulated", name="other", engine_args=SLOW)
    told: list[tuple[str, str]] = []

    def progress(session: Session, status: Status) -> None:
        told.append((session.plan.name, status.state))

    with Launcher(load()) as ours:
        quick = ours.launch("simulated", name="quick")
        slow = ours.launch("simulated", name="slow", engine_args=("--start-delay-s", "6"))
        connections = ours.wait_all([slow, quick], 60, progress)
        assert [connection.id for connection in connections] == [slow.id, quick.id]
        assert [name for name, state in told if state == "READY"] == ["quick", "slow"]
        assert ours.wait_all([]) == []
        assert [status.state for status in ours.statuses([quick, slow])] == ["READY", "READY"]
    assert [session.status().reason for session in (slow, quick)] == ["user", "user"]
    assert not other.status().ended
    other.stop()


def test_an_error_in_the_block_of_a_launcher_stops_its_sessions(launcher: Launcher) -> None:
    """Blackfish 15: so does a mishap between two launches."""

    def mishap() -> None:
        with launcher:
            launcher.launch("simulated", engine_args=SLOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mishap()
    (session,) = launcher.sessions()
    assert session.status().reason == "user"


def test_a_block_that_is_told_to_leaves_its_sessions_alone(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blackfish 15: `auto_cleanup=False`, `refresh`, and a key that goes through no proxy of the cluster."""
    with Launcher(load(), auto_cleanup=False) as ours:
        session = ours.launch("simulated")
    with session:
        session.wait()
        assert session.refresh().state == "READY"
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
        monkeypatch.delenv("no_proxy", raising=False)
        with session.openai(max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["simulated"]


PROGRAM = """\
import signal
from launcher import Launcher

launcher = Launcher(auto_cleanup=True)
print(launcher.launch("simulated").id, flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "codes"),
    # Python ends itself by the signal, or with 1 where something ran after it: what is done at exit.
    [("raise SystemExit(3)", {3}), ("signal.pause()", {-signal.SIGINT, 1})],
    ids=["exit", "ctrl-c"],
)
def test_what_a_program_launched_ends_with_it(end: str, codes: set[int], launcher: Launcher) -> None:
    """Blackfish 15: `auto_cleanup`, also where the program ends in the middle."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end)], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        session = launcher.session(program.stdout.readline().strip())
        if "pause" in end:
            program.send_signal(signal.SIGINT)
    assert program.returncode in codes
    assert session.status().reason == "user"


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])  # an empty one is none
def test_no_cluster_and_no_session_of_a_hostile_name(name: str, launcher: Launcher) -> None:
    with pytest.raises(RequestError, match="Unknown cluster"):
        Launcher(cluster=name)
    with pytest.raises(SessionError):
        launcher.session(name)


def test_one_that_fails_ends_the_waiting_and_not_the_others(launcher: Launcher) -> None:
    with launcher:
        good = launcher.launch("simulated")
        bad = launcher.launch(
            "simulated", engine_args=("--fail-at", "start", "--fail-with", "CUDA out of memory")
        )
        with pytest.raises(EngineError) as caught:
            launcher.wait_all([good, bad])
        assert caught.value.reason
        assert "engine stopped" in caught.value.message
        assert good.wait().id == good.id


def test_a_session_that_does_not_answer_yet(launcher: Launcher) -> None:
    """Blackfish 15: `wait` with a limit, `delete` and a stop by somebody else; no client for what does not answer."""
    session = launcher.launch("simulated", engine_args=SLOW)
    with pytest.raises(SessionError, match=r"is not ready after 0\.5 s"):
        session.wait(0.5)
    for client in (session.openai, session.async_openai):
        with pytest.raises(SessionError, match=r"is not ready: .* Call wait\(\) first"):
            client()
    with pytest.raises(SessionError, match="is not removed"):
        session.delete()
    other = threading.Timer(0.5, session.stop)
    other.start()
    with pytest.raises(SessionError, match="You stopped the session") as caught:
        session.wait()
    assert caught.value.reason == "user"
    other.join()
    session.delete()
    assert not session.paths.root.exists()
    assert launcher.sessions() == []
    with pytest.raises(SessionError, match="is gone"):
        session.status()


def test_what_is_wrong_is_raised_before_anything_is_there(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="hours"):
        launcher.launch("simulated", hours=-1)
    with pytest.raises(RequestError, match="Did you mean gpus"):
        launcher.launch("simulated", gpu=1)
    assert not os.path.isdir(tmp_path / "sessions") or not os.listdir(tmp_path / "sessions")


SITE = """
clusters: {near: {scheduler: local}, next: {scheduler: local}}
profiles:
  small: {cluster: near, hours_max: 2}
  large: {cluster: next, hours_max: 4}
session: {profile: small}
"""


def test_a_launcher_of_one_cluster_knows_no_other(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site.yml").write_text(SITE)
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    with Launcher(cluster="next") as ours, Launcher() as both:
        session = ours.launch("simulated", engine_args=SLOW)
        assert session.plan.resources.profile == "large"
        elsewhere = both.launch("simulated", engine_args=SLOW)
        assert elsewhere.plan.cluster.name == "near"
        assert [each.id for each in ours.sessions()] == [session.id]
        assert len(both.sessions()) == 2
        with pytest.raises(RequestError, match="small"):
            ours.launch("simulated", profile="small")
    with pytest.raises(RequestError, match=r'Unknown cluster "nxt"\. Did you mean next'):
        Launcher(cluster="nxt")


def test_many_threads_can_submit_at_once(tmp_path: Path) -> None:
    """Each script is run, also where another thread starts a process while it is written."""

    def submit(thread: int) -> None:
        for number in range(15):
            script = tmp_path / f"{thread}-{number}.sh"
            write_private(script, f"#!/bin/bash\ntouch '{script}.done'\n")
            script.chmod(0o700)
            local.submit(script)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(list(tmp_path.glob("*.done"))) == 60)

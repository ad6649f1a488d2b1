"""The Python API for those who block: blocks that end what they started, several sessions at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher import Connection, Launcher, Session, Status
from launcher.errors import EngineError, RequestError, SessionError
from launcher.settings.layers import load

pytestmark = pytest.mark.timeout(120)
SLOW = ("--start-delay-s", "60")


def test_what_a_block_launched_ends_with_it(launcher: Launcher) -> None:
    """Blackfish 15: the block of a launcher stops its own sessions, and no other."""
    other = launcher.launch("simulated", name="other")
    with Launcher(load()) as ours:
        own = [ours.launch("simulated", name=f"own-{number}") for number in (1, 2)]
        assert all(isinstance(connection, Connection) for connection in ours.wait_all(own))
    assert [session.status().reason for session in own] == ["user", "user"]
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
from launcher import Launcher
launcher = Launcher(auto_cleanup=True)
print(launcher.launch("simulated").id)
raise SystemExit(3)
"""


def test_what_a_program_launched_ends_with_it(launcher: Launcher) -> None:
    """Blackfish 15: `auto_cleanup`, also where the program ends in the middle."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert launcher.session(done.stdout.strip()).status().reason == "user"


def test_several_are_waited_for_together(launcher: Launcher) -> None:
    """vec-inf 11: each step of each session is told, and the connections come in the order of the question."""
    with launcher:
        slow = launcher.launch("simulated", name="slow", engine_args=("--start-delay-s", "2"))
        quick = launcher.launch("simulated", name="quick")
        told: list[tuple[str, str]] = []

        def progress(session: Session, status: Status) -> None:
            told.append((session.plan.name, status.state))

        connections = launcher.wait_all([slow, quick], 60, progress)
        assert [connection.id for connection in connections] == [slow.id, quick.id]
        ready = [name for name, state in told if state == "READY"]
        assert ready == ["quick", "slow"]
        assert launcher.wait_all([]) == []
        assert [status.state for status in launcher.statuses([quick, slow])] == ["READY", "READY"]


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


def test_a_time_limit_of_a_wait_is_told(launcher: Launcher) -> None:
    with launcher, pytest.raises(SessionError, match=r"is not ready after 0\.5 s"):
        launcher.launch("simulated", engine_args=SLOW).wait(0.5)


def test_delete_removes_an_ended_session_and_no_other(launcher: Launcher) -> None:
    """Blackfish 15: `delete`."""
    session = launcher.launch("simulated")
    with pytest.raises(SessionError):
        session.delete()
    session.stop()
    session.delete()
    assert not session.paths.root.exists()
    assert session.id not in [each.id for each in launcher.sessions()]
    with pytest.raises(SessionError):
        session.status()


def test_a_client_only_for_what_answers(launcher: Launcher) -> None:
    with launcher:
        session = launcher.launch("simulated", engine_args=SLOW)
        for client in (session.openai, session.async_openai):
            with pytest.raises(SessionError, match=r"is not ready: .* Call wait\(\) first"):
                client()


def test_a_session_that_somebody_else_stops_ends_the_waiting(launcher: Launcher) -> None:
    session = launcher.launch("simulated", engine_args=SLOW)
    other = threading.Timer(0.5, session.stop)
    other.start()
    with pytest.raises(SessionError, match="You stopped the session"):
        session.wait()
    other.join()


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

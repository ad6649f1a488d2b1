"""What a session finds and leaves on its node: its private folder, and what killed ones left there."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from pathlib import Path

import pytest

from launcher.planning import Request, make_plan
from launcher.serve.node import runtime_directory, tail
from launcher.sessions.plan import Plan
from launcher.settings.layers import load


@pytest.fixture
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    folder = tmp_path_factory.mktemp("t")
    return dataclasses.replace(made, places=dataclasses.replace(made.places, runtime=str(folder)))


def old(folder: Path) -> None:
    os.utime(folder, (time.time() - 120,) * 2)


def left(plan: Plan, name: str, *sockets: str) -> Path:
    folder = Path(str(plan.places.runtime)) / name
    folder.mkdir()
    for socket_name in sockets:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / socket_name))
    old(folder)
    return folder


def test_the_folder_is_private_and_gone_afterwards(plan: Plan) -> None:
    with runtime_directory(plan) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "below").mkdir()
    assert not folder.exists()


def test_what_a_killed_supervisor_left_is_taken_away_by_the_next(plan: Plan) -> None:
    empty, sockets = left(plan, "launcher-a"), left(plan, "launcher-b", "engine.sock", "page.sock")
    with runtime_directory(plan):
        assert not empty.exists()
        assert not sockets.exists()


def test_a_living_sessions_folder_stays(plan: Plan) -> None:
    with runtime_directory(plan) as first:
        (first / "engine.sock").touch()
        old(first)
        with runtime_directory(plan) as second:
            assert second != first
        assert (first / "engine.sock").exists()


def test_what_may_be_somebodys_own_stays(plan: Plan) -> None:
    full, other = left(plan, "launcher-mine"), left(plan, "launch")
    (full / "thesis.txt").write_text("mine")
    old(full)
    link = full.with_name("launcher-link")
    link.symlink_to(other)
    young = full.with_name("launcher-young")
    young.mkdir()
    with runtime_directory(plan):
        assert (full / "thesis.txt").read_text() == "mine"
        assert other.exists()
        assert link.is_symlink()
        assert young.exists()  # its session may be about to lock it


def test_the_end_of_a_log_begins_where_one_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first life\nsecond life\n")
    assert tail(log) == "first life\nsecond life\n"
    assert tail(log, since=11) == "second life\n"
    assert tail(log, 5) == "life\n"
    assert tail(log, since=10_000) == ""
    assert tail(tmp_path / "none") == ""

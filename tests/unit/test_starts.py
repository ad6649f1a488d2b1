"""What is remembered of earlier starts: found again for the same thing only, and never believed when it is odd."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import StorageError
from launcher.planning import Request, make_plan
from launcher.sessions.plan import Plan
from launcher.sessions.starts import Start, recall, remember
from launcher.sessions.status import Coming
from launcher.settings.layers import load
from tests.hostile import HOSTILE

START = Start(12.5, (Coming("weights", 8.0), Coming("graphs", 3.0), Coming("probe", 0.5)))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    return dataclasses.replace(
        made, places=dataclasses.replace(made.places, sessions=str(tmp_path / "state" / "sessions"))
    )


def file_of(plan: Plan) -> Path:
    remember(plan, START)
    (path,) = (Path(plan.places.sessions) / ".starts").iterdir()
    return path


def test_a_start_is_found_again_by_the_next_session_of_the_same(plan: Plan) -> None:
    assert recall(plan) is None
    remember(plan, START)
    later = dataclasses.replace(plan, id="another", created_at=plan.created_at + 1, door="ondemand")
    assert recall(later) == START
    remember(later, Start(1.0, ()))
    assert recall(plan) == Start(1.0, ())


def test_it_says_what_is_still_to_come() -> None:
    assert [phase.name for phase in START.after(None)] == ["weights", "graphs", "probe"]
    assert [phase.name for phase in START.after("compile")] == ["graphs", "probe"]
    assert START.after("probe") == ()
    assert (START.expected_s("graphs"), START.expected_s("compile")) == (3.0, None)


def test_another_model_commit_profile_or_environment_is_another_start(plan: Plan) -> None:
    remember(plan, START)
    replace = dataclasses.replace
    for other in (
        replace(plan, engine="vllm"),
        replace(plan, model=replace(plan.model, id="org/other")),
        replace(plan, model=replace(plan.model, revision="0" * 40)),
        replace(plan, cluster=replace(plan.cluster, name="elsewhere")),
        replace(plan, resources=replace(plan.resources, profile="large")),
        replace(plan, environment=replace(plan.environment, name="other")),
    ):
        assert recall(other) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_any_name_of_a_model_makes_one_private_file(plan: Plan, text: str) -> None:
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, id=f"../../{text}"))
    path = file_of(plan)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert recall(plan) == START
    assert [entry.name for entry in Path(plan.places.sessions).iterdir()] == [".starts"]


@pytest.mark.parametrize(
    "change",
    [
        {"total_s": -1}, {"total_s": 1e9}, {"total_s": 10**400}, {"total_s": float("nan")}, {"total_s": float("inf")},
        {"total_s": "12"}, {"total_s": True}, {"total_s": None}, {"total_s": [1]},
        {"phases": [["weights", -1]]}, {"phases": [["weights", "1"]]}, {"phases": [["<b>", 1]]}, {"phases": [[1, 1]]},
        {"phases": [["probe", 1], ["weights", 1]]}, {"phases": [["probe", 1]] * 9}, {"phases": [["probe"]]},
        {"phases": 3}, {"phases": None}, {"phases": "weights"}, {"of": {}}, {"of": None}, {"schema": 2},
    ],
)  # fmt: skip
def test_odd_content_is_passed_over(plan: Plan, change: dict[str, Any]) -> None:
    path = file_of(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert recall(plan) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"3", b"[" * 15_000, b" " * 20_000]
)
def test_what_is_no_such_file_is_passed_over(plan: Plan, content: bytes) -> None:
    file_of(plan).write_bytes(content)
    assert recall(plan) is None
    remember(plan, START)
    assert recall(plan) == START


def test_a_pipe_a_folder_or_a_link_is_passed_over(plan: Plan, tmp_path: Path) -> None:
    path = file_of(plan)
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert recall(plan) is None
    path.unlink()
    os.mkfifo(path)
    assert recall(plan) is None  # and does not wait for a writer
    path.unlink()
    path.mkdir()
    assert recall(plan) is None


def test_a_folder_that_others_can_write_is_neither_read_nor_written(plan: Plan) -> None:
    folder = file_of(plan).parent
    folder.chmod(0o777)
    assert recall(plan) is None
    with pytest.raises(StorageError):
        remember(plan, START)

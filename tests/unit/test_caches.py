"""Compile caches: each model, environment and kind of GPU has its own, and a copy on the node is whole or not there."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import StorageError
from launcher.planning import Request, make_plan
from launcher.serve import caches
from launcher.serve.caches import Caches
from launcher.sessions.plan import Plan
from launcher.settings.layers import load
from tests.hostile import HOSTILE


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    return dataclasses.replace(made, places=dataclasses.replace(made.places, cache=str(tmp_path / "cache")))


def near(plan: Plan, folder: Path) -> Plan:
    return dataclasses.replace(plan, places=dataclasses.replace(plan.places, local=str(folder)))


def written(path: Path, text: str = "compiled", age_s: float = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return path


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_compiled_for_something_else_is_elsewhere(plan: Plan) -> None:
    image = dataclasses.replace(plan.environment, kind="container", image="/images/vllm.sif")
    others = [
        plan,
        dataclasses.replace(plan, engine="vllm"),
        dataclasses.replace(plan, environment=image),
        dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, gpu_type="a100")),
        dataclasses.replace(plan, model=dataclasses.replace(plan.model, revision="abc")),
    ]
    assert len({Caches(other).folder for other in others}) == len(others)
    again = dataclasses.replace(plan, id="another-1234", created_at=0.0, name="another")
    assert Caches(again).folder == Caches(plan).folder


@pytest.mark.parametrize("text", HOSTILE)
def test_no_model_leaves_the_folder(plan: Plan, text: str) -> None:
    wild = dataclasses.replace(plan, model=dataclasses.replace(plan.model, id=text))
    folder = Caches(wild).folder
    assert folder.parent == Path(plan.places.cache) / plan.engine
    assert folder.is_dir()


def test_a_session_works_on_a_copy_and_brings_back_what_is_new(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_SETTLED_S", 0.2)
    kept = Caches(plan).folder
    tool = written(kept / "triton" / "ab" / "tool.so")
    tool.chmod(0o700)
    disk = tmp_path / "disk of the node"
    disk.mkdir()
    found = Caches(near(plan, disk))
    assert found.folder.is_relative_to(disk)
    assert files(found.folder) == {"triton/ab/tool.so": "compiled"}
    assert os.access(found.folder / "triton" / "ab" / "tool.so", os.X_OK)
    written(found.folder / "vllm" / "new", "compiled here")
    written(found.folder / "vllm" / "open", "half", age_s=-60)
    written(found.folder / "triton" / "ab" / "tool.so", "another")
    (found.folder / "link").symlink_to("/etc/passwd")
    found.bring_back()
    assert files(kept) == {"triton/ab/tool.so": "compiled", "vllm/new": "compiled here"}
    assert not [path for path in kept.rglob("*") if path.is_symlink()]


def test_a_session_that_ends_copies_no_more(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_SETTLED_S", 60.0)  # so that it ends before anything is copied
    disk = tmp_path / "disk"
    disk.mkdir()
    found = Caches(near(plan, disk))
    written(found.folder / "new")
    bringing = threading.Thread(target=found.bring_back)
    bringing.start()
    found.stop()
    bringing.join(30)
    assert not bringing.is_alive()
    assert files(found.kept) == {}


def test_code_that_somebody_else_could_have_compiled_is_not_loaded(plan: Plan) -> None:
    kept = Caches(plan).kept
    for folder in (kept, kept.parent):
        folder.chmod(0o777)
        with pytest.raises(StorageError, match="somebody else"):
            Caches(plan)
        folder.chmod(0o700)
    Caches(plan)


def _nothing(disk: Path) -> None:
    """There is no such disk on this node."""


def _a_file(disk: Path) -> None:
    disk.write_text("")


def _of_everybody(disk: Path) -> None:
    own = disk / f"launcher-{os.geteuid()}"
    own.mkdir(parents=True)
    own.chmod(0o777)


@pytest.mark.parametrize("spoil", [_nothing, _a_file, _of_everybody])
def test_without_a_safe_disk_the_caches_stay_where_they_are(
    plan: Plan, tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    spoil(disk)
    found = Caches(near(plan, disk))
    assert found.folder == found.kept
    assert "the caches stay where they are" in caplog.text
    found.bring_back()

"""Where the engine's program comes from: the same session in a venv, under a module and in a container."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher, LauncherError
from launcher.settings.layers import load
from tests.conftest import needs, skip_loudly
from tests.programs.containers import PROGRAMS, make_image, make_module_tree

pytestmark = pytest.mark.timeout(120)
STAND_IN = Path(__file__).resolve().parents[1] / "programs" / "vllm"
REPOSITORY = Path(__file__).resolve().parents[2]


def launcher(folder: Path, environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A launcher of this machine whose only environment is this one."""
    site = folder / "site.yml"
    entry = {"env": {"LAUNCHER_PYTHON": sys.executable, "VLLM_MARK": "from the site"}, **environment}
    site.write_text(json.dumps({"environments": {"launcher": None, "tried": entry}}))
    monkeypatch.setenv("LAUNCHER_SITE", str(site))
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(folder / "sessions"))
    monkeypatch.setenv("LAUNCHER_PLACES__CACHE", str(folder / "cache"))
    monkeypatch.setenv("LAUNCHER_NETWORK__BIND", "127.0.0.1")
    monkeypatch.setenv("LAUNCHER_SESSION__PAGE", "false")
    return Launcher(load())


def answers(made: Launcher, mark: str = "from the site") -> str:
    with made.launch("tiny-chat") as session:
        session.wait(60)
        with session.openai() as client:
            answer = client.chat.completions.create(
                model="tiny-chat", messages=[{"role": "user", "content": "Hello"}]
            )
        log = session.paths.engine_log.read_text()
        assert f"stand-in vllm: {mark}" in log
    assert answer.choices[0].message.content
    return log


def test_in_a_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vec-inf 14: an engine of a virtual environment."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    shutil.copy(STAND_IN / "vllm", tmp_path / "venv" / "bin" / "vllm")
    answers(launcher(tmp_path, {"kind": "venv", "path": str(tmp_path / "venv")}, monkeypatch))


def test_under_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/etc/profile.d/modules.sh").exists():
        skip_loudly("environment modules: apt-get install environment-modules")
    tree = make_module_tree(
        tmp_path / "modules", "vllm/0.32", path=[STAND_IN], variables={"VLLM_FROM": "module"}
    )
    monkeypatch.setenv("MODULEPATH", str(tree))
    answers(launcher(tmp_path, {"kind": "module", "modules": ["vllm/0.32"]}, monkeypatch))


def test_a_missing_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODULEPATH", str(make_module_tree(tmp_path / "modules", "other/1")))
    made = launcher(tmp_path, {"kind": "module", "modules": ["vllm/0.32"]}, monkeypatch)
    session = made.launch("tiny-chat")
    with pytest.raises(LauncherError, match=r"vllm/0\.32"):
        session.wait(60)
    assert session.status().state == "FAILED"


def test_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vec-inf 14: an engine of a container; Apptainer itself is a small program here."""
    needs("bwrap", "bubblewrap")
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(STAND_IN / "vllm", inside / "vllm")
    contains: list[Path | str] = [inside, sys.prefix, sys.base_prefix, REPOSITORY / "launcher"]
    image = make_image(tmp_path / "vllm.sif", contains, env={"PATH": f"{inside}:/usr/bin:/bin"})
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    environment = {"kind": "container", "image": str(image)}
    answers(launcher(tmp_path, environment, monkeypatch))


def test_a_missing_image_is_told_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blackfish 9: nothing is submitted for an image that is not there."""
    made = launcher(tmp_path, {"kind": "container", "image": str(tmp_path / "no.sif")}, monkeypatch)
    with pytest.raises(LauncherError, match=r"no\.sif is not there"):
        made.launch("tiny-chat")
    assert not (tmp_path / "sessions").exists()

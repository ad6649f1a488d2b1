"""What a request puts around the engine, in real sessions: its folder, its variables, its container, its logs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from launcher import Launcher
from launcher.cli import main
from launcher.errors import EngineError
from launcher.serve.process import Child
from tests.conftest import needs
from tests.programs.containers import PROGRAMS, make_image

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]


def engine_of(supervisor: int) -> int:
    """The process of the simulated engine below the session's."""
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has just ended
            if b"launcher.engines.simulated" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("no engine")


def test_the_engine_runs_where_and_with_what_was_asked_for(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 2: --work-dir, --env and --log-dir of a session that runs; vec-inf 13: script and plan are in it."""
    (runs := tmp_path / "a 'work' dir").mkdir()
    logs = tmp_path / "my logs"
    with launcher.launch("simulated", work_dir=str(runs), env="A_B=x y", log_dir=str(logs)) as session:
        session.wait(60)
        pid = session.status().pid
        assert pid is not None
        engine = engine_of(pid)
        assert os.readlink(f"/proc/{engine}/cwd") == str(runs)
        assert b"\0A_B=x y\0" in Path(f"/proc/{engine}/environ").read_bytes()
        own = logs / session.id
        assert {"engine.log", "job.log", "job.sh", "session.json"} <= {path.name for path in own.iterdir()}
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        # It is found like any other.
        assert [found.id for found in launcher.sessions()] == [session.id]
        assert main(["status", session.id, "--json"]) == 0
        assert '"state": "READY"' in capsys.readouterr().out
    assert launcher.session(session.id).status().state == "SHUTDOWN"


def test_a_folder_that_the_node_does_not_have_ends_the_job_with_its_name(
    launcher: Launcher, tmp_path: Path
) -> None:
    (runs := tmp_path / "work").mkdir()
    plan = launcher.plan("simulated", work_dir=str(runs))
    runs.rmdir()
    session = launcher.submit(plan)
    with pytest.raises(EngineError) as caught:
        session.wait(60)
    assert f"cannot enter the folder {runs}" in str(caught.value)
    assert session.status().state == "FAILED"
    assert str(runs) in session.paths.job_log.read_text()


def test_a_folder_that_is_gone_when_the_engine_starts_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=f"The engine cannot run in the folder {tmp_path}/gone: No such file"
    ):
        asyncio.run(Child.start(["/bin/true"], {}, tmp_path / "log", cwd=tmp_path / "gone"))


def test_an_image_of_ones_own_with_binds_and_variables(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vec-inf 2: --venv with an image, --bind; Blackfish 9: --image-ref."""
    needs("bwrap", "bubblewrap")
    for name in ("inside", "data", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "seen").write_text("")
    program = (
        (ROOT / "tests" / "programs" / "vllm" / "vllm")
        .read_text()
        .replace('"$LAUNCHER_PYTHON"', sys.executable)
        .splitlines()
    )
    # What the engine sees goes into its log.
    look = ["ls /extra", "pwd"]
    (stand_in := tmp_path / "inside" / "vllm").write_text("\n".join([program[0], *look, *program[1:]]) + "\n")
    stand_in.chmod(0o755)
    contains: list[Path | str] = [tmp_path / "inside", sys.prefix, sys.base_prefix, ROOT / "launcher"]
    image = make_image(tmp_path / "own.sif", contains, env={"PATH": f"{tmp_path / 'inside'}:/usr/bin:/bin"})
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    assert shutil.which("apptainer") == str(PROGRAMS / "apptainer")
    with launcher.launch(
        "tiny-chat", venv=str(image), bind=f"{tmp_path / 'data'}:/extra:ro", work_dir=str(tmp_path / "work"),
        env={"VLLM_MARK": "mine"},
    ) as session:  # fmt: skip
        session.wait(60)
        said = session.paths.engine_log.read_text()
    assert "stand-in vllm: mine" in said
    assert "seen" in said.split()
    assert str(tmp_path / "work") in said

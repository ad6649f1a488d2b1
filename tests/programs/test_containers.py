"""The container stand-in confines, binds, hands on signals and is as strict about its arguments as Apptainer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import needs, skip_loudly
from tests.programs.containers import PROGRAMS, make_image, make_module_tree
from tests.slurm.people import People, run_as

pytestmark = pytest.mark.app


@pytest.fixture
def image(tmp_path: Path) -> Path:
    needs("bwrap", "bubblewrap")
    if subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, check=False).returncode:
        skip_loudly("bubblewrap may not make namespaces here: allow user namespaces, or run as root")
    return make_image(tmp_path / "tool.sif", labels={"version": "7"})


def _run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    outside = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": "/nonexistent"} | env
    return subprocess.run(argv, env=outside, cwd="/", capture_output=True, text=True, check=False)


def test_version_and_inspect(image: Path) -> None:
    assert _run("apptainer", "--version").stdout.startswith("apptainer version 1.")
    assert _run("singularity", "--version").stdout.startswith("singularity version")
    assert _run("apptainer", "inspect", str(image)).stdout == "version: 7\n"


def test_only_bound_folders_are_visible(image: Path, tmp_path: Path) -> None:
    # /tmp is Apptainer's own bind: the folders are elsewhere for this test.
    folder = Path(f"/opt/iod-test-{os.getpid()}")
    if os.geteuid() != 0:
        skip_loudly("a folder outside /tmp and home for the container test: only root can make one")
    try:
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "file").write_text("seen")
        exec_ = ["apptainer", "exec"]
        assert _run(*exec_, str(image), "cat", f"{folder}/in/file").returncode != 0
        bound = ["--bind", f"{folder}/in:/data:ro"]
        assert _run(*exec_, *bound, str(image), "cat", "/data/file").stdout == "seen"
        assert _run(*exec_, *bound, str(image), "touch", "/data/new").returncode != 0
        assert _run(*exec_, "--bind", f"{folder}/in", str(image), "touch", f"{folder}/in/new").returncode == 0
        assert (folder / "in" / "new").exists()
        assert _run(*exec_, str(image), "touch", "/usr/new").returncode != 0
        assert _run(*exec_, str(image), "touch", "/new").returncode != 0
        assert _run(*exec_, "--writable-tmpfs", str(image), "touch", "/new").returncode == 0
    finally:
        subprocess.run(["rm", "-r", str(folder)], check=True)


def test_the_environment(image: Path) -> None:
    given = {"A": "1", "APPTAINERENV_B": "it's two", "APPTAINERENV_A": "over"}
    seen = _run("apptainer", "exec", str(image), "env", **given).stdout.splitlines()
    assert {"A=over", "B=it's two"} <= set(seen)
    assert not any(line.startswith("APPTAINERENV_") for line in seen)
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in seen
    given |= {"SECRET": "x"}
    clean = ["apptainer", "exec", "--cleanenv", "--env", "C=3,D=4", str(image), "env"]
    seen = _run(*clean, **given).stdout.splitlines()
    assert {"A=over", "B=it's two", "C=3", "D=4"} <= set(seen)
    assert "SECRET=x" not in seen


def test_containall_has_its_own_tmp_and_pids(image: Path, tmp_path: Path) -> None:
    assert _run("apptainer", "exec", str(image), "ls", str(tmp_path)).returncode == 0
    alone = ["apptainer", "exec", "--containall", "--no-home"]
    assert _run(*alone, str(image), "ls", str(tmp_path)).returncode != 0
    assert _run(*alone, "--pwd", "/usr", str(image), "pwd").stdout == "/usr\n"
    assert str(os.getpid()) not in _run(*alone, str(image), "ps", "-e", "-o", "pid=").stdout.split()


@pytest.mark.parametrize("options", [[], ["--containall"]])
def test_signals_reach_the_command(image: Path, options: list[str]) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    argv = [str(PROGRAMS / "apptainer"), "exec", *options, str(image), "bash", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "got it\n"
    assert running.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["exec", "--frob", "IMAGE", "true"], 1, "unknown flag: --frob"),
        (["exec", "IMAGE"], 1, "accepts at least 2 arg(s)"),
        (["exec", "/nowhere.sif", "true"], 255, "could not open image /nowhere.sif"),
        (["exec", sys.executable, "true"], 255, "image format not recognized"),
        (["exec", "--bind", "/nowhere:/data", "IMAGE", "true"], 255, "mount source /nowhere doesn't exist"),
        (["exec", "--bind", "/usr:/data:rx", "IMAGE", "true"], 255, "invalid bind path"),
        (["exec", "--env", "novalue", "IMAGE", "true"], 1, "must be formatted as key=value"),
        (["exec", "--overlay", "x", "IMAGE", "true"], 1, "does not apply --overlay"),
        (["start", "IMAGE"], 1, 'unknown command "start"'),
        (["exec", "IMAGE", "false"], 1, ""),
        (["exec", "--nv", "IMAGE", "true"], 0, ""),
    ],
)
def test_arguments_are_checked(image: Path, arguments: list[str], code: int, said: str) -> None:
    done = _run("apptainer", *(str(image) if part == "IMAGE" else part for part in arguments))
    assert done.returncode == code
    assert said in done.stderr


def test_an_ordinary_user_can_run_it(image: Path, users: People) -> None:
    shared = make_image(users.alice.folder() / "tool.sif")
    shared.chmod(0o644)
    env = {"PATH": f"{PROGRAMS}:/usr/bin:/bin"}
    done = run_as(users.alice, ["apptainer", "exec", "--nv", str(shared), "id", "-un"], env=env)
    assert done.stdout == f"{users.alice.name}\n"


def test_a_module_puts_a_program_on_path(tmp_path: Path) -> None:
    needs("modulecmd", "environment-modules")
    programs = tmp_path / "a b"
    programs.mkdir()
    (programs / "tool").write_text("#!/bin/sh\necho tool $TOOL_MODE\n")
    (programs / "tool").chmod(0o755)
    tree = make_module_tree(tmp_path / "modules", "base/1", variables={"TOOL_MODE": "quick"})
    make_module_tree(tree, "tool/2.0", path=[programs], requires=["base/1"])
    start = ". /etc/profile.d/modules.sh; module use " + str(tree)
    done = _run("bash", "-c", f"{start}; module load tool/2.0 && tool", HOME=str(tmp_path))
    assert done.stdout == "tool quick\n"
    assert _run("bash", "-c", f"{start}; module load nowhere/1", HOME=str(tmp_path)).returncode == 1
    # Without a login shell there is no `module` at all.
    assert _run("bash", "-c", "module load tool/2.0").returncode == 127

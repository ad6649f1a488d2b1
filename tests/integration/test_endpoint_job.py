"""The script of the job that carries a gateway, run by bash with a launcher that writes down what it is asked."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest

from launcher.errors import StorageError
from launcher.fleet.job import script_of
from launcher.fleet.places import own_folder
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.settings import without_site

RUN, NEXT = "gateway run --host 0.0.0.0\n", "gateway submit --again\n"
LAUNCHER = """\
#!/bin/bash
here=$(dirname "$0")
echo "$*" >> "$here/asked"
[ "$2" = run ] || exit 0
[ ! -e "$here/wrong" ] || exit 3
trap 'echo ended >> "$here/asked"; exit 0' TERM
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("name", ["plain", "a b", "a'; echo foo", 'a"=0"'])
def test_the_job_submits_the_next_one_and_ends_its_gateway(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    launcher, asked = folder / "launcher", folder / "asked"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o700)
    job = subprocess.Popen(["bash", "-c", script_of(str(launcher), ["#SBATCH --job-name=x"])])
    try:
        wait_until(lambda: asked.exists() and asked.read_text() == RUN)
        job.send_signal(signal.SIGUSR1)
        wait_until(lambda: asked.read_text() == RUN + NEXT)
        job.terminate()
        assert job.wait(30) == 0
        assert asked.read_text() == f"{RUN}{NEXT}ended\n"
    finally:
        job.kill()
        job.wait()


def test_a_killed_gateway_is_started_again_in_its_job_but_not_one_that_is_told_wrong(tmp_path: Path) -> None:
    launcher, asked = tmp_path / "launcher", tmp_path / "asked"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o700)
    job = subprocess.Popen(["bash", "-c", script_of(str(launcher), ["#SBATCH --job-name=x"])])
    try:
        for begun in (RUN, 2 * RUN):
            wait_until(partial(_said, asked, begun))
            if begun != RUN:
                (tmp_path / "wrong").touch()
            for child in psutil.Process(job.pid).children():
                child.kill()
        assert job.wait(30) == 3
        assert asked.read_text() == 3 * RUN
    finally:
        job.kill()
        job.wait()


def _said(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def test_a_folder_that_others_can_change_holds_no_script(tmp_path: Path) -> None:
    settings = load(without_site(tmp_path))
    folder = own_folder(settings)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o022 == 0
    os.chmod(folder, 0o777)
    with pytest.raises(StorageError, match="can be changed by somebody else"):
        own_folder(settings)

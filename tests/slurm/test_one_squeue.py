"""How often a real Slurm is asked: once for any number of sessions, and never sooner than two seconds after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from launcher import Launcher
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.programs.terminal import ROOT, Terminal, launcher
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]

SITE = {
    "clusters": {"test": {"scheduler": "slurm"}},
    "profiles": {"held": {"cluster": "test", "partition": "cpu", "sbatch_args": ["--hold"]}},
}
# Says when it was asked, in nanoseconds, and becomes the real program.
WRAPPER = '#!/bin/sh\ndate +%s%N >>"{count}"\nexec "{real}" "$@"\n'
PROGRAMS = ("squeue", "sacct", "scontrol")


class Counted:
    """A user of Slurm with five waiting sessions, whose every question is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in PROGRAMS:
            program = folder / "bin" / name
            program.write_text(WRAPPER.format(count=folder / name, real=shutil.which(name)))
            program.chmod(0o755)
        (folder / "site.yml").write_text(yaml.safe_dump(SITE))
        self.env = {
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LAUNCHER_SITE": str(folder / "site.yml"),
            "LAUNCHER_CONFIG": os.devnull,
            "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"),
        }
        self.launcher = Launcher(load(self.env))
        self.sessions = [self.launcher.launch("simulated") for _ in range(5)]

    def asked(self, name: str = "squeue") -> list[int]:
        """When the program was asked since `forget`."""
        file = self.folder / name
        return [int(when) for when in file.read_text().split()] if file.exists() else []

    def forget(self) -> None:
        for name in PROGRAMS:
            (self.folder / name).unlink(missing_ok=True)

    def run(self, *arguments: str) -> str:
        self.forget()
        done = subprocess.run(
            launcher(*arguments), cwd=ROOT, env={**os.environ, **self.env}, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture(scope="module")
def counted(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.env.items():
            patch.setenv(name, value)
        made = Counted(tmp_path_factory.mktemp("counted"))
        try:
            yield made
        finally:
            for session in made.sessions:
                session.stop(wait=False)


@pytest.mark.parametrize(
    "command", [("status", "--json"), ("top", "--json"), ("status", "--json", "--all")], ids=" ".join
)
def test_one_squeue_for_any_number_of_sessions(counted: Counted, command: tuple[str, ...]) -> None:
    """P7: and neither sacct nor scontrol for jobs that squeue knows."""
    shown = json.loads(counted.run(*command))["sessions"]
    assert [one["state"] for one in shown] == ["PENDING"] * 5
    assert {one["reason"] for one in shown} == {"jobhelduser"}
    assert len(counted.asked()) == 1
    assert not counted.asked("sacct") + counted.asked("scontrol")


def test_the_full_screen_asks_once_each_time_it_looks_and_not_sooner_than_every_two_seconds(
    counted: Counted,
) -> None:
    counted.forget()
    with Terminal(launcher("top"), env=counted.env) as terminal:
        terminal.wait_for("5 sessions, 0 ready")
        terminal.wait_for("jobhelduser")
        for _ in range(20):  # keys ask nobody
            terminal.press("j", "k", "enter", "esc")
        wait_until(lambda: len(counted.asked()) >= 3)
        terminal.press("q")
        assert terminal.ended() == 0
    asked = counted.asked()
    # Two seconds, less what the wrapper's own start took longer at the first one.
    assert min(later - sooner for sooner, later in pairwise(asked)) >= 1.5e9
    assert not counted.asked("sacct") + counted.asked("scontrol")

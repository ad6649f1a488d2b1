"""A laptop and a cluster on this machine: one user's ssh, and another user's account behind a real sshd.

Owns the laptop's home, its settings and its `ssh`; the cluster is whatever the account finds there. Needs root.

    with Laptop(alice, bob, {"SLURM_CONF": ...}) as laptop:
        laptop.settle(launcher="/apps/inference/venv/bin/launcher")
        laptop.run(["launcher", "--cluster", "far", "status"])
        laptop.far.drop()                             # every connection breaks
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.programs.loopback import Host, Loopback
from tests.slurm.people import Person, login_environment, run_as

NAME = "far"


class Laptop(Loopback):
    """The laptop of `owner`, whose ssh logs in as `account`; `variables` are in the environment of every login."""

    def __init__(self, owner: Person, account: Person, variables: Mapping[str, str]) -> None:
        self.owner, self.account = owner, account
        super().__init__()
        self.folder.chmod(0o755)
        self.home = owner.folder("laptop-")
        for path in (self.folder / "run", self.folder / "key", self.folder):
            os.chown(path, owner.uid, owner.gid)
        # One line: of several, sshd takes the first.
        self._set = " ".join(f'"{name}={value}"' for name, value in variables.items())
        self.far: Host = self.add(NAME, more=f"SetEnv {self._set}" if self._set else "")

    def configure(self, more: str = "") -> None:
        """As the base's, but for the account there."""
        text = more + "".join(host.client() for host in self.hosts)
        config = self.folder / "config"
        config.write_text(f"{text}Host *\n  User {self.account.name}\n")
        config.chmod(0o644)
        for path in self.folder.glob("known_hosts*"):
            os.chown(path, self.owner.uid, self.owner.gid)

    @property
    def env(self) -> dict[str, str]:
        """What a program of the laptop's owner has in its environment."""
        own = login_environment(self.owner)
        path = f"{self.folder / 'bin'}{os.pathsep}{own['PATH']}"
        return {
            **own, "PATH": path, "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "LAUNCHER_SITE": os.devnull,
        }  # fmt: skip

    @property
    def settings(self) -> Path:
        return self.home / ".config" / "launcher" / "config.yml"

    def settle(self, text: str | None = None, **cluster: Any) -> None:
        """Write the laptop's settings: `text`, else one cluster NAME with these keys and the host."""
        shown = yaml.safe_dump({"clusters": {NAME: {"ssh": NAME, **cluster}}}) if text is None else text
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(shown)
        for path in (self.settings, self.settings.parent, self.settings.parent.parent):
            os.chown(path, self.owner.uid, self.owner.gid)

    def run(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the laptop."""
        return run_as(
            self.owner, argv, env={**self.env, **env}, stdin=stdin, cwd=self.home, timeout_s=timeout_s
        )

    @contextlib.contextmanager
    def started(self, argv: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
        """A program on the laptop that is killed on leaving the block, if it still runs; with what Popen takes."""
        with subprocess.Popen(
            list(argv), env=self.env, cwd=self.home, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            user=self.owner.uid, group=self.owner.gid, extra_groups=[self.owner.gid], **more,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def there(self, word: str) -> list[int]:
        """The pids of the account's programs whose command line has `word`, but for shells that start them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if entry.stat().st_uid == self.account.uid and word.encode() in line:
                    found.append(int(entry.name))
        return found

    def __enter__(self) -> Laptop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for pid in self.programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

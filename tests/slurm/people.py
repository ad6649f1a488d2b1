"""The ordinary users of the tests: made with `useradd` when the suite is root, else only the one who runs it.

Owns accounts and running a program as one of them; Slurm is in cluster.py. Accounts that exist are kept.

    alice, bob = make_people()          # or the fixture `users`: users.alice, users.bob
    run_as(alice, ["id"], env={...})    # clean login-like environment, in her home
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Person:
    """One account of this machine."""

    name: str
    uid: int
    gid: int
    home: Path

    def folder(self, prefix: str = "iod-") -> Path:
        """A fresh empty folder of this user, mode 0700, in the home."""
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=self.home))
        os.chown(made, self.uid, self.gid)
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made


@dataclass(frozen=True)
class People:
    """Alice and Bob; the same person twice when the suite is not root (`two` is then False)."""

    alice: Person
    bob: Person

    @property
    def two(self) -> bool:
        """Whether there really are two users."""
        return self.alice.uid != self.bob.uid


def make_people() -> People:
    """The two users of the tests, made when they do not exist."""
    if os.geteuid() != 0:
        return People(myself(), myself())
    # Another process of the same run may want them at the same moment; an account comes before its home.
    lock = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return People(_account("iod_alice"), _account("iod_bob"))
    finally:
        os.close(lock)


def myself() -> Person:
    """Who runs the suite."""
    return _person(pwd.getpwuid(os.geteuid()).pw_name)


def login_environment(person: Person) -> dict[str, str]:
    """What a fresh login of `person` has: nothing of the test process leaks into it."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    names = {"HOME": str(person.home), "USER": person.name, "LOGNAME": person.name, "SHELL": "/bin/bash"}
    return names | {"PATH": path, "LANG": "C.UTF-8"}


def run_as(
    person: Person,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
    timeout_s: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a program as `person` and return what it printed; the exit code is the caller's to judge."""
    change = os.geteuid() == 0 and person.uid != 0
    return subprocess.run(
        list(argv),
        env=login_environment(person) | dict(env or {}),
        input="" if stdin is None else stdin,
        cwd=cwd or person.home,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        user=person.uid if change else None,
        group=person.gid if change else None,
        extra_groups=os.getgrouplist(person.name, person.gid) if change else None,
        umask=0o022,
        check=False,
    )


def _account(name: str) -> Person:
    try:
        return _person(name)
    except KeyError:
        # `*` and not useradd's `!`: sshd takes the latter for a locked account and refuses its keys.
        subprocess.run(["useradd", "-m", "-s", "/bin/bash", "-p", "*", name], check=True, capture_output=True)
        return _person(name)


def _person(name: str) -> Person:
    entry = pwd.getpwnam(name)
    return Person(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))

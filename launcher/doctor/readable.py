"""Who can read a path: an admin sees more than the users for whom it is meant."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from launcher.doctor.checks import Check, fail, ok, warn


@dataclass(frozen=True, slots=True)
class Closed:
    """The first part of a way that others cannot pass or read; `group`: the members of its group can."""

    path: Path
    group: bool


def closed_to_others(path: Path, *, program: bool = False) -> Closed | None:
    """What keeps an ordinary user from reading `path`, folders on the way included; raises FileNotFoundError.

    A `program` must be executable as well.
    """
    real = path.resolve()
    for folder in reversed(real.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            return Closed(folder, bool(mode & stat.S_IXGRP))
    mode = real.stat().st_mode
    passed = program or stat.S_ISDIR(mode)
    others = stat.S_IROTH | (stat.S_IXOTH if passed else 0)
    group = stat.S_IRGRP | (stat.S_IXGRP if passed else 0)
    return None if mode & others == others else Closed(real, mode & group == group)


def check_readable(about: str, path: Path, what: str = "", *, program: bool = False) -> Check:
    """Whether all users can read `path`, of which `what` is said when they can."""
    try:
        closed = closed_to_others(path, program=program)
    except FileNotFoundError:
        return fail(about, f"There is no {path}.", "Put it there, or name another one.")
    except OSError as error:
        return fail(about, f"{path}: {error.strerror}.", "Give all users the right to read it.")
    if closed is None:
        return ok(about, f"{path} can be {'run' if program else 'read'} by all{what}.")
    if closed.group and os.access(path, os.R_OK):
        fix = f"Unless that is meant: {opening(closed.path)}"
        return warn(about, f"{closed.path} is closed to users outside its group.", fix)
    return fail(about, f"{closed.path} is closed to other users.", opening(closed.path))


def opening(path: Path) -> str:
    """How `path` is opened to all: the command for root and for its owner, and whom to ask for everybody else."""
    command = f"chmod a+rX {path}"
    owner = path.stat().st_uid
    if os.geteuid() in (0, owner):
        return command
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    return f"Ask {name}, who owns it, for: {command}"

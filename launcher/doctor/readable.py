"""Who can read a path: an admin sees more than the users for whom it is meant."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from launcher.doctor.checks import Check, fail, ok, warn


@dataclass(frozen=True, slots=True)
class Closed:
    """The first part of a way that others cannot pass or read; `group`: the members of its group can."""

    path: Path
    group: bool


def closed_to_others(path: Path) -> Closed | None:
    """What keeps an ordinary user from reading `path`, folders on the way included; raises FileNotFoundError."""
    real = path.resolve()
    for folder in reversed(real.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            return Closed(folder, bool(mode & stat.S_IXGRP))
    mode = real.stat().st_mode
    others = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    group = stat.S_IRGRP | (stat.S_IXGRP if stat.S_ISDIR(mode) else 0)
    return None if mode & others == others else Closed(real, mode & group == group)


def check_readable(about: str, path: Path, what: str = "") -> Check:
    """Whether all users can read `path`, of which `what` is said when they can."""
    try:
        closed = closed_to_others(path)
    except FileNotFoundError:
        return fail(about, f"There is no {path}.", "Put it there, or name another one.")
    except OSError as error:
        return fail(about, f"{path}: {error.strerror}.", "Give all users the right to read it.")
    if closed is None:
        return ok(about, f"{path} can be read by all{what}.")
    fix = f"Unless that is meant: chmod a+rX {closed.path}"
    if closed.group and os.access(path, os.R_OK):
        return warn(about, f"{closed.path} is closed to users outside its group.", fix)
    return fail(about, f"{closed.path} is closed to other users.", f"chmod a+rX {closed.path}")

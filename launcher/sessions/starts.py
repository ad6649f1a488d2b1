"""How long the last start took, so that the next one can say how much is still to come.

One small file (0600) for each engine, model, commit, cluster, profile and environment, in a folder beside the sessions.
It is a hint for people: what cannot be believed is passed over, and nothing depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import StorageError
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import PHASES, Coming

_SCHEMA = 1
_FOLDER = ".starts"
_FILE_MAX_BYTES = 16_384
_LONGEST_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start that led to an answer: its length, and how long each phase took, in their order."""

    total_s: float
    phases: tuple[Coming, ...]

    def expected_s(self, phase: str) -> float | None:
        """How long `phase` took, None where there was none."""
        return next((known.expected_s for known in self.phases if known.name == phase), None)

    def after(self, phase: str | None) -> tuple[Coming, ...]:
        """The phases that came after `phase`; all of them after None."""
        reached = -1 if phase is None else PHASES.index(phase)
        return tuple(known for known in self.phases if PHASES.index(known.name) > reached)


def recall(plan: Plan) -> Start | None:
    """The last start of a session like `plan`, None where there is none that can be believed."""
    path = _path(plan)
    try:
        require_own(path.parent, "places.sessions")
        return _checked(json.loads(_read(path)), plan)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, StorageError):
        return None


def remember(plan: Plan, start: Start) -> None:
    """Keep `start` for the next session like `plan`; raises OSError or StorageError where that cannot be."""
    path = _path(plan)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(path.parent, "places.sessions")
    phases = [[known.name, round(known.expected_s, 3)] for known in start.phases]
    data = {"schema": _SCHEMA, "of": _key(plan), "total_s": round(start.total_s, 3), "phases": phases}
    write_private(path, json.dumps(data) + "\n", durable=False)


def _key(plan: Plan) -> dict[str, str | None]:
    return {
        "engine": plan.engine,
        "model": plan.model.id,
        "revision": plan.model.revision,
        "cluster": plan.cluster.name,
        "profile": plan.resources.profile,
        "environment": plan.environment.name,
    }


def _path(plan: Plan) -> Path:
    # A model's id may hold slashes and be of any length, so the name is a hash of what the file is about.
    name = hashlib.sha256(json.dumps(_key(plan)).encode()).hexdigest()[:32]
    return Path(plan.places.sessions) / _FOLDER / f"{name}.json"


def _read(path: Path) -> bytes:
    # Nobody else writes there; but a pipe that somebody left under this name must not hold up a job.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > _FILE_MAX_BYTES:
            raise ValueError("not a file of ours")
        return file.read(_FILE_MAX_BYTES)


def _checked(data: Any, plan: Plan) -> Start:
    if data["schema"] != _SCHEMA or data["of"] != _key(plan):
        raise ValueError("of something else")
    phases = tuple(Coming(name, _seconds(spent_s)) for name, spent_s in data["phases"])
    places = [PHASES.index(phase.name) for phase in phases]
    if places != sorted(set(places)):
        raise ValueError("not in the order of a start")
    return Start(_seconds(data["total_s"]), phases)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_S:
        raise ValueError("not the length of a start")
    return float(value)

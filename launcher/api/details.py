"""Everything that is known of one session, in one object: plan, origins, status, files, use, and no key."""

from __future__ import annotations

import dataclasses
import os
import stat
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError
from launcher.sessions.status import READY, UNHEALTHY, Status

if TYPE_CHECKING:
    from launcher.api.session import Session

_PATIENCE_S = 3.0


def details(session: Session) -> dict[str, Any]:
    """All of it as plain data for JSON; sizes in bytes, times as Unix seconds."""
    from launcher.api.record import of

    status, plan = session.status(), session.plan
    record = of(session)
    return {
        "id": session.id,
        "name": plan.name,
        "door": plan.door,
        "created_at": plan.created_at,
        "status": status.to_dict(),
        "connection": _connection(session, status),
        "job": {
            "id": status.job_id or session.job_id,
            "scheduler": plan.cluster.scheduler,
            "cluster": plan.cluster.name,
            "host": status.host,
            "script": str(session.paths.job_script) if session.paths.job_script.exists() else None,
        },
        "plan": {k: v for k, v in dataclasses.asdict(plan).items() if k != "origins"},
        "origins": dict(plan.origins),
        "engine_version": record.engine_version,
        "hardware": record.part("hardware") or None,
        "usage": _usage(session, status) if record.preliminary else record.part("usage") or None,
        "further_keys": _further_keys(session),
        "directory": str(session.paths.root),
        "files": _files(session),
    }


def _connection(session: Session, status: Status) -> dict[str, Any] | None:
    # The key stays in its file: what is printed ends in tickets.
    found = session.connection if status.state in (READY, UNHEALTHY) else None
    if found is None:
        return None
    shown = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    del shown["key"], shown["id"], shown["job_id"]
    return {**shown, "key_file": str(session.paths.key)}


def _usage(session: Session, status: Status) -> dict[str, Any] | None:
    """What the gateway of a session that runs has counted so far, in the words of the record; None out of reach."""
    found = session.connection if status.state == READY else None
    if found is None:
        return None
    from launcher.api.metrics import read

    try:
        now = read(found, _PATIENCE_S)
    except LauncherError:
        return None
    totals = {"requests": "requests", "prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens",
              "audio_s": "audio_seconds"}  # fmt: skip
    return {name: now.total(f"launcher_gateway_{metric}_total") or 0 for name, metric in totals.items()}


def _further_keys(session: Session) -> list[dict[str, Any]]:
    try:
        return [{k: v for k, v in dataclasses.asdict(key).items() if k != "digest"} for key in session.keys]
    except (LauncherError, OSError):
        return []


def _files(session: Session) -> list[dict[str, Any]]:
    found = []
    try:
        names = sorted(os.listdir(session.paths.root))
    except OSError:
        return []
    for name in names:
        try:
            about = os.lstat(session.paths.root / name)
        except OSError:
            continue
        found.append(
            {
                "name": name,
                "bytes": about.st_size,
                "mode": stat.filemode(about.st_mode),
                "modified_at": about.st_mtime,
            }
        )
    return found

"""`launcher status --everywhere`: the sessions here and on every cluster that is used over ssh, side by side."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

from launcher.api import Launcher
from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError, SchedulerError
from launcher.sessions.clock import TIME_MAX, clock

_LOCAL = "here"


def show(arguments: argparse.Namespace) -> int:
    """Show them all; the exit code is 5 only when no cluster answered."""
    from launcher.api.remote.everywhere import Seen, everywhere
    from launcher.settings.layers import load

    if arguments.session is not None:
        raise RequestError("--everywhere is for a list of sessions.", "Leave out the id, or --everywhere.")
    words = ["--all"] if arguments.all else []
    words += [f"--filter={arguments.filter}"] if arguments.filter is not None else []
    far = everywhere(load(), *words)
    try:
        here = Seen(_LOCAL, tuple(_sessions_here(arguments)))
    except LauncherError as error:
        here = Seen(_LOCAL, trouble=str(error))
    seen = [here, *far]
    if arguments.json:
        print(json.dumps({"clusters": [dataclasses.asdict(cluster) for cluster in seen]}))
    else:
        rows = [_row(cluster.cluster, session) for cluster in seen for session in cluster.sessions]
        if rows:
            print(table(rows, head=["Cluster", "ID", "Model", "State", "Job", "Time left", ""]))
        elif not any(cluster.trouble for cluster in seen):
            print("You have no sessions. Start one with: launcher --cluster NAME launch MODEL")
        for cluster in seen:
            if cluster.trouble:
                print(f"{cluster.cluster}: {one_line(cluster.trouble)}", file=sys.stderr)
    return SchedulerError.exit_code if all(cluster.trouble for cluster in seen) else 0


def _sessions_here(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from launcher.cli.status import described, listed

    sessions, statuses, _ = listed(Launcher(), arguments)
    return [described(session, status) for session, status in zip(sessions, statuses, strict=True)]


def _row(cluster: str, session: dict[str, Any]) -> list[str]:
    ends_at = session.get("ends_at")
    over = session.get("state") in ("SHUTDOWN", "FAILED")
    known = ends_at if isinstance(ends_at, int | float) and 0 < ends_at < TIME_MAX else None
    left = clock(known - time.time()) if known is not None and not over else ""
    shown = (session.get("id"), session.get("model"), session.get("state"), session.get("job_id"))
    return [cluster, *(str(value or "") for value in shown), left, str(session.get("message") or "")]

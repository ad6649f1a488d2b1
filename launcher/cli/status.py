"""`launcher status`: one session, or all."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION
from launcher.cli.tables import table
from launcher.errors import RequestError
from launcher.sessions.clock import clock
from launcher.sessions.connection import Connection
from launcher.sessions.status import ENGINE_RESTART, FAILED, LAUNCHING, PENDING, READY, UNHEALTHY, Status

EXAMPLES = """\
examples:
  launcher status                               all your sessions
  launcher status tiny-chat-3f9a --json
  launcher status --filter state=READY,model=tiny-chat
"""
_DAY_S = 86400.0
# Those of Blackfish's `ls` in their order, then vec-inf's.
_LONG = (
    "ID", "Engine", "Model", "Created", "Updated", "State", "Port", "Name", "Profile", "Job", "Base URL"
)  # fmt: skip
NONE = "You have no sessions. Start one with: launcher launch MODEL"


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", nargs="?", metavar="ID", help=SESSION)
    parser.add_argument("-a", "--all", action="store_true", help="also those that ended more than a day ago")
    parser.add_argument("-l", "--long", action="store_true", help="also engine, age, name, port and base URL")
    parser.add_argument(
        "--everywhere", action="store_true", help="those of all clusters that are used over ssh, too"
    )
    parser.add_argument(
        "--filter",
        "--filters",
        metavar="KEY=VALUE,...",
        help="only those with this id, name, model, state, reason, job, engine, profile, partition or cluster",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show one session, or all."""
    if arguments.everywhere:
        from launcher.cli.everywhere import show

        return show(arguments)
    launcher = Launcher()
    if arguments.session is None:
        sessions, statuses, older = listed(launcher, arguments)
    elif arguments.filter is not None:
        raise RequestError("--filter is for a list of sessions.", "Leave out the id, or --filter.")
    else:
        sessions, older = launcher.members(arguments.session), 0  # all of a batch, by the id of its job
        if len(sessions) == 1:
            session = sessions[0]
            status = session.status()
            if arguments.json:
                return print_json(described(session, status))
            print(_status_table(session, status))
            return 0
        statuses = launcher.statuses(sessions)
    if arguments.json:
        return print_json({"sessions": [described(s, t) for s, t in zip(sessions, statuses, strict=True)]})
    if not sessions:
        print("No session is like that." if arguments.filter is not None else NONE)
        return _older(older)
    if arguments.long:
        pairs = zip(sessions, statuses, strict=True)
        print(table([_long(session, status) for session, status in pairs], head=_LONG))
        return _older(older)
    rows = [
        [s.id, s.plan.model.id, t.state, t.job_id or "", s.plan.resources.profile, _left(t),
         f"{t.message} ({spent})" if (spent := how_long(t)) else t.message]
        for s, t in zip(sessions, statuses, strict=True)
    ]  # fmt: skip
    head = ["ID", "Model", "State", "Job", "Profile", "Time left", ""]
    print(table(rows, head=head, yielding=("Profile", "Job", "Model", "Time left")))
    return _older(older)


def _long(session: Session, status: Status) -> list[str]:
    plan, connection = session.plan, _connection(session, status)
    return [
        session.id, plan.engine, plan.model.id, _ago(plan.created_at), _ago(status.updated_at or status.since),
        status.state, str(connection.port) if connection else "", plan.name, plan.resources.profile,
        status.job_id or "", connection.base_url if connection else "",
    ]  # fmt: skip


def _ago(when: float) -> str:
    return f"{clock(time.time() - when)} ago"


def listed(launcher: Launcher, arguments: argparse.Namespace) -> tuple[list[Session], list[Status], int]:
    """The sessions that are asked for, their statuses, and how many are left out that ended more than a day ago."""
    wanted = None
    if arguments.filter is not None:
        from launcher.api.filters import parse

        wanted = parse(arguments.filter)
    known = launcher.sessions()
    sessions = known if arguments.all else [s for s in known if not s.ended_before(time.time() - _DAY_S)]
    older, statuses = len(known) - len(sessions), launcher.statuses(sessions)
    if wanted is not None:
        pairs = zip(sessions, statuses, strict=True)
        fitting = [(session, status) for session, status in pairs if wanted.fits(session.plan, status)]
        sessions, statuses = [session for session, _ in fitting], [status for _, status in fitting]
    return sessions, statuses, older


def _older(count: int) -> int:
    if count:
        print(f"{count} that ended more than a day ago: launcher status --all")
    return 0


def _status_table(session: Session, status: Status) -> str:
    connection = _connection(session, status)
    rows = [
        ("Session", session.id), ("Model Name", session.plan.model.id), ("Model Status", status.state),
        ("Phase", ", ".join(filter(None, (status.phase, how_long(status))))),
        ("Reason", status.reason or ""),
        ({PENDING: "Pending Reason", FAILED: "Failed Reason"}.get(status.state, ""), status.message),
        ("", status.hint or ""),
        ("Job ID", status.job_id or ""), ("Base URL", connection.base_url if connection else "UNAVAILABLE"),
        ("Page", connection.page_url or "" if connection else ""),
        ("API Key", f"in {session.paths.key}" if connection else ""), ("Time left", _left(status)),
        ("Engine restarts", str(status.engine_restarts or "")),
        ("Idle stop in", clock(status.idle.stops_at - time.time()) if status.idle else ""),
        *(("Log says", line) for line in (status.quote or "").splitlines()),
        ("Log", status.log or "" if status.state == FAILED else ""),
    ]  # fmt: skip
    return table([row for row in rows if row[1]], head=["Job Status", "Value"])


def how_long(status: Status) -> str:
    """How long the present phase has taken, and took last time; before the first phase, the same of the whole start."""
    if status.phase and status.phases:
        phase = status.phases[-1]
        since, usual_s = phase.started_at, phase.expected_s
    elif status.state == LAUNCHING or status.reason == ENGINE_RESTART:
        since, usual_s = status.since, status.expected_s
    else:
        return ""
    usual = f" of about {clock(usual_s)}" if usual_s is not None else ""
    return f"{clock(time.time() - since)}{usual}"


def _left(status: Status) -> str:
    if not status.ends_at or status.ended:
        return ""
    return clock(status.ends_at - time.time()) + (" (ends soon)" if status.ends_soon else "")


def _connection(session: Session, status: Status) -> Connection | None:
    # An unhealthy session may come back under the same address with the same key; before and after there is none.
    return session.connection if status.state in (READY, UNHEALTHY) else None


def described(session: Session, status: Status) -> dict[str, Any]:
    """A session and its status, for JSON."""
    # The key is left out on purpose: JSON ends in logs and tickets. It is in the file named by `key_file`.
    connection = _connection(session, status)
    return {
        **status.to_dict(),
        # vec-inf's names for the same.
        "model_name": session.plan.model.id,
        "model_status": status.state,
        "pending_reason": (status.reason or status.message) if status.state == PENDING else None,
        "failed_reason": status.message if status.state == FAILED else None,
        "model": session.plan.model.id,
        "name": session.plan.name,
        "engine": session.plan.engine,
        "created_at": session.plan.created_at,
        "port": connection.port if connection else None,
        "served_name": session.plan.model.served_name,
        "profile": session.plan.resources.profile,
        "gpus": session.plan.resources.gpus,
        "context": session.plan.origins.get("context"),
        "directory": str(session.paths.root),
        "base_url": connection.base_url if connection else None,
        "page_url": connection.page_url if connection else None,
        "key_file": str(session.paths.key) if connection else None,
    }


def print_json(data: dict[str, Any]) -> int:
    """Print it; the exit code of success."""
    print(json.dumps(data))
    return 0

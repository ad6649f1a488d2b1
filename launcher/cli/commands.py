"""What each command does: one call of the API, then its answer as a table, a line or JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from launcher.api import Launcher, Session
from launcher.cli.parser import MODULES
from launcher.cli.tables import one_line, table
from launcher.sessions.clock import clock
from launcher.sessions.connection import Connection
from launcher.sessions.plan import CHOSEN, FIRST_ABLE, Plan
from launcher.sessions.status import ENGINE_RESTART, LAUNCHING, READY, UNHEALTHY, Status

_ASKED = (
    "profile", "revision", "hours", "idle_minutes", "name", "environment", "trust_remote_code", "partition",
    "account", "qos", "constraint", "reservation", "gpu_type", "nodes", "gpus", "cpus", "memory_gb",
    "max_model_len", "fit_check",
)  # fmt: skip

_DAY_S = 86400.0


def run(arguments: Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.command in MODULES:
        module, _ = MODULES[arguments.command]
        code: int = importlib.import_module(module).run(arguments)
        return code
    command: Callable[[Namespace], int] = {
        "launch": _launch, "status": _status, "wait": _wait, "logs": _logs, "stop": _stop, "keys": _keys,
        "serve": _serve, "offer": _offer, "plan": _plan, "ended": _ended,
    }[arguments.command]  # fmt: skip
    return command(arguments)


def _launch(arguments: Namespace) -> int:
    launcher = Launcher()
    wanted = {name: getattr(arguments, name) for name in _ASKED}
    plan = launcher.plan(
        arguments.model, door="shell", engine_args=tuple(arguments.engine_args),
        page=False if arguments.no_page else None, **wanted,
    )  # fmt: skip
    if arguments.dry_run:
        from pathlib import Path

        from launcher.schedulers.script import job_script

        script = job_script(plan, Path(plan.places.sessions) / plan.id)
        print(
            json.dumps({"plan": json.loads(plan.to_json()), "script": script}) if arguments.json else script,
            end="",
        )
        for label, told in _chosen(plan):
            print(f"{label}: {one_line(told)}", file=sys.stderr)
        return 0
    session = launcher.submit(plan)
    if not arguments.wait:
        if arguments.json:
            return _print_json(_described(session, session.status()))
        print(_plan_table(session))
        print(f"\nFollow it:  launcher wait {session.id}\nStop it:    launcher stop {session.id}")
        return 0
    if not arguments.json:
        print(_plan_table(session), flush=True)
    return _until_ready(session, None, arguments.json)


def _status(arguments: Namespace) -> int:
    launcher = Launcher()
    if arguments.session is not None:
        session = launcher.session(arguments.session)
        status = session.status()
        if arguments.json:
            return _print_json(_described(session, status))
        print(_status_table(session, status))
        return 0
    sessions = launcher.sessions()
    shown = sessions if arguments.all else [s for s in sessions if not s.ended_before(time.time() - _DAY_S)]
    older, sessions = len(sessions) - len(shown), shown
    statuses = launcher.statuses(sessions)
    if arguments.json:
        return _print_json({"sessions": [_described(s, t) for s, t in zip(sessions, statuses, strict=True)]})
    if not sessions:
        print("You have no sessions. Start one with: launcher launch MODEL")
        return _older(older)
    rows = [
        [s.id, s.plan.model.id, t.state, t.job_id or "", s.plan.resources.profile, _left(t),
         f"{t.message} ({spent})" if (spent := _spent(t)) else t.message]
        for s, t in zip(sessions, statuses, strict=True)
    ]  # fmt: skip
    print(table(rows, head=["ID", "Model", "State", "Job", "Profile", "Time left", ""]))
    return _older(older)


def _older(count: int) -> int:
    if count:
        print(f"{count} that ended more than a day ago: launcher status --all")
    return 0


def _wait(arguments: Namespace) -> int:
    return _until_ready(Launcher().session(arguments.session), arguments.timeout, arguments.json)


def _until_ready(session: Session, timeout_s: float | None, as_json: bool) -> int:
    started = time.monotonic()

    def progress(status: Status) -> None:
        where = f"{status.state} {status.phase}" if status.phase else status.state
        usual = f" ({spent})" if (spent := _spent(status)) else ""
        print(
            f"{time.monotonic() - started:6.1f} s  {where:<18} {one_line(status.message)}{usual}", flush=True
        )

    try:
        connection = session.wait(timeout_s, None if as_json else progress)
    except KeyboardInterrupt:
        print(f"\nThe session goes on. Stop it with: launcher stop {session.id}", file=sys.stderr)
        raise
    if as_json:
        return _print_json(_described(session, session.status()))
    print()
    for label, value in (
        ("Base URL", connection.base_url),
        ("Page", connection.page_url),
        ("Model", connection.model),
    ):
        if value is not None:
            print(f"{label:<9} {one_line(value)}")
    print(f"API key   in {session.paths.key} (only you can read it)")
    return 0


def _logs(arguments: Namespace) -> int:
    from launcher.cli.logs import show

    return show(
        Launcher().session(arguments.session), arguments.of, arguments.lines, arguments.follow, arguments.json
    )


def _stop(arguments: Namespace) -> int:
    session = Launcher().session(arguments.session)
    status = session.stop(wait=not arguments.no_wait)
    if arguments.json:
        return _print_json(_described(session, status))
    if status.ended:
        print(f"{session.id}: {status.state}. {one_line(status.message)}")
    else:
        print(f"{session.id}: its end was asked for. Follow it: launcher status {session.id}")
    return 0


def _keys(arguments: Namespace) -> int:
    from launcher.cli.keys import run

    return run(Launcher().session(arguments.session), arguments)


def _serve(arguments: Namespace) -> int:
    import asyncio
    from pathlib import Path

    from launcher.ondemand.card import keeper
    from launcher.serve.supervise import serve
    from launcher.sessions.paths import SessionPaths
    from launcher.sessions.plan import Plan

    root = Path(arguments.directory).absolute()
    plan = Plan.read(SessionPaths(root).plan)
    return asyncio.run(serve(root, keeper(root, plan) if plan.door == "ondemand" else None))


def _offer(arguments: Namespace) -> int:
    from launcher.ondemand.offer import offer

    print(json.dumps(offer(Launcher())))
    return 0


def _plan(arguments: Namespace) -> int:
    from pathlib import Path

    from launcher.ondemand.plan import plan

    print(json.dumps(plan(Launcher(), sys.stdin.read(), Path(arguments.directory).absolute())))
    return 0


def _ended(arguments: Namespace) -> int:
    from pathlib import Path

    from launcher.ondemand.card import settled

    print(settled(Path(arguments.directory).absolute()), end="")
    return 0


def _plan_table(session: Session) -> str:
    plan, wanted = session.plan, session.plan.resources
    rows = [
        ("Session", plan.id), ("Job ID", session.job_id or ""), ("Model", plan.model.id),
        ("Revision", plan.model.revision or ""), ("Model Weights Directory", plan.model.snapshot or ""),
        ("Inference Engine", plan.engine), ("Environment", f"{plan.environment.name} ({plan.environment.kind})"),
        ("Cluster", plan.cluster.name), ("Profile", wanted.profile + _origin(plan, "profile")),
        ("Partition", wanted.partition or ""),
        ("Account", wanted.account or ""), ("QoS", wanted.qos or ""),
        ("Time Limit", _hours(plan.limits.hours)),
        ("Num Nodes", str(wanted.nodes)),
        ("GPUs/Node", f"{wanted.gpus} {wanted.gpu_type or ''}".strip() + _origin(plan, "gpus")),
        ("CPUs/Task", str(wanted.cpus or "")),
        ("Memory/Node", f"{wanted.memory_gb:g}G" if wanted.memory_gb else ""),
        ("Stops when idle for", f"{plan.limits.idle_minutes:g} min" if plan.limits.idle_minutes else "never"),
        ("Context", plan.origins.get("context", "")),
        ("Log Directory", str(session.paths.root)), ("Engine arguments", " ".join(plan.engine_args)),
    ]  # fmt: skip
    return table([row for row in rows if row[1]], head=["Job Config", "Value"])


def _origin(plan: Plan, value: str) -> str:
    origin = plan.origins.get(value)
    return f" ({origin})" if origin in (CHOSEN, FIRST_ABLE) else ""


def _chosen(plan: Plan) -> list[tuple[str, str]]:
    """What was chosen for the user and is not the site's usual, in words."""
    told = [("Context", plan.origins.get("context", ""))]
    for label, value, shown in (
        ("Profile", "profile", plan.resources.profile), ("GPUs on a node", "gpus", str(plan.resources.gpus)),
    ):  # fmt: skip
        if origin := _origin(plan, value):
            told.append((label, shown + origin))
    return [pair for pair in told if pair[1]]


def _status_table(session: Session, status: Status) -> str:
    connection = _connection(session, status)
    rows = [
        ("Session", session.id), ("Model Name", session.plan.model.id), ("Model Status", status.state),
        ("Phase", ", ".join(filter(None, (status.phase, _spent(status))))),
        ("Reason", status.reason or ""), ("", status.message), ("", status.hint or ""),
        ("Job ID", status.job_id or ""), ("Base URL", connection.base_url if connection else "UNAVAILABLE"),
        ("Page", connection.page_url or "" if connection else ""),
        ("API Key", f"in {session.paths.key}" if connection else ""), ("Time left", _left(status)),
        ("Engine restarts", str(status.engine_restarts or "")),
        ("Idle stop in", clock(status.idle.stops_at - time.time()) if status.idle else ""),
        ("Log", status.log or "" if status.state == "FAILED" else ""),
    ]  # fmt: skip
    return table([row for row in rows if row[1]], head=["Job Status", "Value"])


def _hours(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _spent(status: Status) -> str:
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


def _described(session: Session, status: Status) -> dict[str, Any]:
    # The key is left out on purpose: JSON ends in logs and tickets. It is in the file named by `key_file`.
    connection = _connection(session, status)
    return {
        **status.to_dict(),
        "model": session.plan.model.id,
        "served_name": session.plan.model.served_name,
        "profile": session.plan.resources.profile,
        "gpus": session.plan.resources.gpus,
        "context": session.plan.origins.get("context"),
        "directory": str(session.paths.root),
        "base_url": connection.base_url if connection else None,
        "page_url": connection.page_url if connection else None,
        "key_file": str(session.paths.key) if connection else None,
    }


def _print_json(data: dict[str, Any]) -> int:
    print(json.dumps(data))
    return 0

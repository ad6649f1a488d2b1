"""`launcher launch`: a session of a model."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from launcher.api import Launcher, Session
from launcher.cli.launch_options import add_model, add_request, request_of
from launcher.cli.status import described, print_json
from launcher.cli.tables import one_line, table
from launcher.cli.wait import until_ready
from launcher.errors import RequestError
from launcher.sessions.clock import time_limit
from launcher.sessions.plan import CHOSEN, FIRST_ABLE, Plan

EXAMPLES = """\
examples:
  launcher launch tiny-chat
  launcher launch org/model --profile gpu-small --hours 8 --wait
  launcher launch org/model --max-num-seqs 64 hours=8       options of the engine, and KEY=VALUE, may stand anywhere
  launcher launch org/model --config my-model.yaml --env HF_HUB_VERBOSITY=info
  launcher launch /shared/models/my-model --dry-run
  launcher launch org/model -- --max-model-len 16384        what stands after -- goes to the engine as it is

What is not said here is looked for in the file of --config, then in LAUNCHER_ACCOUNT, LAUNCHER_PROFILE and others
(docs/shell.md), then in the settings; --dry-run --json tells where each value came from.
"""


def options(launch: argparse.ArgumentParser) -> None:
    """Add them."""
    launch.epilog = EXAMPLES
    launch.usage = "%(prog)s [OPTION ...] MODEL [KEY=VALUE ...] [-- ENGINE_ARGUMENT ...]"
    add_model(launch)
    add_request(launch)
    add_after(launch)


def add_after(parser: argparse.ArgumentParser) -> None:
    """Give `parser` what happens after the planning."""
    parser.add_argument("--wait", action="store_true", help="wait until it is ready")
    parser.add_argument(
        "--connect", action="store_true", help="wait, then connect to it as launcher connect does"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the exact script and submit nothing")


def run(arguments: argparse.Namespace) -> int:
    """Submit a session, or print what would be submitted."""
    model, wanted = request_of(arguments)
    launcher = Launcher()
    return started(arguments, launcher, launcher.plan(model, door="shell", **wanted))


def started(arguments: argparse.Namespace, launcher: Launcher, plan: Plan) -> int:
    """Submit `plan`, or print it, as `arguments` want; the exit code."""
    if arguments.connect and arguments.dry_run:
        raise RequestError("A dry run starts nothing to connect to.", "Leave out --connect, or --dry-run.")
    if arguments.dry_run:
        return _dry(arguments, plan)
    session = launcher.submit(plan)
    if arguments.connect:
        return _connected(session, arguments.json)
    if not arguments.wait:
        if arguments.json:
            return print_json({**described(session, session.status()), **_submitted(session)})
        print(plan_table(session))
        print(f"\nFollow it:  launcher wait {session.id}\nStop it:    launcher stop {session.id}")
        return 0
    if not arguments.json:
        print(plan_table(session), flush=True)
    return until_ready(session, None, arguments.json)


def _dry(arguments: argparse.Namespace, plan: Plan) -> int:
    show_script(plan, arguments.json)
    for label, told in chosen(plan):
        print(f"{label}: {one_line(told)}", file=sys.stderr)
    return 0


def show_script(plan: Plan, as_json: bool, **more: Any) -> int:
    """Print the script of `plan`; as JSON with the plan, and `more` before it."""
    import json

    from launcher.schedulers.script import job_script

    script = job_script(plan, Path(plan.places.sessions) / plan.id)
    if as_json:
        return print_json({**more, "plan": json.loads(plan.to_json()), "script": script})
    print(script, end="")
    return 0


def _connected(session: Session, as_json: bool) -> int:
    from launcher.cli import connect
    from launcher.cli.parser import parser

    if not as_json:
        print(plan_table(session), flush=True)
    words = ["connect", session.id, *(["--json"] if as_json else [])]
    return connect.run(parser("connect").parse_args(words, argparse.Namespace(engine_args=())))


def _submitted(session: Session) -> dict[str, Any]:
    """What vec-inf's `launch --json-mode` says, by its names."""
    plan, wanted = session.plan, session.plan.resources
    return {
        "slurm_job_id": session.job_id,
        "slurm_job_name": _job_name(plan),
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "resource_type": wanted.gpu_type,
        "num_nodes": wanted.nodes,
        "gpus_per_node": wanted.gpus,
        "cpus_per_task": wanted.cpus,
        "mem_per_node": _memory(plan) or None,
        "time": time_limit(plan.limits.hours),
        "work_dir": plan.work_dir,
        "log_dir": str(session.paths.root),
        "model_weights_path": plan.model.snapshot,
        "venv": _environment(plan),
        "engine": plan.engine,
        "engine_args": list(plan.engine_args),
        "origins": dict(plan.origins),
    }


def plan_table(session: Session) -> str:
    """What was submitted."""
    plan, wanted = session.plan, session.plan.resources
    slurm = plan.cluster.scheduler == "slurm"
    rows = [
        ("Session", plan.id), ("Slurm Job ID" if slurm else "Job ID", session.job_id or ""),
        ("Job Name", _job_name(plan) if slurm else ""), ("Model", plan.model.id), ("Model Type", _model_type(plan)),
        ("Revision", plan.model.revision or ""), ("Model Weights Directory", plan.model.snapshot or ""),
        ("Inference Engine", plan.engine), ("Virtual Environment", _environment(plan)),
        ("Cluster", plan.cluster.name), ("Profile", wanted.profile + _origin(plan, "profile")),
        ("Partition", wanted.partition or ""), ("Resource Type", wanted.gpu_type or ""),
        ("Account", wanted.account or ""), ("QoS", wanted.qos or ""),
        ("Time Limit", time_limit(plan.limits.hours)),
        ("Num Nodes", str(wanted.nodes)), ("Nodes", wanted.nodelist or ""), ("Excluded Nodes", wanted.exclude or ""),
        ("GPUs/Node", str(wanted.gpus) + _origin(plan, "gpus")),
        ("CPUs/Task", str(wanted.cpus or "")), ("Memory/Node", _memory(plan)),
        ("Stops when idle for", f"{plan.limits.idle_minutes:g} min" if plan.limits.idle_minutes else "never"),
        ("Context", plan.origins.get("context", "")),
        ("Working Directory", plan.work_dir or ""), ("Log Directory", str(session.paths.root)),
        ("Engine arguments", shlex.join(plan.engine_args)),
    ]  # fmt: skip
    return table([row for row in rows if row[1]], head=["Job Config", "Value"])


def _origin(plan: Plan, value: str) -> str:
    origin = plan.origins.get(value)
    return f" ({origin})" if origin in (CHOSEN, FIRST_ABLE) else ""


def chosen(plan: Plan) -> list[tuple[str, str]]:
    """What was chosen for the user and is not the site's usual, in words."""
    told = [("Context", plan.origins.get("context", ""))]
    for label, value, shown in (
        ("Profile", "profile", plan.resources.profile), ("GPUs on a node", "gpus", str(plan.resources.gpus)),
    ):  # fmt: skip
        if origin := _origin(plan, value):
            told.append((label, shown + origin))
    return [pair for pair in told if pair[1]]


def _memory(plan: Plan) -> str:
    memory_gb = plan.resources.memory_gb
    return f"{memory_gb:g}G" if memory_gb else ""


def _environment(plan: Plan) -> str:
    environment = plan.environment
    where = environment.path if environment.kind == "venv" else environment.image
    return f"{environment.name} ({environment.kind}{f' {where}' if where else ''})"


def _job_name(plan: Plan) -> str:
    from launcher.schedulers.script import job_name

    return job_name(plan)


def _model_type(plan: Plan) -> str:
    """vec-inf's word for it; empty where the model's files do not tell."""
    from launcher.errors import LauncherError
    from launcher.models.inspect.facts import facts
    from launcher.models.kinds import model_type

    try:
        return model_type(facts(Path(plan.model.snapshot)).task) if plan.model.snapshot else ""
    except LauncherError:
        return ""

"""`launcher launch`: a session of a model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from launcher.api import Launcher, Session
from launcher.cli.parser import number, whole
from launcher.cli.status import described, print_json
from launcher.cli.tables import one_line, table
from launcher.cli.wait import until_ready
from launcher.sessions.plan import CHOSEN, FIRST_ABLE, Plan

_ASKED = (
    "profile", "revision", "hours", "idle_minutes", "name", "environment", "trust_remote_code", "partition",
    "account", "qos", "constraint", "reservation", "gpu_type", "nodes", "gpus", "cpus", "memory_gb",
    "max_model_len", "fit_check",
)  # fmt: skip
EXAMPLES = """\
examples:
  launcher launch tiny-chat
  launcher launch org/model --profile gpu-small --hours 8 --wait
  launcher launch /shared/models/my-model --dry-run
  launcher launch org/model -- --max-model-len 16384      arguments after -- go to the engine
"""


def options(launch: argparse.ArgumentParser) -> None:
    """Add them."""
    launch.epilog = EXAMPLES
    launch.usage = "%(prog)s [OPTION ...] MODEL [-- ENGINE_ARGUMENT ...]"
    launch.add_argument("model", metavar="MODEL", help="a catalog name, an id such as org/name, or a path")
    launch.add_argument("--profile", metavar="NAME", help="the hardware, by the site's name for it")
    launch.add_argument("--revision", metavar="R", help="branch, tag or commit of the model")
    launch.add_argument("--hours", type=number, metavar="H", help="how long it may run")
    launch.add_argument(
        "--idle-minutes", type=number, metavar="M", help="stop when unused for so long; 0: never"
    )
    launch.add_argument(
        "--name", metavar="NAME", help="a name for the session, seen by everybody in the queue"
    )
    launch.add_argument("--environment", metavar="NAME", help="where the engine's program comes from")
    launch.add_argument(
        "--max-model-len", type=whole, metavar="N", help="tokens of the longest request, answer included"
    )
    launch.add_argument(
        "--no-fit-check",
        dest="fit_check",
        action="store_false",
        help="start it even if it does not seem to fit; choose nothing",
    )
    launch.add_argument(
        "--no-page", action="store_true", help="no page to chat or transcribe, only the endpoint"
    )
    launch.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with the model"
    )
    hardware = launch.add_argument_group("instead of what the profile says")
    for name, text in (
        ("partition", "Slurm's partition"),
        ("account", "the account to charge"),
        ("qos", "Slurm's quality of service"),
        ("constraint", "features that the nodes must have"),
        ("reservation", "a reservation to run in"),
        ("gpu-type", "the kind of GPU, by Slurm's name for it"),
    ):
        hardware.add_argument(f"--{name}", metavar="NAME", help=text)
    hardware.add_argument("--nodes", type=whole, metavar="N", help="how many nodes")
    hardware.add_argument("--gpus", type=whole, metavar="N", help="GPUs on each node")
    hardware.add_argument("--cpus", type=whole, metavar="N", help="cores on each node")
    hardware.add_argument("--memory-gb", type=number, metavar="GB", help="memory on each node")
    launch.add_argument("--wait", action="store_true", help="wait until it is ready")
    launch.add_argument("--dry-run", action="store_true", help="print the exact script and submit nothing")


def run(arguments: argparse.Namespace) -> int:
    """Submit a session, or print what would be submitted."""
    launcher = Launcher()
    wanted = {name: getattr(arguments, name) for name in _ASKED}
    plan = launcher.plan(
        arguments.model, door="shell", engine_args=tuple(arguments.engine_args),
        page=False if arguments.no_page else None, **wanted,
    )  # fmt: skip
    if arguments.dry_run:
        from launcher.schedulers.script import job_script

        script = job_script(plan, Path(plan.places.sessions) / plan.id)
        print(
            json.dumps({"plan": json.loads(plan.to_json()), "script": script}) if arguments.json else script,
            end="",
        )
        for label, told in chosen(plan):
            print(f"{label}: {one_line(told)}", file=sys.stderr)
        return 0
    session = launcher.submit(plan)
    if not arguments.wait:
        if arguments.json:
            return print_json(described(session, session.status()))
        print(plan_table(session))
        print(f"\nFollow it:  launcher wait {session.id}\nStop it:    launcher stop {session.id}")
        return 0
    if not arguments.json:
        print(plan_table(session), flush=True)
    return until_ready(session, None, arguments.json)


def plan_table(session: Session) -> str:
    """What was submitted."""
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


def chosen(plan: Plan) -> list[tuple[str, str]]:
    """What was chosen for the user and is not the site's usual, in words."""
    told = [("Context", plan.origins.get("context", ""))]
    for label, value, shown in (
        ("Profile", "profile", plan.resources.profile), ("GPUs on a node", "gpus", str(plan.resources.gpus)),
    ):  # fmt: skip
        if origin := _origin(plan, value):
            told.append((label, shown + origin))
    return [pair for pair in told if pair[1]]


def _hours(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"

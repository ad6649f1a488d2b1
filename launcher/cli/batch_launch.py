"""`launcher batch-launch`: several sessions as one job, all or none."""

from __future__ import annotations

import argparse
import json

from launcher.api import Launcher, Session
from launcher.cli.launch_options import add_some
from launcher.cli.status import described, print_json
from launcher.cli.tables import table
from launcher.sessions.clock import time_limit
from launcher.sessions.plan import Plan

_SAID = (
    "profile", "hours", "time", "idle_minutes", "environment", "partition", "account", "qos", "gpu_type",
    "gpus", "cpus", "memory_gb", "mem_per_node", "work_dir", "log_dir", "page", "fit_check",
)  # fmt: skip
EXAMPLES = """\
examples:
  launcher batch-launch tiny-chat tiny-whisper --hours 4
  launcher batch-launch --batch-config models.yml --dry-run
  launcher status 4711                          all members of job 4711
  launcher status 4711+0                        its first member
  launcher stop 4711                            all; with 4711+1 only that one

models.yml:
  defaults: {hours: 4}
  members:
    - tiny-chat
    - {model: org/model, profile: gpu-small, engine_args: [--max-model-len, "8192"]}
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="catalog names, ids such as org/name, or paths"
    )
    parser.add_argument(
        "--batch-config", metavar="FILE", help="a file of members, or vec-inf's file of models"
    )
    parser.add_argument("--together", action="store_true", help="when one of them ends, end all")
    parser.add_argument("--wait", action="store_true", help="wait until all are ready")
    parser.add_argument("--dry-run", action="store_true", help="print the exact script and submit nothing")
    add_some(parser.add_argument_group("for all of them, as for launcher launch"), _SAID)


def run(arguments: argparse.Namespace) -> int:
    """Submit the batch, or print what would be submitted."""
    from launcher.api import batch_launch

    launcher = Launcher()
    said = {name: getattr(arguments, name) for name in _SAID}
    plans = batch_launch.planned(launcher, arguments.models, arguments.batch_config, said, "shell")
    if arguments.dry_run:
        return _show(plans, arguments.json)
    sessions = batch_launch.submit(launcher, plans, together=arguments.together)
    if not arguments.json:
        print(members_table(sessions))
    if arguments.wait:
        from launcher.cli.wait import all_ready

        return all_ready(launcher, sessions, None, arguments.json)
    if arguments.json:
        return print_json(described_all(launcher, sessions))
    job = batch_launch.job_of(sessions) or sessions[0].id
    print(f"\nFollow them:  launcher wait {job}\nStop them:    launcher stop {job}")
    return 0


def members_table(sessions: list[Session]) -> str:
    """What was submitted, a line for each member."""
    rows = []
    for session in sessions:
        plan = session.plan
        gpus = f"{plan.resources.gpus} {plan.resources.gpu_type or ''}".strip()
        rows.append(
            [
                session.job_id or "",
                session.id,
                plan.model.id,
                plan.resources.profile,
                plan.resources.partition or "",
                gpus,
                time_limit(plan.limits.hours),
            ]
        )
    head = ["Job ID", "Session", "Model", "Profile", "Partition", "GPUs", "Time Limit"]
    return table(rows, head=head, yielding=("Partition", "Profile", "Model", "GPUs"))


def described_all(launcher: Launcher, sessions: list[Session]) -> dict[str, object]:
    """A batch and its members, for JSON; `job_id` is None where they are no batch."""
    from launcher.api import batch_launch

    statuses = launcher.statuses(sessions)
    members = [described(session, status) for session, status in zip(sessions, statuses, strict=True)]
    return {"job_id": batch_launch.job_of(sessions), "sessions": members}


def _show(plans: list[Plan], as_json: bool) -> int:
    from launcher.api import batch_launch

    script = batch_launch.script(plans)
    if as_json:
        return print_json({"plans": [json.loads(plan.to_json()) for plan in plans], "script": script})
    print(script, end="")
    return 0

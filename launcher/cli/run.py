"""`launcher run`: a session asked for as Blackfish's users ask."""

from __future__ import annotations

import argparse
from typing import Any

from launcher.api import Launcher
from launcher.cli.launch import add_after, started
from launcher.cli.launch_options import add_model, add_request, request_of
from launcher.cli.parser import whole
from launcher.errors import RequestError
from launcher.sessions.plan import Plan

# The task, and the engine it needs; None: any but that of the others.
TASKS = {"text-generation": None, "speech-recognition": "whisper"}
EXAMPLES = """\
examples:
  launcher run --gres 1 --time 00:30:00 text-generation org/model --seed 1
  launcher run --time 2:00:00 speech-recognition org/whisper --mount /data/interviews

Options may stand before or behind the task, and those of the engine behind it. It is launcher launch in other words:
what is not said is the profile's, so that without --gres a model gets the GPUs it needs.
"""


def options(run: argparse.ArgumentParser) -> None:
    """Add them."""
    run.epilog = EXAMPLES
    run.usage = "%(prog)s [OPTION ...] {text-generation,speech-recognition} MODEL [OPTION ...]"
    run.add_argument("task", metavar="TASK", choices=TASKS, help=" or ".join(TASKS))
    add_model(run)
    add_request(run)
    add = run.add_argument_group("as Blackfish has them").add_argument
    add(
        "-p",
        dest="short",
        action="append",
        metavar="NAME",
        help="before the task --profile, behind it --port",
    )
    add("-n", dest="name", metavar="NAME", help="--name")
    add("-r", dest="revision", metavar="R", help="--revision")
    add("--mem", metavar="GB", help="memory on each node, in GB")
    add("--ntasks-per-node", dest="cpus", type=whole, metavar="N", help="cores on each node")
    add(
        "--mount",
        "-m",
        metavar="DIR",
        help="a folder that its container shall see, such as one of recordings",
    )
    add("--port", metavar="N", help="means nothing here: the kernel chooses a free port")
    add(
        "--grace-period",
        "-g",
        metavar="S",
        help="means nothing here: the site says how long a start may take",
    )
    add("--api-key", metavar="KEY", help="means nothing here: each session makes its own")
    add_after(run)


def run(arguments: argparse.Namespace) -> int:
    """Submit a session of the task, or print what would be submitted."""
    model, wanted = request_of(arguments)
    wanted |= _more(arguments)
    launcher = Launcher()
    plan = launcher.plan(model, door="shell", **wanted)
    _check_task(arguments.task, plan)
    return started(arguments, launcher, plan)


def _more(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in ("mem", "mount", "port", "grace_period", "api_key")}
    if arguments.api_key is not None:
        given["api_key"] = "(left out)"  # what was typed as a secret is passed on to nothing
    for value in arguments.short or ():
        # Blackfish has -p twice: before the task for the profile, behind it for a port, which is a number.
        word = "port" if value.isdigit() else "profile"
        if given.get(word, getattr(arguments, word)) is not None:
            raise RequestError(f"--{word} is given twice.", "Leave one of them out.")
        given[word] = value
    return {name: value for name, value in given.items() if value is not None}


def _check_task(task: str, plan: Plan) -> None:
    other = next(name for name in TASKS if name != task)
    hears = plan.engine == "whisper"
    if plan.engine != "simulated" and hears != (TASKS[task] == "whisper"):
        does = "hears speech" if hears else "writes text"
        raise RequestError(f'Model "{plan.model.id}" {does}.', f"Take: launcher run {other} {plan.model.id}")

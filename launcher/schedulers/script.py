"""The script that a job runs: rendered once, readable, and complete in itself."""

from __future__ import annotations

import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from launcher.errors import SchedulerError
from launcher.schedulers import scheduler
from launcher.schedulers.slurm import WARNING_S
from launcher.sessions.plan import Plan


def job_script(plan: Plan, root: Path, *, header: bool = True) -> str:
    """The text of `job.sh` for the session in `root`; without `header` where somebody else submits (OOD)."""
    slurm = header and plan.cluster.scheduler == "slurm"
    return rendered(
        "job.sh.j2",
        id=plan.id,
        options=[option_line(option) for option in scheduler("slurm").options(plan)] if slurm else [],
        slurm=slurm,
        job_name=job_name(plan),
        warning_s=WARNING_S,
        root=shlex.quote(str(root)),
        work_dir=shlex.quote(plan.work_dir) if plan.work_dir else None,
        launcher=shlex.quote(plan.launcher),
    )


def rendered(template: str, **values: Any) -> str:
    """The script that the packaged `template` makes of `values`, each quoted for the shell or checked to be plain."""
    text = resources.files("launcher.schedulers").joinpath(template).read_text("utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # noqa: S701 - no HTML
    return environment.from_string(text).render(values) + "\n"


def job_name(plan: Plan) -> str:
    """The job's name, which everybody on the cluster can see: the session's name, one plain word."""
    return f"launcher-{re.sub(r'[^A-Za-z0-9_.-]', '-', plan.name)}"


def option_line(option: str) -> str:
    """The option as it stands in an `#SBATCH` line."""
    # sbatch reads quotes in an #SBATCH line; a line break cannot be quoted there, and settings and planning refuse it.
    if not option.isprintable():
        raise SchedulerError(
            f"An option of sbatch holds a line break or a control character: {option[:80]!r}."
        )
    name, equals, value = option.partition("=")
    plain = re.fullmatch(r"[A-Za-z0-9_.,:/@%+=&|*()\[\]!-]*", value)
    return option if plain else f'{name}{equals}"{value}"'

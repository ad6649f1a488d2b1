"""What Slurm means when it refuses a job: one sentence with the value that it minds, and the next step."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.engines.causes import one_line, told
from launcher.errors import SchedulerError
from launcher.sessions.plan import Plan


def explained(error: SchedulerError, plans: Sequence[Plan]) -> SchedulerError:
    """The refusal of the job of `plans` in plain words, Slurm's own in `quote`; an unknown one as it came."""
    asked = [_request(plan) for plan in plans]
    # Of several members Slurm does not say which one it minds.
    request = {word: " or ".join(dict.fromkeys(each[word] for each in asked)) for word in asked[0]}
    found = told("sbatch", error.message, request=request)
    if found is None:
        return error
    # The whole of it: often the first line names the rule and the last one the matter.
    words = one_line(error.message)
    return SchedulerError(f"Slurm refused the job: {found.message}.", found.hint, found.reason, quote=words)


def _request(plan: Plan) -> dict[str, str]:
    wanted = plan.resources
    kind = f"{wanted.gpus} × {wanted.gpu_type}" if wanted.gpu_type else str(wanted.gpus)
    return {
        "account": _named(wanted.account),
        "partition": _named(wanted.partition),
        "qos": _named(wanted.qos),
        "constraint": _named(wanted.constraint),
        "reservation": _named(wanted.reservation),
        "hours": f"{plan.limits.hours:g}",
        "gpus": kind,
        "cpus": str(wanted.cpus or 1),
        "memory": f"{wanted.memory_gb:g} GB" if wanted.memory_gb is not None else "so much",
        "nodes": str(wanted.nodes),
    }


def _named(value: str | None) -> str:
    return f'"{one_line(value)}"' if value else "(none was named)"

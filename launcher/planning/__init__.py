"""A request becomes a plan: every value is checked here, once, whichever door it came through.

Owns the rules (what may be asked for, what holds when nothing is asked) and writes nothing; `launcher.api` makes the
directory and submits.
"""

from __future__ import annotations

from launcher.planning.asked import asked, from_variables, unheeded
from launcher.planning.limits import within_limits
from launcher.planning.plan import launcher_program, make_plan
from launcher.planning.request import Request, unknown

__all__ = [
    "Request", "asked", "from_variables", "launcher_program", "make_plan", "unheeded", "unknown", "within_limits",
]  # fmt: skip

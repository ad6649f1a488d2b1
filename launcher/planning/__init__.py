"""A request becomes a plan: every value is checked here, once, whichever door it came through.

Owns the rules (what may be asked for, what holds when nothing is asked) and writes nothing; `launcher.api` makes the
directory and submits.
"""

from __future__ import annotations

from launcher.planning.limits import within_limits
from launcher.planning.plan import launcher_program, make_plan
from launcher.planning.request import Request, unknown, unknown_field

__all__ = ["Request", "launcher_program", "make_plan", "unknown", "unknown_field", "within_limits"]

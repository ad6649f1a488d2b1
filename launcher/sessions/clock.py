"""Times and spans of time as people write them."""

from __future__ import annotations

import re
import time
from typing import Any

from launcher.errors import RequestError

_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([mhdw])")
_UNIT_S = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST_S = 3660 * 86400.0
TIME_MAX = 1e11  # a Unix time that every calendar knows


def clock(seconds: float) -> str:
    """A span of time as people say it: 45 s, 12 min, 3 h 20 min, 14 days 2 h."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 3 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def moment(at: Any, *, seconds: bool = True) -> str:
    """A Unix time on this machine's clock, as 2026-11-22 03:04:05; empty for whatever is none, such as None."""
    known = isinstance(at, int | float) and 0 <= at <= TIME_MAX
    return time.strftime(f"%Y-%m-%d %H:%M{':%S' if seconds else ''}", time.localtime(at)) if known else ""


def time_limit(hours: float) -> str:
    """Hours as Slurm's users write them: 08:30:00."""
    minutes = round(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def span_s(text: str) -> float:
    """The seconds of a span such as 90m, 12h, 3d or 2w; raises RequestError for anything else."""
    found = _SPAN.fullmatch(text)
    seconds = float(found[1]) * _UNIT_S[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_S:
        raise RequestError(
            f'"{text[:40]}" is not a span of time.', "Write 90m, 12h, 3d or 2w; ten years at the most."
        )
    return seconds

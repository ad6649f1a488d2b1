"""Spans of time as people say them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """A span of time as people say it: 45 s, 12 min, 3 h 20 min."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""The rows of `launcher top`: what stands in which column, how wide each is, and what gives way where it is tight."""

from __future__ import annotations

import time
from collections.abc import Sequence

from launcher.api.watch import Glance
from launcher.cli.tables import clipped, filled, one_line, width

HEAD = ("ID", "Model", "State", "Phase", "GPUs", "Tok/s", "Run", "Wait", "Left", "If idle")
# Least and most columns of each of HEAD; those that are always there; and which gives way first, down to how many.
_COLUMNS = ((12, 44), (8, 40), (5, 9), (5, 16), (4, 10), (5, 7), (3, 4), (4, 4), (5, 5), (7, 7))
_ALWAYS = ("ID", "Model", "State", "Tok/s", "Left")
_YIELD = ((1, 0), (0, 24), (7, 0), (6, 0), (4, 0), (9, 0), (3, 0), (0, 12), (5, 0), (8, 0), (2, 0))
_ID_END = 8
_RIGHT = frozenset(("Tok/s", "Run", "Wait", "Left", "If idle"))


def cells(seen: Glance) -> Sequence[str]:
    """The row of one session; a cell is empty where nothing is known or nothing applies."""
    plan, status, metrics = seen.session.plan, seen.status, seen.metrics
    gpus = plan.resources.gpus * plan.resources.nodes
    now = time.time()
    rate = None
    if metrics is not None:
        audio = metrics.audio_s_per_s
        rate = f"{audio:.1f}s/s" if audio is not None else _number(metrics.generation_tokens_per_sec)
    return (
        seen.session.id,
        plan.model.id,
        status.state,
        status.phase or status.reason or "",
        f"{gpus} {plan.resources.gpu_type or ''}".strip() if gpus else "",
        rate or "",
        _number(metrics.requests_running) if metrics else "",
        _number(metrics.requests_waiting) if metrics else "",
        short(status.ends_at - now) if status.ends_at and not status.ended else "",
        short(status.idle.stops_at - now) if status.idle else "",
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value < 10_000 else f"{value / 1000:.0f}k"


def short(seconds: float) -> str:
    """A span of time in five columns: 45s, 12m, 3h20, 4d07."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}"


def widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width for each of HEAD: as its widest text wants, within its bounds; where it is tight some get none."""
    wide = [
        min(most, max(least, max(width(one_line(row[at])) for row in rows)))
        for at, (least, most) in enumerate(_COLUMNS)
    ]
    for at, name in enumerate(HEAD):
        if name not in _ALWAYS and not any(row[at] for row in rows[1:]):
            wide[at] = 0
    for at, least in _YIELD:
        over = sum(wide) + sum(1 for one in wide if one) - 1 - room
        if over > 0:  # narrower, or not at all
            wide[at] = max(least, wide[at] - over) if least else 0
    return wide


def line(row: Sequence[str], wide: Sequence[int]) -> str:
    """One row in columns of these widths."""
    found = []
    for name, cell, columns in zip(HEAD, row, wide, strict=True):
        if columns:
            text = _id(cell, columns) if name == "ID" else clipped(one_line(cell), columns)
            found.append(text.rjust(columns) if name in _RIGHT else filled(text, columns))
    return " ".join(found)


def _id(text: str, columns: int) -> str:
    """An id in so many columns: two sessions of one model differ at their ends."""
    if width(text) <= columns:
        return text
    return clipped(text, max(1, columns - _ID_END)) + text[-_ID_END:]

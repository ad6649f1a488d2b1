"""The plot of the simulated week, as SVG by hand: GPU-hours and what they went to, GPUs over the week, and the waits.

Owns shapes and colours; a page of the docs is light or dark, so the plot has a ground of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 650
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Told apart also by those who see no red or green, and in grey.
_LINES = ("#0b6e99", "#d95f02", "#6a51a3")
_PARTS = (("answering", "#0b6e99"), ("idle", "#c9d6df"), ("loading", "#f0a35e"))
_INK, _FAINT, _GROUND = "#1f2933", "#d5dbe1", "#ffffff"


@dataclass(frozen=True, slots=True)
class Bar:
    """GPU-hours of one setting: answering, idle, loading."""

    name: str
    parts: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """GPUs held under one setting, the mean of each hour."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Wait:
    """How long people waited for their first answer under one setting, in seconds; inf: they gave up."""

    name: str
    waits: Sequence[float]


def draw(bars: Sequence[Bar], curves: Sequence[Curve], waits: Sequence[Wait], days: float) -> str:
    """The whole picture."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>A simulated week: GPU-hours, GPUs held and waits for three settings</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_GROUND}"/>',
        *_bars(bars, 60, 50, 330, 220),
        *_waits(waits, 520, 50, 400, 220),
        *_curves(curves, 60, 370, 860, 215, days),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bars(bars: Sequence[Bar], left: float, top: float, width: float, height: float) -> list[str]:
    most = _nice(max(sum(bar.parts) for bar in bars))
    found = [_title("GPU-hours in the week", left, top), *_grid(left, top, width, height, most)]
    step = width / len(bars)
    for number, bar in enumerate(bars):
        x, foot = left + (number + 0.2) * step, top + height
        for (_, colour), part in zip(_PARTS, bar.parts, strict=True):
            tall = part / most * height
            foot -= tall
            found.append(
                f'<rect x="{x:.1f}" y="{foot:.1f}" width="{0.6 * step:.1f}" height="{tall:.1f}" fill="{colour}"/>'
            )
        found.append(_text(f"{sum(bar.parts):,.0f}", x + 0.3 * step, foot - 5, "middle"))
        found.append(_text(bar.name, x + 0.3 * step, top + height + 18, "middle", 12))
    for number, (name, colour) in enumerate(_PARTS):
        found += _key(name, colour, left + number * 90, top + height + 40)
    return found


def _waits(waits: Sequence[Wait], left: float, top: float, width: float, height: float) -> list[str]:
    ticks = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"))
    found = [_title("People whose first answer began within …", left, top)]
    found += [*_grid(left, top, width, height, 100, " %")]

    def across(seconds: float) -> float:
        return left + math.log10(max(seconds, 1)) / math.log10(3600) * width

    for seconds, words in ticks:
        x = across(seconds)
        found.append(_line(x, top, x, top + height))
        found.append(_text(words, x, top + height + 18, "middle", 12))
    for wait, colour in zip(waits, _LINES, strict=False):
        points = []
        for step in range(121):
            seconds = 3600 ** (step / 120)
            share = sum(one <= seconds for one in wait.waits) / len(wait.waits)
            points.append((across(seconds), top + height - share * height))
        found.append(_path(points, colour))
    for number, (wait, colour) in enumerate(zip(waits, _LINES, strict=False)):
        found += _key(wait.name, colour, left + number * 135, top + height + 40)
    return found


def _curves(
    curves: Sequence[Curve], left: float, top: float, width: float, height: float, days: float
) -> list[str]:
    most = _nice(max(max(curve.values) for curve in curves))
    found = [_title("GPUs held", left, top), *_grid(left, top, width, height, most)]
    for day in range(math.ceil(days)):
        x = left + day / days * width
        found.append(_line(x, top, x, top + height))
        found.append(_text(_DAYS[day % 7], x + width / days / 2, top + height + 18, "middle", 12))
    for curve, colour in zip(curves, _LINES, strict=False):
        points = [
            (left + (hour + 0.5) / (days * 24) * width, top + height - value / most * height)
            for hour, value in enumerate(curve.values)
        ]
        found.append(_path(points, colour))
    for number, (curve, colour) in enumerate(zip(curves, _LINES, strict=False)):
        found += _key(curve.name, colour, left + number * 135, top + height + 40)
    return found


def _grid(left: float, top: float, width: float, height: float, most: float, unit: str = "") -> list[str]:
    found = []
    for quarter in range(5):
        y = top + height - quarter / 4 * height
        found.append(_line(left, y, left + width, y))
        found.append(_text(f"{most * quarter / 4:,.4g}{unit}", left - 8, y + 4, "end", 12))
    return found


def _nice(most: float) -> float:
    """A round number of four equal parts, above `most`."""
    scale = 10.0 ** math.floor(math.log10(max(most, 1)))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * scale >= most)


def _title(words: str, left: float, top: float) -> str:
    return f'<text x="{left}" y="{top - 18}" fill="{_INK}" font-size="15" font-weight="600">{escape(words)}</text>'


def _text(words: str, x: float, y: float, anchor: str, size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_INK}" '
        f'font-size="{size}">{escape(words)}</text>'
    )


def _key(words: str, colour: str, x: float, y: float) -> list[str]:
    square = f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="12" height="12" fill="{colour}"/>'
    return [square, _text(words, x + 18, y, "start", 12)]


def _line(x: float, y: float, x2: float, y2: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}" stroke="{_FAINT}"/>'


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" fill="none" stroke="{colour}" stroke-width="2"/>'

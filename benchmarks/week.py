"""A week of twenty models on two clusters behind one endpoint: what settings cost, and how long people wait.

    make bench NAME=week [ARGS='--quick --seed 7 --plot docs/images/week.svg']

The clock is simulated; what decides is the launcher's own `fleet.scale.decide` with its own `Load` and `Learnt`. All
three settings see the same people at the same moments and the same queues. Prints one table and, as the last line, one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.week_plot import Bar, Curve, Wait, draw
from benchmarks.parts.world import Model, Outcome, Profile, Visit, World
from launcher.fleet.scene import Offer, Where

HOUR, DAY = 3600.0, 86400.0
MODELS = 20
_SIZES = ("small",) * 12 + ("medium",) * 5 + ("large",) * 3
GPUS = {"small": 1, "medium": 2, "large": 8}
_START_S = {"small": (60, 180), "medium": (180, 360), "large": (600, 900)}
_ANSWER_S = {"small": 5.0, "medium": 8.0, "large": 14.0}
_MAXIMUM = {"small": 4, "medium": 3, "large": 2}
_AT_ONCE = {"small": 32, "medium": 32, "large": 24}


@dataclass(frozen=True)
class Choice:
    """One of the settings compared: idle limit, and how many of the most asked models are kept ready by `minimum`."""

    name: str
    idle_minutes: float
    hot: int


CHOICES = (
    Choice("10 min, none hot", 10, 0),
    Choice("10 min, five hot", 10, 5),
    Choice("1 h, none hot", 60, 0),  # the default
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--plot", type=Path, help="write the plot there, as SVG")
    parser.add_argument("--quick", action="store_true", help="one day of it")
    options = parser.parse_args()
    days = 1.0 if options.quick else options.days
    began = time.monotonic()
    found = []
    for choice in CHOICES:
        world = world_of(choice, days, options.seed)
        found.append((choice, world.run(days * DAY)))
        print(f"{choice.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    rows = [row(choice, outcome) for choice, outcome in found]
    always = always_on(days)
    show(rows, always)
    if options.plot is not None:
        options.plot.write_text(plot(found, rows, days), encoding="utf-8")
    # Nothing may be cut by a handover or a drain, and who waited for nobody's fault is a matter of the settings.
    met = all(r["cut"] == 0 for r in rows)
    print(
        json.dumps({"week": {"value": rows, "always_on_gpu_hours": always, "goal": {"cut": 0}, "met": met}})
    )
    sys.exit(0 if met else 1)


# ---- the world


def world_of(choice: Choice, days: float, seed: int) -> World:
    """The week under one of the settings."""
    return World(models(choice, seed), clusters(days, seed), visits(days, seed), seed=seed)


def models(choice: Choice, seed: int) -> list[Model]:
    """Twenty models, the most asked first; big and small ones are mixed."""
    chance = random.Random(f"models {seed}")
    sizes = list(_SIZES)
    chance.shuffle(sizes)
    made = []
    for rank, size in enumerate(sizes):
        offer = Offer(
            name=name_of(rank),
            model=name_of(rank),
            profiles=(Where(size, "campus"), Where(size, "center")),
            minimum=1 if rank < choice.hot else 0,
            maximum=_MAXIMUM[size],
            idle_s=choice.idle_minutes * 60,
            in_flight_per_replica=_AT_ONCE[size],
        )
        start_s = chance.uniform(*_START_S[size])
        made.append(Model(offer, start_s, fails=0.02, answer_s=_ANSWER_S[size]))
    return made


def name_of(rank: int) -> str:
    return f"model-{rank + 1:02}"


def clusters(days: float, seed: int) -> dict[str, dict[str, Profile]]:
    """When each profile has a free place: seldom on campus by day, more often at the center; always more at night."""
    # Minutes that a place stays free and that none is, by day on weekdays and otherwise.
    shapes = {
        ("campus", "small"): ((25, 12), (240, 5), 24),
        ("campus", "medium"): ((15, 30), (180, 10), 24),
        ("campus", "large"): ((8, 120), (60, 45), 12),
        ("center", "small"): ((60, 6), (300, 4), 8),
        ("center", "medium"): ((40, 15), (240, 8), 8),
        ("center", "large"): ((20, 60), (90, 25), 8),
    }
    found: dict[str, dict[str, Profile]] = {"campus": {}, "center": {}}
    for (cluster, size), (by_day, otherwise, hours) in shapes.items():
        chance = random.Random(f"{cluster} {size} {seed}")
        free: list[tuple[float, float]] = []
        at = 0.0
        while at < days * DAY + DAY:
            free_min, taken_min = by_day if _working(at) else otherwise
            length = chance.expovariate(1 / (free_min * 60))
            free.append((at, at + length))
            at += length + chance.expovariate(1 / (taken_min * 60))
        found[cluster][size] = Profile(GPUS[size], hours * HOUR, tuple(free))
    return found


def visits(days: float, seed: int) -> list[Visit]:
    """People who talk to a model for a while, and scripts that ask it thousands of times, many at once."""
    chance = random.Random(f"visits {seed}")
    found: list[Visit] = []
    for rank in range(MODELS):
        talks_a_day = 120 / (rank + 1) ** 1.1
        for at in _arrivals(chance, talks_a_day, days):
            times = 1 + int(chance.expovariate(1 / 12))
            found.append(Visit(at, name_of(rank), times))
        for at in _arrivals(chance, 2.5 / (rank + 1) ** 0.8, days):
            at_once = chance.choice((8, 16, 32, 64, 96))
            times = at_once * chance.randint(5, 60)
            found.append(Visit(at, name_of(rank), times, at_once, think_s=0.2))
    return sorted(found, key=lambda visit: visit.at)


def _arrivals(chance: random.Random, a_day: float, days: float) -> list[float]:
    """Moments at which something begins that happens `a_day` times on a weekday; thinned by the time of day."""
    found, at = [], 0.0
    most = a_day * 2.2 / DAY
    while (at := at + chance.expovariate(most)) < days * DAY:
        if chance.random() < _busy(at):
            found.append(at)
    return found


def _busy(at: float) -> float:
    """How much goes on at this time, 1 at the most: a hump from 8 to 20 h, little at night and at the weekend."""
    hour, weekday = at % DAY / HOUR, int(at // DAY) % 7 < 5
    hump = max(0.0, math.sin((hour - 7) / 14 * math.pi)) if 7 <= hour <= 21 else 0.0
    return (0.06 + 0.94 * hump) * (1.0 if weekday else 0.25)


def _working(at: float) -> bool:
    return int(at // DAY) % 7 < 5 and 8 <= at % DAY / HOUR < 20


def always_on(days: float) -> float:
    """GPU-hours of one replica of each model all the time."""
    return sum(GPUS[size] for size in _SIZES) * days * 24


# ---- what came of it


def row(choice: Choice, outcome: Outcome) -> dict[str, Any]:
    """One line of the table; waits in seconds."""
    held, loading = outcome.gpu_s() / HOUR, outcome.starting_gpu_s() / HOUR
    answering = outcome.answering_gpu_s() / HOUR
    return {
        "settings": choice.name,
        "gpu_hours": round(held),
        "answering_gpu_hours": round(answering),
        "starting_gpu_hours": round(loading),
        "idle_share": round((held - answering - loading) / held, 3),
        "requests": outcome.answered,
        "median_s": round(quantile(outcome.waits, 0.5), 1),
        "p95_s": round(quantile(outcome.waits, 0.95), 1),
        "talks": len(outcome.talk_waits),
        "talks_at_once_share": round(
            sum(wait < 1 for wait in outcome.talk_waits) / len(outcome.talk_waits), 4
        ),
        "talks_p90_s": round(quantile(outcome.talk_waits, 0.90), 1),
        "cold": len(outcome.cold_waits),
        "cold_median_s": round(quantile(outcome.cold_waits, 0.5)),
        "cold_p95_s": round(quantile(outcome.cold_waits, 0.95)),
        "gave_up": outcome.gave_up,
        "talks_gave_up": sum(wait == math.inf for wait in outcome.talk_waits),
        "starts": outcome.starts,
        "failed_starts": outcome.failed,
        "handovers": outcome.handovers,
        "cut": outcome.cut,
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def show(rows: Sequence[dict[str, Any]], always: float) -> None:
    """Print the table, in the words and the Markdown of docs/endpoint.md."""
    print(f"| | {' | '.join(r['settings'] for r in rows)} |")
    print("|---" * (len(rows) + 1) + "|")
    for words, value_of in _LINES:
        print(f"| {words} | {' | '.join(map(value_of, rows))} |")
    print(f"One replica of each model all the time would take {_whole(always)} GPU-hours.")


def _whole(number: float) -> str:
    """As the documents write it."""
    return f"{number:,.0f}".replace(",", " ")


def _share(share: float) -> str:
    return f"{share * 100:.0f} %"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


_LINES: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("GPU-hours", lambda r: _whole(r["gpu_hours"])),
    ("… answering", lambda r: _whole(r["answering_gpu_hours"])),
    ("… loading", lambda r: _whole(r["starting_gpu_hours"])),
    ("idle share", lambda r: _share(r["idle_share"])),
    ("people answered at once", lambda r: _share(r["talks_at_once_share"])),
    ("wait of people, 9 of 10 within", lambda r: _time(r["talks_p90_s"])),
    ("people who gave up after an hour", lambda r: f"{r['talks_gave_up']} of {_whole(r['talks'])}"),
    ("requests that met no ready replica", lambda r: _whole(r["cold"])),
    ("their wait, median", lambda r: _time(r["cold_median_s"])),
    ("their wait, p95", lambda r: _time(r["cold_p95_s"])),
    ("wait of all requests, median; p95", lambda r: f"{_time(r['median_s'])}; {_time(r['p95_s'])}"),
    ("requests answered; given up", lambda r: f"{_whole(r['requests'])}; {_whole(r['gave_up'])}"),
    ("jobs", lambda r: _whole(r["starts"])),
    ("… failed", lambda r: str(r["failed_starts"])),
    ("successors", lambda r: _whole(r["handovers"])),
    ("requests cut", lambda r: str(r["cut"])),
)


def plot(found: Sequence[tuple[Choice, Outcome]], rows: Sequence[dict[str, Any]], days: float) -> str:
    """The plot of the docs."""
    bars = []
    for r in rows:
        answering, loading = r["answering_gpu_hours"], r["starting_gpu_hours"]
        bars.append(Bar(r["settings"], (answering, r["gpu_hours"] - answering - loading, loading)))
    curves = [Curve(choice.name, gpus_by_hour(outcome, days)) for choice, outcome in found]
    waits = [Wait(choice.name, sorted(outcome.talk_waits)) for choice, outcome in found]
    return draw(bars, curves, waits, days)


def gpus_by_hour(outcome: Outcome, days: float) -> list[float]:
    """The mean of GPUs held in each hour."""
    held = [0.0] * math.ceil(days * 24)
    for replica in outcome.replicas:
        if replica.began_at is None:
            continue
        over_at = outcome.now if replica.over_at is None else replica.over_at
        for hour in range(int(replica.began_at // HOUR), min(len(held), int(over_at // HOUR) + 1)):
            inside = min(over_at, (hour + 1) * HOUR) - max(replica.began_at, hour * HOUR)
            held[hour] += replica.gpus * max(0.0, inside) / HOUR
    return held


if __name__ == "__main__":
    main()

"""P5: what it costs the gateway to choose among 1000 sessions instead of one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.parts.clients import chat_request, many_at_once, one_by_one
from benchmarks.parts.ways import Way, free_port, running

MANY = 1000


@dataclass(frozen=True)
class RoutingCost:
    """Many sessions against one, medians over the rounds."""

    cpu_ratio: float
    latency_ratio: float


def routing_cost(
    one: Callable[[int], Sequence[str]],
    many: Callable[[int], Sequence[str]],
    rounds: int,
    models: int = MANY,
    count: int = 2000,
) -> RoutingCost:
    """Start both gateways and ask them in turn: `one` for its one model, `many` for all of its models at random."""
    names = [f"model-{number:04}" for number in range(1, models + 1)]
    random.Random(1).shuffle(names)
    asked = {"one": [chat_request("model-0001")], "many": [chat_request(name) for name in names]}
    with contextlib.ExitStack() as stack:
        ways = []
        for name, argv in (("one", one), ("many", many)):
            way = Way(name, free_port(), argv=argv)
            assert isinstance(way.address, int)
            way.pid = stack.enter_context(running(way, way.address))
            one_by_one(way, 100, asked[name])
            ways.append(way)
        latency: dict[str, list[float]] = {"one": [], "many": []}
        for turn in range(rounds):
            for way in ways if turn % 2 == 0 else reversed(ways):
                way.latencies_s.clear()
                one_by_one(way, count // 4, asked[way.name])
                latency[way.name].append(statistics.median(way.latencies_s))
                asyncio.run(many_at_once(way, count, asked[way.name]))
    return RoutingCost(
        cpu_ratio=_ratio(ways[1].cpu_s, ways[0].cpu_s),
        latency_ratio=_ratio(latency["many"], latency["one"]),
    )


def _ratio(many: Sequence[float], one: Sequence[float]) -> float:
    """The median of the rounds' ratios: each round compares what ran side by side."""
    return statistics.median(a / b for a, b in zip(many, one, strict=True))

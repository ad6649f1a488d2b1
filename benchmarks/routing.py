"""P5, P2 and FIRST's overhead: what an endpoint over 1, 100 and 1000 sessions costs, against its engine directly.

    make bench NAME=routing [ARGS='--quick --sessions 1 1000']

All stand before the same engine, which costs next to nothing; each round asks every one of them. *apart* gives each
session connections of its own, which must be made anew when they were idle. *whole* keeps keys, limits and usage in a
SQLite file, as `launcher gateway` does; the others have the choice of a session alone. Prints two tables and, as the
last line, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts.clients import chat_request, many_at_once, one_by_one
from benchmarks.parts.ways import DIRECT, Way, engine, free_port, gateway, running, settle

P2_US, P5_RATIO = 110.0, 1.05
CLIENTS = (1, 10, 100)
WHOLE = "whole endpoint"


@dataclass
class Measured:
    """One way: CPU with 32 clients and median with one of each round; with so many clients how long requests took and
    how many came."""

    way: Way
    asked: list[bytes]
    cpu_s: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    took_s: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)


def main() -> None:
    """Measure, print the tables and the JSON line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))  # so that what was started ends too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 100, 1000], metavar="N")
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it run")
    options = parser.parse_args()
    rounds, count = (2, 200) if options.quick else (options.rounds, 2000)
    with tempfile.TemporaryDirectory(prefix="bench") as name, contextlib.ExitStack() as stack:
        found = _started(Path(name), options.sessions, stack)
        for turn in range(rounds):
            ways = [one.way for one in found]
            settle(ways, 3.0)
            for one in found[turn % len(found) :] + found[: turn % len(found)]:
                measure(one, count)
            print(f"round {turn + 1} of {rounds}", flush=True)
    show(found)
    print(json.dumps(result(found)))


def _started(folder: Path, numbers: list[int], stack: contextlib.ExitStack) -> list[Measured]:
    socket, _ = stack.enter_context(engine(folder))
    found = [
        Measured(Way(DIRECT, str(socket)), [chat_request()]),
        Measured(Way("one session's gateway", free_port(), argv=gateway(folder, socket)), [chat_request()]),
    ]
    state = folder / "state"
    state.mkdir()
    plans: list[tuple[str, int, tuple[str, ...]]] = [
        *((f"endpoint over {number}", number, ()) for number in numbers),
        (f"endpoint over {max(numbers)} apart", max(numbers), ("--apart",)),
        (WHOLE, numbers[0], ("--state", str(state))),
    ]
    for title, number, more in plans:
        names = [f"model-{one:04}" for one in range(1, number + 1)]
        random.Random(1).shuffle(names)
        argv = gateway(folder, socket, "--models", str(number), *more)
        found.append(Measured(Way(title, free_port(), argv=argv), [chat_request(each) for each in names]))
    for one in found[1:]:
        assert isinstance(one.way.address, int)
        one.way.pid = stack.enter_context(running(one.way, one.way.address))
        one_by_one(one.way, 100, one.asked)
    return found


def measure(one: Measured, count: int) -> None:
    """One round: one by one, 32 at once for the CPU as in `benchmarks/gateway.py`, and with each number of clients."""
    way = one.way
    way.latencies_s.clear()
    one_by_one(way, count // 4, one.asked)
    one.p50_s.append(statistics.median(way.latencies_s))
    asyncio.run(many_at_once(way, count, one.asked))
    one.cpu_s.append(way.cpu_s[-1])
    for clients in CLIENTS:
        took = one.took_s.setdefault(clients, [])
        asyncio.run(many_at_once(way, count, one.asked, clients, took))
        one.rates.setdefault(clients, []).append(way.rates[-1])


def ratio(one: Measured, to: Measured) -> tuple[float, float]:
    """CPU for each request and median latency, against another way: the medians of the rounds' ratios."""
    cpu = statistics.median(a / b for a, b in zip(one.cpu_s, to.cpu_s, strict=True))
    return cpu, statistics.median(a / b for a, b in zip(one.p50_s, to.p50_s, strict=True))


def percentile(took_s: list[float], hundredth: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(took_s, n=100)[hundredth - 1] * 1000


def show(found: list[Measured]) -> None:
    """Both tables."""
    first = found[2]
    print(f"\n{'':26}{'p50 ms':>9}{'CPU µs':>9}{'CPU ×':>8}{'p50 ×':>8}   against {first.way.name}")
    for one in found:
        line = f"{one.way.name:26}{statistics.median(one.p50_s) * 1000:9.3f}"
        if one.way.pid:
            line += f"{statistics.median(one.cpu_s) * 1e6:9.1f}"
            line += "".join(f"{value:8.3f}" for value in ratio(one, first))
        print(line)
    print(f"\n{'':26}" + "".join(f"{f'{number} clients':>34}" for number in CLIENTS))
    print(f"{'':26}" + f"{'p50 ms':>12}{'p99 ms':>10}{'requests/s':>12}" * len(CLIENTS))
    for one in found:
        line = f"{one.way.name:26}"
        for number in CLIENTS:
            took = one.took_s[number]
            line += f"{percentile(took, 50):12.3f}{percentile(took, 99):10.3f}"
            line += f"{statistics.median(one.rates[number]):12.0f}"
        print(line)


def result(found: list[Measured]) -> dict[str, object]:
    """P5 for the most sessions against the fewest, and what the whole endpoint costs and adds to direct."""
    direct, first, whole = found[0], found[2], found[-1]
    ratios = {one.way.name: ratio(one, first) for one in found[3:]}
    worst = max(ratio(found[-3], first))
    cpu_us = statistics.median(whole.cpu_s) * 1e6
    added = {
        str(number): {
            "p50_ms": round(percentile(whole.took_s[number], 50) - percentile(direct.took_s[number], 50), 4),
            "p99_ms": round(percentile(whole.took_s[number], 99) - percentile(direct.took_s[number], 99), 4),
            "requests_per_s": round(statistics.median(whole.rates[number])),
            "direct_requests_per_s": round(statistics.median(direct.rates[number])),
        }
        for number in CLIENTS
    }
    return {
        "P2": {
            "value": round(cpu_us, 1),
            "goal": P2_US,
            "met": cpu_us <= P2_US,
            "unit": "µs, the whole endpoint",
        },
        "P5": {"value": round(worst, 4), "goal": P5_RATIO, "met": worst <= P5_RATIO, "unit": "×"},
        "ratios": {name: [round(cpu, 4), round(p50, 4)] for name, (cpu, p50) in ratios.items()},
        "added": added,
    }


if __name__ == "__main__":
    main()

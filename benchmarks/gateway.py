"""P1 to P5: what the gateway costs, against the engine reached directly, nginx and the LiteLLM proxy, in turn.

    make bench NAME=gateway [ARGS='--quick --no-litellm']

All stand before the same engine, which costs next to nothing, and are asked the same; each round asks every one of
them. nginx (Debian: nginx-light) is measured where it is installed; LiteLLM is installed into .make/litellm.
Prints one table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

from benchmarks.parts import sessions
from benchmarks.parts.clients import CHUNKS_PER_S, STREAMS, many_at_once, one_by_one, streams
from benchmarks.parts.footprint import fresh, memory
from benchmarks.parts.rivals import litellm_program
from benchmarks.parts.ways import DIRECT, LITELLM, NGINX, OURS, Way, all_ways, settle

P1_MS, P1_THEN_RATIO = 0.2, 1.5
P2_US, P2_THEN_RATIO = 110.0, 2.0
P3_RATIO, P3_THEN_RATIO = 0.98, 0.995
P4_MB, P4_FLAT_MB, P4_START_S = 60.0, 4.0, 0.3
P5_RATIO = 1.05


def main() -> None:
    """Measure, print the table and the JSON line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))  # so that what was started ends too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds: does it run, not what it costs"
    )
    parser.add_argument("--nginx", default=shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"))
    parser.add_argument("--no-litellm", action="store_true")
    options = parser.parse_args()
    rounds, seconds = (2, 1.0) if options.quick else (options.rounds, 3.0)
    litellm = "left out (--no-litellm)" if options.no_litellm else litellm_program()
    begun = time.monotonic()
    with all_ways(options.nginx, litellm if isinstance(litellm, Path) else None) as ways:
        counts = {way.name: warm_up(way, short=options.quick) for way in ways}
        for turn in range(rounds):
            # Each round begins with another one.
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                settle(ways)
                one_by_one(way, counts[way.name] // 5)
                asyncio.run(many_at_once(way, counts[way.name]))
                stream(way, seconds)
            print(f"round {turn + 1} of {rounds}, {time.monotonic() - begun:.0f} s", flush=True)
        settle(ways)
        for way in ways[1:]:
            memory(way, 2**26 if options.quick else 2**30)
        ours = ways[1].argv
        assert ours is not None
        one, many = (
            (lambda port: (*ours(port), "--models", "1")),
            (lambda port: (*ours(port), "--models", str(sessions.MANY))),
        )
        routing = sessions.routing_cost(one, many, max(3, 2 * rounds))
    show(ways)
    if options.nginx is None:
        print("nginx is not installed and was not measured (Debian: apt-get install nginx-light).")
    if not isinstance(litellm, Path):
        print(f"The LiteLLM proxy was not measured: {litellm}.")
    print(
        f"{sessions.MANY} sessions against 1: CPU × {routing.cpu_ratio:.3f}, p50 × {routing.latency_ratio:.3f}"
    )
    print(json.dumps(result({way.name: way for way in ways}, routing), ensure_ascii=False))


def stream(way: Way, seconds: float) -> None:
    """P3, and how soon a fresh one answers."""
    if way.argv is None:
        asyncio.run(streams(way, seconds))
        return
    with fresh(way) as one:
        # LiteLLM goes on with the streams of clients that have left, so it gets them in a process that is then ended.
        asyncio.run(streams(one if way.slow else way, seconds))


def warm_up(way: Way, *, short: bool) -> int:
    """Ask a few times; how many requests of it take about a second, at most 2000."""
    one_by_one(way, 50)
    asyncio.run(many_at_once(way, 200))
    count = max(100, min(2000, round(way.rates[-1] / (4 if short else 1))))
    way.latencies_s.clear()
    way.cpu_s.clear()
    way.rates.clear()
    return count


def p50_ms(way: Way) -> float:
    return statistics.median(way.latencies_s) * 1000


def p99_ms(way: Way) -> float:
    return statistics.quantiles(way.latencies_s, n=100)[98] * 1000


def cpu_us(way: Way) -> float:
    return statistics.median(way.cpu_s) * 1e6


def streamed(way: Way, direct: Way) -> float:
    """The share of direct's events that come this way: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(way.chunk_rates, direct.chunk_rates, strict=True))


def show(ways: list[Way]) -> None:
    """The table."""
    direct = ways[0]
    titles = {"p50 ms": 8, "added": 8, "p99 ms": 8, "CPU µs": 9, "requests/s": 12, "chunks/s": 10, "share": 8}
    titles |= {"cores": 7, "idle MB": 9, "1 GB MB": 9, "start s": 9}
    print("\n" + " " * 18 + "".join(f"{title:>{width}}" for title, width in titles.items()))
    for way in ways:
        chunks = statistics.median(way.chunk_rates)
        line = [f"{way.name:18}{p50_ms(way):8.3f}"]
        line.append(f"{p50_ms(way) - p50_ms(direct):8.3f}" if way.pid else f"{'':8}")
        line.append(f"{p99_ms(way):8.3f}")
        line.append(f"{cpu_us(way):9.1f}" if way.pid else f"{'':9}")
        line.append(f"{statistics.median(way.rates):12.0f}{chunks:10.0f}{streamed(way, direct):8.1%}")
        line.append(f"{statistics.median(way.stream_cores):7.2f}" if way.pid else f"{'':7}")
        line.append(f"{way.idle_mb:9.1f}" if way.idle_mb is not None else f"{'':9}")
        line.append(f"{way.peak_mb:9.1f}" if way.peak_mb is not None else f"{'':9}")
        line.append(f"{statistics.median(way.starts_s):9.2f}" if way.starts_s else "")
        print("".join(line))
    print(
        "One client: p50, what is added to direct, p99. 32 clients: CPU of the way's processes for each request.\n"
        f"{STREAMS} streams of {CHUNKS_PER_S:.0f} events a second: what comes, its share of direct, the cores used.\n"
        "Memory of its processes, idle and at the most while an upload of 1 GiB passes; start to first answer."
    )


def result(ways: dict[str, Way], routing: sessions.RoutingCost) -> dict[str, object]:
    """Each goal with what was found; `then` is the further goal, which is relative to nginx for P1 and P2."""
    direct, ours, nginx = ways[DIRECT], ways[OURS], ways.get(NGINX)
    added, cpu, share = p50_ms(ours) - p50_ms(direct), cpu_us(ours), streamed(ours, direct)
    found: dict[str, dict[str, object]] = {
        "P1": {"value": round(added, 4), "goal": P1_MS, "met": added <= P1_MS, "unit": "ms"},
        "P2": {"value": round(cpu, 1), "goal": P2_US, "met": cpu <= P2_US, "unit": "µs"},
        "P3": {"value": round(share, 4), "goal": P3_RATIO, "met": share >= P3_RATIO, "unit": "of direct"},
    }
    found["P3"]["then"] = {"value": round(share, 4), "goal": P3_THEN_RATIO, "met": share >= P3_THEN_RATIO}
    if nginx is not None:
        nginx_added = p50_ms(nginx) - p50_ms(direct)
        found["P1"]["then"] = _then(added / nginx_added if nginx_added > 0 else math.inf, P1_THEN_RATIO)
        found["P2"]["then"] = _then(cpu / cpu_us(nginx), P2_THEN_RATIO)
    assert ours.idle_mb is not None
    assert ours.peak_mb is not None
    start, grown = statistics.median(ours.starts_s), ours.peak_mb - ours.idle_mb
    found["P4"] = {
        "value": {
            "peak_mb": round(ours.peak_mb, 1),
            "grown_mb": round(grown, 1),
            "first_answer_s": round(start, 3),
        },
        "goal": {"peak_mb": P4_MB, "grown_mb": P4_FLAT_MB, "first_answer_s": P4_START_S},
        "met": ours.peak_mb <= P4_MB and grown <= P4_FLAT_MB and start <= P4_START_S,
    }
    worst = max(routing.cpu_ratio, routing.latency_ratio)
    found["P5"] = {"value": round(worst, 4), "goal": P5_RATIO, "met": worst <= P5_RATIO, "unit": "×"}
    return {
        **found,
        "others": {way.name: others(way) for way in ways.values() if way.name in (NGINX, LITELLM)},
    }


def _then(ratio: float, goal: float) -> dict[str, object]:
    return {
        "value": round(ratio, 3) if math.isfinite(ratio) else None,
        "goal": goal,
        "met": ratio <= goal,
        "unit": "× nginx",
    }


def others(way: Way) -> dict[str, float | None]:
    """What a rival needed, for the record."""
    return {
        "p50_ms": round(p50_ms(way), 4),
        "cpu_us": round(cpu_us(way), 1),
        "chunks_per_s": round(statistics.median(way.chunk_rates)),
        "idle_mb": round(way.idle_mb, 1) if way.idle_mb is not None else None,
        "peak_mb": round(way.peak_mb, 1) if way.peak_mb is not None else None,
        "start_s": round(statistics.median(way.starts_s), 2),
    }


if __name__ == "__main__":
    main()

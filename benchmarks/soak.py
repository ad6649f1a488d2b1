"""An hour of people on the gateway in minutes: nothing lost, nothing left over, every counter as the clients saw it.

    make bench NAME=soak [ARGS='--quick --seed 7']

Many clients ask, stream, leave, read slowly, upload, echo and err at random, while the simulated engine is killed and
started again on the same socket. Prints the progress, one table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.parts import deeds
from benchmarks.parts.load import LEAVER, Client, Ledger, Weather
from benchmarks.parts.ways import ROOT
from benchmarks.parts.wire import Connection, request
from launcher.sessions.keys import SCHEMA, NamedKey, digest
from launcher.sessions.paths import write_private
from tests.programs.front import KEY, SimulatedEngine, resident_mb

# A leaked object is two blocks or more; what caches and the C library keep differs from run to run.
BLOCKS_MORE, MB_MORE = 1000, 8.0
COUNTERS = ("requests", "errors", "prompt_tokens", "completion_tokens")
SECRETS = {"session": KEY, "alice": "sk-" + "a1" * 32, LEAVER: "sk-" + "1e" * 32}
_MARGIN_S = 0.5


@dataclass(frozen=True)
class Plan:
    """How much load; the same seed gives each client the same intentions."""

    seconds: float = 300.0
    warm_up_s: float = 20.0
    clients: int = 150
    openai_clients: int = 4
    think_s: float = 0.3
    restart_every_s: float = 20.0
    seed: int = 1


@dataclass(frozen=True)
class Footprint:
    """What the gateway's process holds when nobody asks anything.

    `resident_mb` is as it comes. `kept_mb` and `blocks` (Python's own count of what it has allocated) are what is left
    without garbage and without free memory that the C library keeps: a leak shows there and nowhere else.
    """

    resident_mb: float
    kept_mb: float
    blocks: int
    descriptors: int
    tasks: int


@dataclass
class Report:
    """What the clients saw and what the gateway says; empty `wrong` and equal counters are the goal."""

    plan: Plan
    ledger: Ledger
    told: Mapping[str, Any] = field(default_factory=dict)
    fresh: Footprint | None = None
    warm: Footprint | None = None
    end: Footprint | None = None
    most_mb: float = 0.0
    kills: int = 0

    def left_over(self) -> dict[str, float]:
        """What the gateway holds at the end and did not hold before, beyond what may be."""
        assert self.fresh is not None
        assert self.warm is not None
        assert self.end is not None
        found = {
            "descriptors": self.end.descriptors - self.fresh.descriptors,
            "tasks": self.end.tasks - self.fresh.tasks,
            "blocks": max(0, self.end.blocks - self.warm.blocks - BLOCKS_MORE),
            "mb": round(max(0.0, self.end.kept_mb - self.warm.kept_mb - MB_MORE), 1),
        }
        return {name: number for name, number in found.items() if number > 0}

    def differences(self) -> dict[str, tuple[int, int]]:
        """What is not equal, as (clients, gateway): each counter of each key, their sums, what should have ended."""
        found = {name: (0, self.told.get(name, 0)) for name in ("in_flight", "websockets")}
        for key, count in self.ledger.counts.items():
            told = self.told["keys"].get(key, {})
            for name in COUNTERS:
                seen, counted = getattr(count, name), told.get(name, 0)
                if name == "completion_tokens" and seen <= counted <= seen + count.unread_tokens:
                    continue
                found[f"{key}: {name}"] = seen, counted
        for name in COUNTERS:
            of_keys = sum(of_key[name] for of_key in self.told["keys"].values())
            found[f"sum of all keys: {name}"] = of_keys, self.told[name]
        return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


class Gateway:
    """The gateway's process."""

    def __init__(self, folder: Path, engine: Path) -> None:
        key, further = folder / "api_key", folder / "keys.json"
        key.write_text(KEY)
        named = [NamedKey(name, digest(SECRETS[name]), time.time()) for name in ("alice", LEAVER)]
        write_private(
            further, json.dumps({"schema": SCHEMA, "keys": [dataclasses.asdict(one) for one in named]})
        )
        argv = [
            sys.executable,
            "-m",
            "tests.programs.gateway",
            "--key-file",
            str(key),
            "--keys",
            str(further),
        ]
        argv += ["--engine", str(engine)]
        self._complaints = folder / "gateway.err"
        with self._complaints.open("w") as err:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=err, text=True)
        assert self.process.stdout is not None
        self._said = self.process.stdout
        self.port = int(self._said.readline())

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        self._said.close()

    def complaints(self) -> list[str]:
        """What it wrote to its standard error: tracebacks of what nobody expected."""
        return self._complaints.read_text().splitlines()

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def footprint(self) -> Footprint:
        """What it holds now."""
        resident = resident_mb(self.process.pid)
        self.process.send_signal(signal.SIGUSR1)
        tasks, blocks = (await asyncio.to_thread(self._said.readline)).split()
        return Footprint(resident, resident_mb(self.process.pid), int(blocks), self.descriptors(), int(tasks))

    def most_mb(self) -> float:
        """The most memory that it ever held."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    async def usage(self) -> dict[str, Any]:
        """The counters of `GET /status`."""
        connection = await Connection.open(self.port)
        await connection.send(request("GET", "/status", KEY))
        body = await connection.body(await connection.head())
        await connection.close()
        usage: dict[str, Any] = json.loads(body)["usage"]
        return usage


async def soak(plan: Plan, say: Callable[[str], None] = lambda line: None) -> Report:
    """Run it; the report says what is not as it should be."""
    ledger, weather = Ledger(), Weather()
    report = Report(plan, ledger)
    with tempfile.TemporaryDirectory(prefix="soak") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine = _Engine(folder, weather)
        stack.callback(engine.close)
        gateway = Gateway(folder, engine.socket)
        stack.callback(gateway.close)
        report.fresh = await gateway.footprint()
        await _load(gateway, ledger, weather, plan, plan.warm_up_s, plan.seed)
        report.warm = await _quiet(gateway, report.fresh)
        say(f"warm: {ledger.total('requests')} requests, {report.warm.resident_mb:.1f} MB")
        begun = time.monotonic()
        loading = asyncio.ensure_future(
            _load(gateway, ledger, weather, plan, plan.seconds, plan.seed + plan.clients + 1)
        )
        while not loading.done():
            await asyncio.wait((loading,), timeout=plan.restart_every_s)
            if time.monotonic() - begun < plan.seconds - 5 and not loading.done():
                await engine.kill_and_start()
            say(
                f"{time.monotonic() - begun:5.0f} s: {ledger.total('requests')} requests, "
                f"{ledger.total('errors')} errors, {weather.kills} kills, {gateway.descriptors()} descriptors, "
                f"{resident_mb(gateway.process.pid):.1f} MB, {len(ledger.wrong)} wrong"
            )
        loading.result()
        report.end = await _quiet(gateway, report.fresh)
        report.told = await gateway.usage()
        ledger.wrong += [f"gateway: {line}" for line in gateway.complaints()]
        report.most_mb, report.kills = gateway.most_mb(), weather.kills
    return report


class _Engine:
    """The simulated engine, killed and started again on its socket."""

    def __init__(self, folder: Path, weather: Weather) -> None:
        self._folder, self._weather = folder, weather
        self._running = self._start()
        self.socket = self._running.socket

    def _start(self) -> SimulatedEngine:
        return SimulatedEngine(self._folder, *deeds.ENGINE_OPTIONS)

    async def kill_and_start(self) -> None:
        """Kill it in the middle of its work, a moment after the last client has left and the last WebSocket closed."""
        weather = self._weather
        weather.calm.clear()
        while weather.websockets:
            await asyncio.sleep(0.02)
        await asyncio.sleep(_MARGIN_S)
        weather.engine_up = False
        weather.kills += 1
        self._running.kill()
        await asyncio.sleep(_MARGIN_S)
        weather.calm.set()
        self._running = await asyncio.to_thread(self._start)
        weather.engine_up = True

    def close(self) -> None:
        self._running.close()


async def _load(
    gateway: Gateway, ledger: Ledger, weather: Weather, plan: Plan, seconds: float, seed: int
) -> None:
    """Let all clients live for so long."""
    until = time.monotonic() + seconds
    clients = [
        Client(gateway.port, ("session", "alice")[number % 2], SECRETS, ledger, weather, seed + number)
        for number in range(plan.clients + plan.openai_clients)
    ]
    await asyncio.gather(
        *(client.live(deeds.USUAL, until, plan.think_s) for client in clients[plan.openai_clients :]),
        *(client.live(deeds.OPENAI, until, plan.think_s) for client in clients[: plan.openai_clients]),
    )


async def _quiet(gateway: Gateway, fresh: Footprint, limit_s: float = 30.0) -> Footprint:
    """What the gateway holds once it has let go of the last request, or when it has had enough time for that."""
    until = time.monotonic() + limit_s
    while True:
        now = await gateway.footprint()
        done = now.descriptors <= fresh.descriptors and now.tasks <= fresh.tasks
        if done or time.monotonic() > until:
            return now
        await asyncio.sleep(0.5)


def main() -> None:
    """Print the progress, the table and the JSON line; the exit code is 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--clients", type=int, default=Plan.clients)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--quick", action="store_true", help="half a minute with 40 clients")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))  # so that what was started ends too
    plan = Plan(seconds=options.seconds, clients=options.clients, seed=options.seed)
    if options.quick:
        plan = quick(options.seed)
    report = asyncio.run(soak(plan, lambda line: print(line, flush=True)))
    sys.exit(show(report))


def quick(seed: int = 1) -> Plan:
    """The short form, which is also a test."""
    return Plan(seconds=20, warm_up_s=6, clients=40, openai_clients=2, restart_every_s=5, seed=seed)


def show(report: Report) -> int:
    """Print the table and the JSON line; 1 when something is not as it should be."""
    ledger, warm, end, fresh = report.ledger, report.warm, report.end, report.fresh
    assert warm is not None
    assert end is not None
    assert fresh is not None
    names = sorted({deed for deed, _ in ledger.endings})
    kinds = sorted({ending for _, ending in ledger.endings})
    print("\n" + " " * 18 + "".join(f"{kind:>26}" for kind in kinds))
    for name in names:
        print(f"{name:18}" + "".join(f"{ledger.endings[name, kind] or '':>26}" for kind in kinds))
    print(f"\n{'':28}{'clients':>12}{'gateway':>12}")
    for key, count in sorted(ledger.counts.items()):
        for name in COUNTERS:
            told = report.told["keys"].get(key, {}).get(name, 0)
            print(f"{f'{key}: {name}':28}{getattr(count, name):12}{told:12}")
    print(f"\n{'':22}{'fresh':>12}{'warm':>12}{'end':>12}")
    for name in (one.name for one in dataclasses.fields(Footprint)):
        values = (getattr(one, name) for one in (fresh, warm, end))
        print(
            f"{name:22}"
            + "".join(f"{value:12.1f}" if name.endswith("mb") else f"{value:12}" for value in values)
        )
    print(f"{report.kills} kills of the engine; the gateway held {report.most_mb:.1f} MB at the most")
    for line in ledger.wrong[:20]:
        print(f"WRONG: {line}")
    met = not ledger.wrong and not report.differences() and not report.left_over()
    value = {
        "requests": ledger.total("requests"),
        "kills": report.kills,
        "wrong": len(ledger.wrong),
        "differences": report.differences(),
        "left_over": report.left_over(),
        "most_mb": round(report.most_mb, 1),
    }
    goal = {"wrong": 0, "differences": {}, "left_over": {}}
    print(json.dumps({"soak": {"value": value, "goal": goal, "met": met}}))
    return 0 if met else 1


if __name__ == "__main__":
    main()

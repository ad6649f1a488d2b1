"""P8: from start to a first real answer, `launcher launch` against bare `vllm serve` of the same model and flags.

Both run on this machine with the same command, the same variables and the same warm caches, one after the other in
turn. Bare means: the very command that the launcher would start, asked for a token as soon as it listens. The
launcher's time ends when connection.json is there, so it holds everything: planning, the job, gateway, page, probe.

    make bench NAME=start_to_ready [ARGS='--rounds 5 --model tiny-chat --no-page']
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp

from launcher import Launcher
from launcher.engines import engine
from launcher.serve.caches import Caches
from launcher.serve.environment import inside
from launcher.serve.readiness import until_listening
from launcher.sessions.plan import Plan
from launcher.settings.layers import load


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="tiny-chat")
    parser.add_argument("--no-page", action="store_true", help="without the chat page's process")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        launcher = Launcher(
            load(
                {
                    "LAUNCHER_SITE": os.devnull,
                    "LAUNCHER_CONFIG": os.devnull,
                    "LAUNCHER_NETWORK__BIND": "127.0.0.1",
                    "LAUNCHER_PLACES__SESSIONS": f"{folder}/sessions",
                    "LAUNCHER_PLACES__CACHE": f"{folder}/cache",
                    "LAUNCHER_SESSION__PAGE": "false" if wanted.no_page else "true",
                }
            )
        )
        bare(launcher.plan(wanted.model))  # warms the caches for both
        times: dict[str, list[float]] = {"bare": [], "launcher": []}
        for turn in range(wanted.rounds):
            order = ("bare", "launcher") if turn % 2 == 0 else ("launcher", "bare")
            for name in order:
                took = (
                    bare(launcher.plan(wanted.model)) if name == "bare" else launched(launcher, wanted.model)
                )
                times[name].append(took)
                print(f"round {turn + 1} {name:<9} {took:6.2f} s", flush=True)
    show(times)


def bare(plan: Plan) -> float:
    """Seconds from the start of the engine's own command to its first token."""
    runtime = Path(tempfile.mkdtemp(prefix="bare-"))
    module = engine(plan.engine)
    cache = Caches(plan).folder
    command = inside(module.command(plan, runtime / "engine.sock", cache), plan, runtime, cache, os.environ)
    started = time.monotonic()
    with (runtime / "engine.log").open("w") as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.env),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        asyncio.run(first_token(plan, runtime / "engine.sock"))
        return time.monotonic() - started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


async def first_token(plan: Plan, socket: Path) -> None:
    """Return once the engine behind `socket` has answered the same request that the launcher probes with."""
    module = engine(plan.engine)
    probe = module.probe(plan)
    async with asyncio.timeout(900):
        await until_listening(socket, module.health())
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as client,
            client.post(f"http://engine{probe.path}", json=dict(probe.body)) as answer,
        ):
            assert (await answer.json())[probe.field]


def launched(launcher: Launcher, model: str) -> float:
    """Seconds from `launch` to a session that is ready."""
    started = time.monotonic()
    with launcher.launch(model) as session:
        session.wait(900)
        return time.monotonic() - started


def show(times: dict[str, list[float]]) -> None:
    """The table and the JSON line."""
    middle = {name: statistics.median(found) for name, found in times.items()}
    print(f"\n{'':<10}{'median s':>10}{'least s':>10}{'most s':>10}")
    for name, found in times.items():
        print(f"{name:<10}{middle[name]:>10.2f}{min(found):>10.2f}{max(found):>10.2f}")
    added = middle["launcher"] - middle["bare"]
    ratio = middle["launcher"] / middle["bare"]
    print(f"\nadded: {added:+.2f} s, {100 * (ratio - 1):+.1f} %\n")
    met = ratio <= 1.02 and added <= 1.0
    value = {"ratio": round(ratio, 3), "added_s": round(added, 2)}
    print(json.dumps({"P8": {"value": value, "goal": {"ratio": 1.02, "added_s": 1.0}, "met": met}}))


if __name__ == "__main__":
    main()

"""P8: from start to a first real answer, `launcher launch` against bare `vllm serve` of the same model and flags.

Both run on this machine with the same command, the same variables and the same compile caches, one after the other in
turn. Bare means: the very command that the launcher would start, asked for a token as soon as it listens. The
launcher's time ends when connection.json is there, so it holds everything: planning, the job, gateway, page, probe.

Three situations: `warm`, the shipped model with all of it in memory; `cold`, a model of --megabytes random weights
that was put out of memory; `slow`, the same on a file system that answers each read --delay-ms late
(benchmarks/parts/slow.py).

    make bench NAME=start_to_ready [ARGS='--rounds 5 --only warm --no-page']
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.parts.large import make_large
from launcher import Launcher
from launcher.engines import engine
from launcher.serve.caches import Caches
from launcher.serve.environment import inside
from launcher.serve.readiness import until_listening
from launcher.sessions.plan import Plan
from launcher.settings.layers import load

FLAGS = ("--enforce-eager", "--max-model-len", "256", "--kv-cache-memory-bytes", "1g", "--max-num-seqs", "4")
GOALS = {"warm": 1.02, "cold": 0.9, "slow": 0.5}
ROOT = Path(__file__).parents[1]
_LATER_S = 20.0  # about as long as an engine imports


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(GOALS), action="append")
    parser.add_argument("--megabytes", type=int, default=2400)
    parser.add_argument("--delay-ms", type=float, default=4)
    parser.add_argument("--no-page", action="store_true", help="without the chat page's process")
    wanted = parser.parse_args()
    situations = wanted.only or list(GOALS)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / ".make") as name, ExitStack() as stack:
        folder = Path(name)
        launcher = launcher_in(folder, page=not wanted.no_page)
        starts = {"warm": Start(launcher, "tiny-chat", ())}
        large = folder / "models" / "large"
        if set(situations) & {"cold", "slow"}:
            make_large(large, wanted.megabytes)
            print(
                f"Of what was read, this machine still holds {held(large):.0%} after {_LATER_S:.0f} s.",
                flush=True,
            )
            starts["cold"] = Start(launcher, str(large), FLAGS, evict=(large,))
        if "slow" in situations:
            mounted = stack.enter_context(slow_folder(folder, wanted.delay_ms)) / "large"
            starts["slow"] = Start(launcher, str(mounted), FLAGS, evict=(mounted, large))
        times: dict[str, dict[str, list[float]]] = {}
        for situation in situations:
            start = starts[situation]
            bare(start)  # warms the caches for both
            times[situation] = {"bare": [], "launcher": []}
            for turn in range(wanted.rounds):
                for way in ("bare", "launcher") if turn % 2 == 0 else ("launcher", "bare"):
                    took = bare(start) if way == "bare" else launched(start)
                    times[situation][way].append(took)
                    print(f"{situation} round {turn + 1} {way:<9} {took:6.2f} s", flush=True)
    show(times)


@dataclass(frozen=True)
class Start:
    """What is started, and the folders of it that must not be in memory then."""

    launcher: Launcher
    model: str
    engine_args: tuple[str, ...]
    evict: tuple[Path, ...] = ()

    def prepared(self) -> None:
        """Put its weights out of this machine's memory."""
        for folder in self.evict:
            for path in folder.glob("*.safetensors"):
                with path.open("rb") as file:
                    with contextlib.suppress(OSError):  # a folder that is only read has nothing to write
                        os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def held(folder: Path) -> float:
    """The share of the weights that is in memory a while after it was read: some machines page out what is idle.

    Where it is far from 1, reading ahead cannot show what it is for.
    """
    paths = list(folder.glob("*.safetensors"))
    for path in paths:
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    time.sleep(_LATER_S)
    found = pages = 0
    for path in paths:
        with path.open("rb") as file:
            for start in range(0, path.stat().st_size, 2**20):
                pages += 1
                with contextlib.suppress(BlockingIOError):
                    found += os.preadv(file.fileno(), [bytearray(1)], start, os.RWF_NOWAIT)
    return found / pages


def launcher_in(folder: Path, *, page: bool) -> Launcher:
    """A launcher with everything it writes in `folder`."""
    return Launcher(
        load(
            {
                "LAUNCHER_SITE": os.devnull,
                "LAUNCHER_CONFIG": os.devnull,
                "LAUNCHER_NETWORK__BIND": "127.0.0.1",
                "LAUNCHER_PLACES__SESSIONS": f"{folder}/sessions",
                "LAUNCHER_PLACES__CACHE": f"{folder}/cache",
                "LAUNCHER_SESSION__PAGE": "true" if page else "false",
            }
        )
    )


@contextlib.contextmanager
def slow_folder(folder: Path, delay_ms: float) -> Iterator[Path]:
    """The models of `folder`, each read of them so much later; a Python with mfusepy is made for it once."""
    python, mount = ROOT / ".make" / "slow" / "bin" / "python", folder / "slow"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", str(python.parents[1])], check=True)
        subprocess.run(
            [
                "uv",
                "pip",
                "install",
                "-q",
                "--python",
                str(python),
                "-r",
                str(ROOT / "benchmarks" / "slow.txt"),
            ],
            check=True,
        )
    mount.mkdir()
    command = [str(python), "-m", "benchmarks.parts.slow", str(folder / "models"), str(mount), str(delay_ms)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 20
            while not (mount / "large").exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("The slow file system did not come up. Is Debian's fuse3 installed?")
                time.sleep(0.1)
            yield mount
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.terminate()


def bare(start: Start) -> float:
    """Seconds from the start of the engine's own command to its first token."""
    plan = start.launcher.plan(start.model, engine_args=start.engine_args)
    start.prepared()
    runtime = Path(tempfile.mkdtemp(prefix="bare-"))  # kept when the engine fails: its log is there
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
        asyncio.run(first_token(plan, runtime / "engine.sock", process))
        took = time.monotonic() - started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    shutil.rmtree(runtime)
    return took


async def first_token(plan: Plan, socket: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once the engine behind `socket` has answered the same request that the launcher probes with."""
    module = engine(plan.engine)
    probe = module.probe(plan)
    async with asyncio.timeout(900):
        listening = asyncio.ensure_future(until_listening(socket, module.health()))
        while not (await asyncio.wait({listening}, timeout=0.5))[0]:
            if process.poll() is not None:
                raise SystemExit(f"The engine ended by itself: see {socket.with_name('engine.log')}.")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as client,
            client.post(f"http://engine{probe.path}", json=dict(probe.body)) as answer,
        ):
            assert (await answer.json())[probe.field]


def launched(start: Start) -> float:
    """Seconds from `launch` to a session that is ready."""
    start.prepared()
    started = time.monotonic()
    with start.launcher.launch(start.model, engine_args=start.engine_args) as session:
        session.wait(900)
        return time.monotonic() - started


def show(times: dict[str, dict[str, list[float]]]) -> None:
    """The table and the JSON line."""
    print(f"\n{'':<8}{'bare s':>10}{'launcher s':>12}{'added s':>10}{'ratio':>8}{'goal':>8}")
    value: dict[str, dict[str, float]] = {}
    met = True
    for situation, found in times.items():
        bare_s, launcher_s = statistics.median(found["bare"]), statistics.median(found["launcher"])
        added, ratio = launcher_s - bare_s, launcher_s / bare_s
        print(
            f"{situation:<8}{bare_s:>10.2f}{launcher_s:>12.2f}{added:>+10.2f}{ratio:>8.3f}{GOALS[situation]:>8}"
        )
        value[situation] = {"ratio": round(ratio, 3), "added_s": round(added, 2)}
        met = met and ratio <= GOALS[situation] and (situation != "warm" or added <= 1.0)
    print()
    print(json.dumps({"P8": {"value": value, "goal": {**GOALS, "added_s": 1.0}, "met": met}}))


if __name__ == "__main__":
    main()

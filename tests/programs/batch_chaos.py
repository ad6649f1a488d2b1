"""kill -9 of runner, engine and job of a batch run, at random lines; then each id must have its one answer.

    python -m tests.programs.batch_chaos --lines 20000 --kills 10 [--seed N]

The tests do it with few lines; this is the same with as many as one likes. Its sessions run on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from launcher import Launcher
from launcher.api import batch_carry, batch_runs
from launcher.api.batch_runs import BatchRun
from launcher.batch.report import STOPPED, Status
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.settings import without_site

ENGINE = ("--start-delay-s", "0", "--first-token-ms", "20", "--token-rate", "0")
_PARTS = {"runner": "carry-batch", "engine": "launcher.engines.simulated.serve"}


@dataclass(frozen=True)
class Outcome:
    """How the run ended, what was killed when (lines answered by then), and what its output held at each of those."""

    batch: BatchRun
    status: Status
    kills: tuple[tuple[str, int], ...]
    kept: tuple[bytes, ...]


def write(path: Path, count: int, model: str = "simulated") -> Path:
    """An input whose ids are r0, r1, …"""
    with path.open("w") as file:
        for number in range(count):
            body = {"model": model, "messages": [{"role": "user", "content": f"question {number}"}]}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


def lines(batch: BatchRun) -> int:
    """How many answers stand in its output."""
    try:
        return Path(batch.spec.output).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def suffer(launcher: Launcher, folder: Path, count: int, kills: int, seed: int, window: int = 8) -> Outcome:
    """Answer `count` lines in jobs of their own while `kills` parts are killed."""
    rolls = random.Random(seed)
    batch = batch_runs.begin(launcher, write(folder / "in.jsonl", count), window=window, engine_args=ENGINE)
    batch_carry.begun(batch)
    kinds = ("runner", "engine", "job")
    order = [kinds[place % 3] for place in range(kills)]
    rolls.shuffle(order)
    done, kept = [], []
    for what in order:
        goal = lines(batch) + rolls.randrange(1, max(2, count // (kills + 1)))
        wait_until(partial(_reached, batch, goal), 300)
        wait_until(partial(_killed, batch, what), 300)
        text = Path(batch.spec.output).read_bytes()
        kept.append(text[: text.rfind(b"\n") + 1])
        done.append((what, text.count(b"\n")))
    return Outcome(batch, batch_carry.follow(batch), tuple(done), tuple(kept))


def check(outcome: Outcome, count: int) -> None:
    """Raise AssertionError unless each id has one answer and no byte of an earlier one has changed."""
    end = Path(outcome.batch.spec.output).read_bytes()
    assert (outcome.status.state, outcome.status.answered) == ("completed", count), outcome.status
    ids = Counter(json.loads(line)["custom_id"] for line in end.splitlines())
    assert ids == Counter(f"r{number}" for number in range(count))
    assert all(end.startswith(before) for before in outcome.kept)
    assert outcome.status.completion_tokens == 7 * count


def kill(batch: BatchRun, what: str) -> bool:
    """KILL to a part of the latest job; whether it was there."""
    session = batch.session
    pid = session.status().pid if session is not None else None
    if pid is None:
        return False
    try:
        if what == "job":
            os.kill(pid, signal.SIGKILL)
            return True
        parts = [one for one in psutil.Process(pid).children() if _PARTS[what] in one.cmdline()]
        for part in parts:
            part.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    return bool(parts)


def _reached(batch: BatchRun, goal: int) -> bool:
    _go_on(batch)
    return lines(batch) >= goal


def _killed(batch: BatchRun, what: str) -> bool:
    _go_on(batch)
    return kill(batch, what)


def _go_on(batch: BatchRun) -> None:
    """Submit the next job where one is over, as `launcher batch run` does while it waits."""
    session = batch.session
    if batch.status().state == STOPPED and session is not None and session.status().ended:
        batch.again()


def main() -> int:
    """Do it once, and say what was killed when."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        os.environ.update(without_site(Path(name)))
        launcher = Launcher(load())
        outcome = suffer(launcher, Path(name), options.lines, options.kills, options.seed, options.window)
        check(outcome, options.lines)
        sessions = len(outcome.batch.sessions)
    for what, line in outcome.kills:
        print(f"killed {what:7} at line {line}")
    print(
        f"{options.lines} ids answered once each, over {sessions} jobs, in {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

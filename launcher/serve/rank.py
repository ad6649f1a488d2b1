"""One process of an engine that has several nodes, on one of the others: what `launcher rank` runs there.

Enters the same environment as the first node's, with a private folder of its own, and says nothing of the session:
that is the first node's business, which reads this one's log. Ends with the step that it is.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from launcher.engines import engine
from launcher.errors import LauncherError
from launcher.schedulers.step import own_rank
from launcher.serve.caches import Caches
from launcher.serve.environment import NOT_STARTED, inside
from launcher.serve.meeting import place_of
from launcher.serve.node import ENGINE_SOCKET, raise_file_limit, runtime_directory
from launcher.serve.process import Child, adopt_orphans, end_orphans, until_lost
from launcher.serve.readahead import ReadAhead
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan

STOP_GRACE_S = 10.0  # as the engine's on the first node
# Said in nodes.log as soon as it is so: the step is over only when all have ended.
_END = "rank {rank}: ended with {code} at {at:.3f}"
_ENDS = re.compile(r"^rank (\d{1,6}): ended with (-?\d{1,6}) at (\d{1,12}\.\d{3})$", re.MULTILINE)


async def take_part(root: Path, address: str, port: int) -> int:
    """Run this node's process of the engine of the session in `root`; never 0 unless it was told to end.

    The first node's process is met at `address` and `port`. What keeps it from starting is printed.
    """
    os.umask(0o077)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    adopt_orphans()
    raise_file_limit()
    try:
        require_own(root, "places.sessions")
        paths = SessionPaths(root)
        plan = Plan.read(paths.plan)
        rank = own_rank()
        with runtime_directory(plan) as runtime:
            try:
                return await _run(plan, paths, runtime, rank, (address, port), told)
            finally:
                await end_orphans()
    except (LauncherError, OSError) as error:
        print(f"launcher: {error}", flush=True)
        return NOT_STARTED


async def _run(
    plan: Plan, paths: SessionPaths, runtime: Path, rank: int, master: tuple[str, int], told: asyncio.Event
) -> int:
    place = place_of(rank, plan.resources.nodes, *master)
    cache = (await asyncio.to_thread(Caches, plan)).folder
    module = engine(plan.engine)
    command = module.command(plan, runtime / ENGINE_SOCKET, cache, place)
    started = inside(command, plan, runtime, cache, os.environ)
    child = await Child.start(
        started.argv, started.env, paths.rank_log(rank), cwd=Path(plan.work_dir or runtime), append=True
    )
    ahead = ReadAhead(Path(plan.model.snapshot)) if plan.model.snapshot is not None else None
    over, asked = asyncio.create_task(child.wait()), asyncio.create_task(told.wait())
    lost = asyncio.create_task(until_lost(module.lost, child))
    watches = (over, asked, lost)
    await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
    code = child.exit_code
    if ahead is not None:
        ahead.stop()
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    if not told.is_set():
        print(_END.format(rank=rank, code=1 if code is None else code, at=time.time()), flush=True)
    if child.exit_code is None:
        await child.stop(STOP_GRACE_S)
    if told.is_set():
        return 0
    return 1 if not code else 128 - code if code < 0 else code


def ends(log: str) -> dict[int, tuple[int, float]]:
    """Exit code and time of each process that ended by itself, by its number, as `nodes.log` tells."""
    return {int(rank): (int(code), float(at)) for rank, code, at in _ENDS.findall(log)}

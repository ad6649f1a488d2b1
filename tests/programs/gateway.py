"""A gateway in a process of its own: `gateway.py --key-file FILE --engine SOCKET [--page SOCKET]`; prints its port.

`--models N` makes it an endpoint over N sessions, model-0001 and so on, all with that engine; with `--apart` each has
connections of its own. `--keys FILE` has further keys. On USR1 it lets go of its garbage and prints how many asyncio
tasks and blocks of memory are left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import signal
import sys
from pathlib import Path

from launcher.gateway.front import Front, SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway


async def _serve(keys: Keys, front: Front, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _tell_what_is_left)
    gateway = Gateway(keys=keys, front=front, name="test-0000")
    print(await gateway.start("127.0.0.1", port), flush=True)
    await stop.wait()
    await gateway.stop(1.0)


def _tell_what_is_left() -> None:
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
    print(len(asyncio.all_tasks()), sys.getallocatedblocks(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--models", type=int, default=0, metavar="N")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    keys = Keys(arguments.key_file.read_text(encoding="utf-8").strip(), arguments.keys)
    if arguments.models:
        front: Front = _endpoint(arguments.engine, arguments.models, apart=arguments.apart)
    else:
        routes = Routes(engine=arguments.engine, page=arguments.page, ready=True)
        front = SessionFront(routes, lambda: {"state": "READY", "message": "Ready."})
    asyncio.run(_serve(keys, front, arguments.port))


def _endpoint(engine: Path, count: int, *, apart: bool) -> Front:
    """An endpoint over so many sessions of one engine."""
    from launcher.fleet.front import EndpointFront
    from launcher.gateway.place import Place
    from tests.programs.replicas import REPLICA_KEY, Replicas, Rules

    fleet = Replicas()
    for number in range(1, count + 1):
        socket = engine.with_name(f"{number}.sock") if apart else engine
        if apart and not socket.exists():
            socket.symlink_to(engine)
        fleet.add(f"model-{number:04}", Place(socket, REPLICA_KEY), served="tiny")
    return EndpointFront(fleet, Rules(), hold_max_s=60.0)


if __name__ == "__main__":
    main()

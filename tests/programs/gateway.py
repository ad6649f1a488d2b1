"""A gateway in a process of its own: `gateway.py --key-file FILE --engine SOCKET [--page SOCKET]`; prints its port.

`--models N` gives it N sessions, model-0001 and so on, all with that engine; `--keys FILE` further keys. On USR1 it
lets go of its garbage and prints how many asyncio tasks and blocks of memory are left.
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

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway


async def _serve(keys: Keys, routes: Routes, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _tell_what_is_left)
    front = SessionFront(routes, lambda: {"state": "READY", "message": "Ready."})
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
    parser.add_argument("--page", type=Path)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    keys = Keys(arguments.key_file.read_text(encoding="utf-8").strip(), arguments.keys)
    models = {f"model-{number:04}": arguments.engine for number in range(1, arguments.models + 1)}
    routes = Routes(engine=arguments.engine, page=arguments.page, ready=True, models=models)
    asyncio.run(_serve(keys, routes, arguments.port))


if __name__ == "__main__":
    main()

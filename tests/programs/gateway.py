"""A gateway in a process of its own: `gateway.py --key-file FILE --engine SOCKET [--page SOCKET]`; prints its port.

`--models N` makes it an endpoint over N sessions, model-0001 and so on, all with that engine; with `--apart` each has
connections of its own, with `--state FOLDER` keys, limits and usage are kept there as an endpoint does. `--keys FILE`
has further keys. On USR1 it lets go of its garbage and prints how many asyncio
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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.gateway.front import Front, SessionFront
from launcher.gateway.keys import KeyRing, Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway

if TYPE_CHECKING:  # a session's gateway loads nothing of an endpoint's: its memory is measured
    from launcher.fleet.seen import Access
    from launcher.gateway.exchange import Exchange


async def _serve(
    keys: KeyRing, front: Front, port: int, on_end: Callable[[Exchange], None] | None = None
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _tell_what_is_left)
    gateway = Gateway(keys=keys, front=front, name="test-0000")
    gateway.on_end = on_end
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
    parser.add_argument("--state", type=Path, metavar="FOLDER")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    key = arguments.key_file.read_text(encoding="utf-8").strip()
    keys = Keys(key, arguments.keys)
    if arguments.state is not None:
        _with_state(key, arguments)
        return
    if arguments.models:
        from tests.programs.replicas import Rules

        front: Front = _endpoint(arguments.engine, arguments.models, Rules(), apart=arguments.apart)
    else:
        routes = Routes(engine=arguments.engine, page=arguments.page, ready=True)
        front = SessionFront(routes, lambda: {"state": "READY", "message": "Ready."})
    asyncio.run(_serve(keys, front, arguments.port))


def _with_state(key: str, arguments: argparse.Namespace) -> None:
    """An endpoint whose keys, limits and usage are in a SQLite file."""
    from sqlalchemy import update

    from launcher.fleet import issued, tables
    from launcher.fleet.access import Access
    from launcher.fleet.keys import StoredKeys
    from launcher.fleet.store import Store
    from launcher.fleet.usage import Uses
    from launcher.sessions.keys import digest

    with contextlib.closing(Store(f"sqlite:///{arguments.state}/endpoint.db")) as store:
        many = 10**9
        issued.new(
            store, "bench", owner="bench", lifetime_s=None, requests_per_minute=many, tokens_per_minute=many
        )
        with store.writing() as connection:
            connection.execute(update(tables.keys).values(digest=digest(key)))
        uses = Uses(store, arguments.state / "uses")
        with contextlib.closing(StoredKeys(store)) as keys, contextlib.closing(uses):
            models = [f"model-{number:04}" for number in range(1, arguments.models + 1)]
            access = Access(dict.fromkeys(models, (many, many)))
            front = _endpoint(arguments.engine, arguments.models, access, apart=arguments.apart)
            asyncio.run(_serve(keys, front, arguments.port, uses.on_end))


def _endpoint(engine: Path, count: int, access: Access, *, apart: bool) -> Front:
    """An endpoint over so many sessions of one engine."""
    from launcher.fleet.front import EndpointFront
    from launcher.gateway.place import Place
    from tests.programs.replicas import REPLICA_KEY, Replicas

    fleet = Replicas()
    for number in range(1, count + 1):
        socket = engine.with_name(f"{number}.sock") if apart else engine
        if apart and not socket.exists():
            socket.symlink_to(engine)
        fleet.add(f"model-{number:04}", Place(socket, REPLICA_KEY), served="tiny")
    return EndpointFront(fleet, access, hold_max_s=60.0)


if __name__ == "__main__":
    main()

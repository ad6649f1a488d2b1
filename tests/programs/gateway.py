"""A gateway in a process of its own: `gateway.py --key-file FILE --engine SOCKET [--page SOCKET]`; prints its port."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway


async def _serve(key: str, engine: Path | None, page: Path | None, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = Gateway(
        keys=Keys(key),
        routes=Routes(engine=engine, page=page, ready=True),
        report=lambda: {"state": "READY", "message": "Ready."},
        session_id="test-0000",
    )
    print(await gateway.start("127.0.0.1", port), flush=True)
    await stop.wait()
    await gateway.stop(1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    key = arguments.key_file.read_text(encoding="utf-8").strip()
    asyncio.run(_serve(key, arguments.engine, arguments.page, arguments.port))


if __name__ == "__main__":
    main()

"""The simulated engine as a program: starts, listens on a Unix socket, fails when told; logs like vLLM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from launcher.engines.simulated.app import SimulatedEngine
from launcher.engines.simulated.ranks import Share, gather, join
from launcher.engines.simulated.script import Script, add_options
from launcher.errors import RequestError

# The shares of the start delay and the log lines that announce them, in vLLM's words.
_START = (
    (0.6, "[model_runner.py:1] Starting to load model {name}..."),
    (0.2, "[backends.py:1] torch.compile started"),
    (0.1, "[model_runner.py:2] Capturing CUDA graphs"),
    (0.1, "[engine.py:1] Warming up"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until TERM or INT, or until the scripted end."""
    parser = argparse.ArgumentParser(prog="python -m launcher.engines.simulated.serve", allow_abbrev=False)
    parser.add_argument("--uds", required=True, metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--served-name", required=True, help="the model's name in requests and answers")
    for option, kind in (
        ("--nnodes", int),
        ("--node-rank", int),
        ("--master-addr", str),
        ("--master-port", int),
    ):
        parser.add_argument(option, type=kind, help="as vLLM's, where it has several nodes")
    add_options(parser)
    arguments = vars(parser.parse_args(argv))
    socket, name = Path(arguments.pop("uds")), arguments.pop("served_name")
    place = [arguments.pop(word) for word in ("nnodes", "node_rank", "master_addr", "master_port")]
    share = Share(*place) if None not in place else None
    try:
        return asyncio.run(_serve(Script(**arguments), socket, name, share))
    except RequestError as error:
        parser.error(str(error))


async def _serve(script: Script, socket: Path, name: str, share: Share | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: loop.call_later(script.ignore_term_s, stop.set))
    _log(f"[api_server.py:1] simulated engine, args: {script}")
    stopping = asyncio.ensure_future(stop.wait())
    if share is not None:
        _log(f"[ranks.py:1] rank {share.rank} of {share.nodes}, pid {os.getpid()}")
    if share is not None and share.rank:
        return await _take_part(script, share, stopping)
    starting = asyncio.ensure_future(_start(script, name, share))
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return 0
    met = starting.result()

    def schedule_failure() -> None:
        if script.fail_after_s is not None:
            loop.call_later(script.fail_after_s, _fail, script)

    engine = SimulatedEngine(script, name, schedule_failure, _fail)
    runner = web.AppRunner(
        engine.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0, auto_decompress=False
    )
    await runner.setup()
    os.umask(0o077)
    await web.UnixSite(runner, str(socket)).start()
    _log("[launcher.py:1] Application startup complete.")
    if script.fail_at == "ready" and not script.fail_rank:
        _fail(script)
    await stopping
    _log("[launcher.py:2] Shutting down")
    await runner.cleanup()
    socket.unlink(missing_ok=True)  # asyncio does it by itself only since Python 3.13
    if met is not None:
        met.close()
    return 0


async def _start(script: Script, name: str, share: Share | None) -> asyncio.Server | None:
    """Take the time of a start; what the other nodes' processes stay connected to, where there are some."""
    met = await gather(share, _lost) if share is not None else None
    for part, line in _START:
        _log(line.format(name=name))
        if script.hang_at == "start":
            await asyncio.Event().wait()
        await asyncio.sleep(part * script.start_delay_s)
        if script.fail_at == "start" and not script.fail_rank:
            _fail(script)
    return met


def _lost(rank: int) -> None:
    # As vLLM, which then fails in Gloo or NCCL.
    _fail(Script(fail_with=f"RuntimeError: Connection closed by peer: rank {rank}"))


async def _take_part(script: Script, share: Share, stopping: asyncio.Future[Any]) -> int:
    if script.fail_at == "start" and script.fail_rank == share.rank:
        _fail(script)
    joined = asyncio.ensure_future(join(share))
    await asyncio.wait((joined, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        joined.cancel()
        return 0
    joined.result()
    _fail(Script(fail_with="RuntimeError: Connection closed by peer: rank 0"))
    return 1


def _fail(script: Script) -> None:
    """End at once, as an engine whose process breaks: a traceback, no clean-up, the socket left behind."""
    text = script.fail_with or "RuntimeError: Simulated failure"
    sys.stderr.write(
        "Traceback (most recent call last):\n"
        '  File "simulated/engine.py", line 1, in run_engine_core\n'
        "    raise error\n"
        f"{text if ':' in text else f'RuntimeError: {text}'}\n"
    )
    sys.stderr.flush()
    if script.fail_signal is not None:
        os.kill(os.getpid(), signal.Signals[script.fail_signal])
        time.sleep(1)  # a signal that does not end a process leaves the exit code to end it
    os._exit(script.fail_code)


def _log(text: str) -> None:
    print(f"INFO {datetime.now():%m-%d %H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

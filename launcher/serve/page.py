"""The process of the session's page: routed to only while it answers, started once more when it ends by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from launcher.errors import EngineError
from launcher.gateway.routes import Routes
from launcher.serve.node import PAGE_SOCKET
from launcher.serve.process import Child
from launcher.serve.readiness import until_listening

_STARTS = 2
_GRACE_S = 3.0


async def keep_page(root: Path, gateway_url: str, runtime: Path, log: Path, routes: Routes) -> None:
    """Run the page of the session in `root` until cancelled, or until it has ended twice."""
    socket = runtime / PAGE_SOCKET
    given = ("--socket", str(socket), "--session", str(root), "--gateway", gateway_url)
    for _ in range(_STARTS):
        routes.page_starting = True
        # Nicer than the engine, which is busy with somebody's question while this one imports.
        try:
            child = await Child.start(
                (sys.executable, "-m", "launcher.ui", *given), os.environ, log, niceness=10, cwd=runtime
            )
        except (EngineError, OSError) as error:  # the endpoint answers all the same
            routes.page_starting = False
            logging.getLogger("launcher.serve").warning("the page cannot be started: %s", error)
            continue
        listening = asyncio.create_task(until_listening(socket, "/session"))
        ended = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({listening, ended}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not ended.done():
                routes.page, routes.page_starting = socket, False
            code = await ended
            logging.getLogger("launcher.serve").warning("the page ended with exit code %s", code)
        finally:
            routes.page, routes.page_starting = None, False
            listening.cancel()
            ended.cancel()
            await child.stop(_GRACE_S)

"""The simulated engine on several nodes: its processes find each other at the first one's port, as vLLM's do.

Nothing but each one's number goes over the network. It shows a site whether srun, addresses and ports between its nodes
are as a model needs them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Share:
    """The `rank`th of `nodes` processes, which all meet at `port` of `address`."""

    nodes: int
    rank: int
    address: str
    port: int


async def gather(share: Share, lost: Callable[[int], None]) -> asyncio.Server:
    """As the first: wait for all others; `lost` is called with the number of one that goes away later.

    Raises OSError where the port is taken.
    """
    here: set[int] = set()
    whole = asyncio.Event()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = (await reader.readline()).strip()
            if not said.isdigit() or not 0 < int(said) < share.nodes or int(said) in here:
                return
            here.add(int(said))
            if len(here) == share.nodes - 1:
                whole.set()
            await reader.read()
            lost(int(said))
        finally:
            writer.close()

    listener = socket.create_server((share.address, share.port))
    server = await asyncio.start_server(met, sock=listener, limit=64)
    await whole.wait()
    return server


async def join(share: Share) -> None:
    """As another: find the first and stay; returns when that is gone."""
    reader, writer = await _reached(share)
    writer.write(f"{share.rank}\n".encode())
    await writer.drain()
    await reader.read()
    writer.close()


async def _reached(share: Share) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection(share.address, share.port)
        except ConnectionRefusedError:  # the first one is not there yet
            await asyncio.sleep(_AGAIN_S)

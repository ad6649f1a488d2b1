"""Bodies too long for memory of an exchange whose other end the gateway itself is: an upload, a file that is fetched.

A part of `Exchange` in a module of its own. Each side is read only as fast as the other takes it; when the client
leaves, the task that waits here is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from launcher.gateway.answers import Answer
from launcher.gateway.exchange import Exchange


async def pieces(exchange: Exchange) -> AsyncIterator[bytes]:
    """The body of `exchange` as it comes; what was given is not kept."""
    exchange.go_on()
    while not exchange.done:
        if exchange.incoming:
            data = exchange.incoming.take()
            exchange.client.update_reading()
            yield data
        elif exchange.incoming.complete:
            return
        else:
            await exchange.incoming.more()


async def reply_long(exchange: Exchange, answer: Answer, length: int, body: AsyncIterator[bytes]) -> None:
    """Answer with a `body` of `length` bytes; `answer` gives status and headers."""
    if exchange.done:
        return
    exchange.status, exchange._answered = answer.status, True
    keep = exchange._may_keep() and exchange.incoming.complete
    exchange._write(answer.head(keep, length))
    try:
        if not exchange.head_only:
            async for piece in body:
                exchange._write(piece)
                exchange.sent_bytes += len(piece)
                await _room(exchange)
    except Exception:
        # Without the promised length the client sees that it is not whole.
        exchange.broken = True
        exchange._finish(keep=False, abort=True)
        raise
    exchange._finish(keep)


async def _room(exchange: Exchange) -> None:
    while exchange.client.held and not exchange.done:
        exchange.room_wanted = asyncio.get_running_loop().create_future()
        await exchange.room_wanted

"""The port of this machine that leads to a session: it stays the same while what is behind it comes and goes.

Owns the listening socket on 127.0.0.1 and the bytes both ways; knows neither ssh nor sessions. While there is nowhere
to go, each request gets a 503 in OpenAI's shape, which clients try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeAlias

from launcher.errors import RequestError
from launcher.gateway.answers import error_body, json_answer

# Host and port, or the path of a Unix socket.
Target: TypeAlias = tuple[str, int] | str
LOOPBACK = "127.0.0.1"
_PIECE_BYTES, _HEAD_MAX_BYTES = 1 << 16, 1 << 16
_OPEN_S, _HEAD_S, _LAST_WORDS_S = 10.0, 10.0, 2.0
_RETRY_AFTER_S = 2


class Relay:
    """Listens on a port of 127.0.0.1 that the kernel chooses (or on `port`) until `close`, in a thread of its own.

    `on_trouble` is called, in that thread, when the target could not be reached. Raises RequestError for a `port` that
    is taken.
    """

    def __init__(self, port: int = 0, on_trouble: Callable[[], None] = lambda: None) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            listener.close()
            why = getattr(error, "strerror", None) or "a port is a number from 0 to 65535"
            raise RequestError(
                f"Port {port} of this machine cannot be used: {why}.", "Leave --port out: one is chosen."
            ) from error
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._on_trouble = on_trouble
        # Touched by the loop's own thread alone.
        self._target: Target | None = None
        self._message, self._over = "The session is not ready yet.", False
        self._passing: set[asyncio.Task[None]] = set()
        # One at a time of the other threads asks the loop, and none after its end.
        self._asking = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def lead(self, target: Target) -> None:
        """Pass connections on to `target`; those to an earlier one end."""
        self._run(lambda: self._turn(target))

    def hold(self, message: str, *, over: bool = False) -> None:
        """Answer 503 with `message` from now on; `over` tells clients not to try again. Connections end."""
        self._run(lambda: self._turn(None, message, over))

    def close(self) -> None:
        """End all connections and give the port back; can be called twice, and afterwards the others do nothing."""
        self._run(self._close)
        with self._asking:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with self._asking:
            if not self._loop.is_closed():
                asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def _turn(self, target: Target | None, message: str = "", over: bool = False) -> None:
        self._target, self._message, self._over = target, message, over
        await _ended(self._passing)

    async def _close(self) -> None:
        # What was accepted just now is begun first: asyncio fails where the server ends before (cpython #109564), and
        # where the task is cancelled before.
        self._loop.remove_reader(self._listener)
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await _ended(self._passing)
            await asyncio.sleep(0)
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):  # cancelled: the way behind it is gone
            _reset(writer)
        finally:
            self._passing.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target
        if target is None:
            await self._refuse(reader, writer, self._message, over=self._over)
            return
        try:
            # Not wait_for, which Python 3.11 lets swallow that the task is to end.
            async with asyncio.timeout(_OPEN_S):
                there, here = await (
                    asyncio.open_unix_connection(target)
                    if isinstance(target, str)
                    else asyncio.open_connection(*target)
                )
        except OSError:  # TimeoutError is one
            self._on_trouble()
            await self._refuse(reader, writer, "The way to the session is interrupted.", over=False)
            return
        heard = _Heard()
        try:
            await _both(_copy(reader, here), _copy(there, writer, heard))
        finally:
            here.transport.abort()
        if not heard.any:
            self._on_trouble()  # ssh closes what it could not connect at the other end

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: str, *, over: bool
    ) -> None:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEAD_MAX_BYTES:
            async with asyncio.timeout(_HEAD_S):
                piece = await reader.read(_PIECE_BYTES)
            if not piece:
                return
            head += piece
        code = "session_ended" if over else "not_connected"
        headers = {"X-Should-Retry": "false"} if over else {"Retry-After": str(_RETRY_AFTER_S)}
        answer = json_answer(503, error_body(message, "server_error", code), headers)
        writer.write(answer.head(keep_alive=False) + answer.body)
        writer.write_eof()
        # Closed with the rest of a question unread, the system would take the answer back.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                while await reader.read(_PIECE_BYTES):
                    pass


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a failure: it must not take half an answer for a whole one."""
    with contextlib.suppress(OSError):
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


class _Heard:
    """Whether anything came back."""

    any = False


async def _both(first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None]) -> None:
    """Run both to their end; what ends one ends the other."""
    tasks = [asyncio.ensure_future(one) for one in (first, second)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: _Heard | None = None
) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        if heard is not None:
            heard.any = True
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()

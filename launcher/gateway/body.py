"""The body of one request between its coming and its going on: what waits, and what may have to be sent again."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

PENDING_BYTES = 65536
KEPT_BYTES = 64 * 2**20
# Of all requests together: where more waits, long ones are not waited for until they are whole; where more has gone and
# is kept, long ones cannot be sent again.
_ALL_BYTES = 512 * 2**20
_KEY_BYTES = _ALL_BYTES // 4  # of the requests of one key: two of the longest questions


class Held:
    """How many bytes of bodies are in memory, of many requests: those that wait, and those that are kept."""

    __slots__ = ("__weakref__", "kept", "waiting")

    def __init__(self) -> None:
        self.waiting = self.kept = 0


HELD = Held()  # of all together
_BY_KEY: WeakValueDictionary[str, Held] = WeakValueDictionary()


class Body:
    """`pieces` are what came; `keep` keeps those that were taken too, up to so many bytes, until `settle`.

    `left_bytes` below zero: it is longer than allowed. `limit_bytes` is how much may wait before the client must pause.
    """

    limit_bytes = PENDING_BYTES
    read_bytes = waiting_bytes = 0
    _joined = 0  # so many of the pieces are no chunks any more
    _taken = False  # something has gone that was not kept
    _kept: list[bytes] | None = None
    _kept_bytes = _kept_max_bytes = 0
    _wanted: asyncio.Future[None] | None = None
    _mine = Held()  # of those that nobody's key has come with yet

    def __init__(self, complete: bool, max_bytes: int) -> None:
        self.complete = complete
        self.left_bytes = max_bytes
        self.pieces: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def count_for(self, key: str) -> None:
        """It came with the key of that name, which has its share of what may be in memory."""
        held = _BY_KEY.get(key)
        if held is None:
            held = _BY_KEY[key] = Held()
        self._mine.waiting -= self.waiting_bytes
        self._mine = held
        held.waiting += self.waiting_bytes

    def feed(self, data: bytes) -> None:
        """The next piece."""
        self.pieces.append(data)
        self.waiting_bytes += len(data)
        self.left_bytes -= len(data)
        self.read_bytes += len(data)
        self._count(len(data))

    def wake(self) -> None:
        """More has come, or its end: let go on who waits in `more`."""
        joined = min(self._joined, len(self.pieces))
        if len(self.pieces) > joined + 1:  # chunks of a few bytes would take many times as much memory
            self.pieces[joined:] = [b"".join(self.pieces[joined:])]
        self._joined = len(self.pieces)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def more(self) -> None:
        """Wait for the next piece or the end; to be called while it is not `complete`."""
        self._wanted = asyncio.get_running_loop().create_future()
        await self._wanted

    @property
    def crowded(self) -> bool:
        """Whether this is a long one, and too much of its key's or of all waits to wait for the rest of it."""
        return self.waiting_bytes > PENDING_BYTES and (
            HELD.waiting > _ALL_BYTES or self._mine.waiting > _KEY_BYTES
        )

    @property
    def waiting(self) -> bytes:
        """What has come and was not taken."""
        pieces = self.pieces
        if len(pieces) > 1:
            self.pieces = pieces = [b"".join(pieces)]
        return pieces[0] if pieces else b""

    @property
    def arrived(self) -> bytes | None:
        """The whole body where it is small and has come already."""
        small = self.complete and self.waiting_bytes <= PENDING_BYTES
        return self.waiting if small else None

    def replace(self, body: bytes) -> None:
        """Another body instead of the one that came whole."""
        self._count(len(body) - self.waiting_bytes)
        self.pieces, self.waiting_bytes = [body], len(body)

    def take(self) -> bytes:
        """What waits, which goes on now."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces, self.waiting_bytes = [], 0
        self._count(-len(data))
        if self._kept is None:
            self._taken = True
        elif data:
            self._kept.append(data)
            self._kept_bytes += len(data)
            self._count(0, len(data))
            crowded = HELD.kept > _ALL_BYTES or self._mine.kept > _KEY_BYTES
            if (crowded and self._kept_bytes > PENDING_BYTES) or self._kept_bytes > self._kept_max_bytes:
                self.settle()
        return data

    def drop(self) -> None:
        """Nobody wants the rest."""
        self._count(-self.waiting_bytes)
        self.pieces, self.waiting_bytes = [], 0
        self.settle()

    def keep(self, max_bytes: int) -> None:
        """From now on what is taken can be taken back, up to `max_bytes`."""
        if self._kept is None and not self._taken:
            self._kept, self._kept_max_bytes = [], max_bytes

    def settle(self) -> None:
        """Nothing is taken back any more."""
        self._kept, self._taken = None, True
        self._count(0, -self._kept_bytes)
        self._kept_bytes = 0

    @property
    def repeatable(self) -> bool:
        """Whether `rewind` would take back all that has gone."""
        return not self._taken

    def rewind(self) -> bool:
        """Take back what has gone, so that all of it waits again; False where it was not kept."""
        if self._kept:
            self.pieces = [*self._kept, *self.pieces]
            self.waiting_bytes += self._kept_bytes
            self._count(self._kept_bytes, -self._kept_bytes)
            self._kept, self._kept_bytes = [], 0
        return not self._taken

    def _count(self, waiting: int, kept: int = 0) -> None:
        for held in (HELD, self._mine):
            held.waiting += waiting
            held.kept += kept

"""Which line has which custom_id, in some twenty bytes a line: 64-bit hashes in arrays, never the ids themselves.

Equal hashes are no proof: wherever two meet, the ids are compared in the file, so that no id is ever taken for another.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Callable

_FIRST_SIZE = 1 << 12
_EMPTY = 0
_SMALL = "I"  # four bytes: no file has as many lines


class Ids:
    """The numbers of the lines by their ids; `text_at` reads the id of a line from the file."""

    def __init__(
        self, text_at: Callable[[int], str | None], digest: Callable[[str], int] | None = None
    ) -> None:
        self._text_at = text_at
        self._digest = digest or _keyed()
        self._hashes = array("Q")
        self._numbers = array(_SMALL)
        # An open table of places in the two arrays, counted from 1; at most two thirds of it are used.
        self._table = array(_SMALL, bytes(_FIRST_SIZE * array(_SMALL).itemsize))

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, text: str, number: int) -> int | None:
        """Note that line `number` has the id `text`; the number of an earlier line that has it, and keeps it."""
        digest = self._digest(text)
        slot, found = self._search(digest, text)
        if found is not None:
            return found
        self._hashes.append(digest)
        self._numbers.append(number)
        self._table[slot] = len(self._hashes)
        if 3 * len(self._hashes) > 2 * len(self._table):
            self._grow()
        return None

    def find(self, text: str) -> int | None:
        """The number of the line with the id `text`."""
        return self._search(self._digest(text), text)[1]

    def holds(self, text: str, number: int) -> bool:
        """Whether line `number` was noted with the id `text`, by its hash alone."""
        digest, mask = self._digest(text), len(self._table) - 1
        slot = digest & mask
        while (place := self._table[slot]) != _EMPTY:
            if self._numbers[place - 1] == number:
                return self._hashes[place - 1] == digest
            slot = (slot + 1) & mask
        return False

    def _search(self, digest: int, text: str) -> tuple[int, int | None]:
        mask = len(self._table) - 1
        slot = digest & mask
        while (place := self._table[slot]) != _EMPTY:
            if self._hashes[place - 1] == digest and self._text_at(self._numbers[place - 1]) == text:
                return slot, self._numbers[place - 1]
            slot = (slot + 1) & mask
        return slot, None

    def _grow(self) -> None:
        size = 2 * len(self._table)
        table, mask = array(_SMALL, bytes(size * array(_SMALL).itemsize)), size - 1
        for place, digest in enumerate(self._hashes, 1):
            slot = digest & mask
            while table[slot] != _EMPTY:
                slot = (slot + 1) & mask
            table[slot] = place
        self._table = table


def _keyed() -> Callable[[str], int]:
    # With a key of its own: nobody can make a file whose ids all meet.
    key = secrets.token_bytes(16)

    def digest(text: str) -> int:
        told = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        return int.from_bytes(told, "little")

    return digest

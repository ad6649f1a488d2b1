"""Requests that an engine had when it broke down: one that ends it each time it is asked must not be asked for ever.

Owns the count, in a file that outlives the runner, and what follows: whoever was there twice is asked in small
company, then alone; whoever was alone there twice is what ends it. Only gateways say that an engine has broken down: a
lost connection, a job that was ended and an engine that starts count for nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter, deque
from pathlib import Path

from launcher.errors import StorageError
from launcher.gateway.answers import ENGINE_LOST

HEADER = ENGINE_LOST.decode()
_COMPANY = {2: 16, 3: 1, 4: 1}  # how many may be asked at once with one of so many losses
_LAST = 5  # by then it was alone twice
_MOST = 3  # given up in a row, with no answer between them: that engine can answer nothing
_ANSWERED = "answered"


class Losses:
    """By custom_id, how often the engine was lost with that request in it; kept in `path`, one line for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[str] = Counter()
        self._given_up = 0
        try:
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._storage(error) from error
        for line in lines:
            self._count(line)

    @property
    def hopeless(self) -> bool:
        """Whether it seems to be the engine and no request."""
        return self._given_up >= _MOST

    def add(self, custom_id: str) -> bool:
        """The engine was lost once more with this request; whether that is to be given up. Raises StorageError."""
        name = _name(custom_id)
        self._write(name)
        self._count(name)
        return self._counts[name] >= _LAST

    def answered(self) -> None:
        """The engine has answered a request."""
        if self._given_up:
            self._write(_ANSWERED)
            self._count(_ANSWERED)

    def company(self, custom_id: str, usual: int) -> int:
        """How many requests may be asked at a time while this one is."""
        return _COMPANY.get(min(self._counts.get(_name(custom_id), 0), 4), usual) if self._counts else usual

    def _count(self, line: str) -> None:
        if line == _ANSWERED:
            self._given_up = 0
        else:
            self._counts[line] += 1
            self._given_up += self._counts[line] == _LAST

    def _write(self, line: str) -> None:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, f"{line}\n".encode())
            finally:
                os.close(file)
        except OSError as error:
            raise self._storage(error) from error

    def _storage(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path} cannot be kept: {error.strerror}.", "Free some space there.")


class Turns:
    """Lets requests through in the order they come, no more at a time than the most anxious of them takes."""

    def __init__(self) -> None:
        self._there: Counter[int] = Counter()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, company: int) -> None:
        """Wait until it is this one's turn, with so many at a time; `leave` must follow."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((company, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if (company, turn) in self._waiting:
                self._waiting.remove((company, turn))
            else:
                self.leave(company)
            raise

    def leave(self, company: int) -> None:
        """One that was let in is done."""
        self._there[company] -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            company, turn = self._waiting[0]
            least = min([company, *(kind for kind, count in self._there.items() if count)])
            if self._there.total() >= least:
                return
            self._waiting.popleft()
            self._there[company] += 1
            turn.set_result(None)


def _name(custom_id: str) -> str:
    return hashlib.sha256(custom_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]

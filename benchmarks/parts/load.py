"""The clients of the soak: what all of them saw, and how each lives; what it may do is in `deeds`.

Owns the count. Each deed ends in one of the `Ending`s; what the gateway must have counted for it follows from that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from benchmarks.parts.wire import Connection, CutError

# Clients leave with a key of their own: the gateway may have passed on tokens that who left has not read.
LEAVER = "leaver"


class Ending(StrEnum):
    """How a deed ended, as the client saw it."""

    WHOLE = "whole"
    REFUSED = "refused, as it should be"
    LEFT = "left by the client"
    BROKEN = "ended by an error"
    CUT = "cut before the end"
    OUTSIDE = "not for the engine"


@dataclass(frozen=True)
class Deed:
    """Something that a client may do, and how often it does it compared with others."""

    do: Callable[[Client], Awaitable[Ending]]
    weight: int
    leaves: bool = False


@dataclass
class Count:
    """What clients saw with one key; of `unread_tokens` they cannot tell whether the gateway has seen them."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unread_tokens: int = 0


@dataclass
class Ledger:
    """What all clients saw: the counts by key, the endings by deed, and what was wrong."""

    counts: dict[str, Count] = field(default_factory=dict)
    endings: Counter[tuple[str, Ending]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """The sum of one of the counters over the keys."""
        return sum(getattr(count, name) for count in self.counts.values())


class Weather:
    """Whether the engine is there; and whether it is calm, when clients may leave and WebSockets may be open.

    Around a kill it is not: whether the gateway hears first that a client left or that the engine died is chance, and
    so would be what it counts. With a moment between the two it is certain.
    """

    def __init__(self) -> None:
        self.calm = asyncio.Event()
        self.calm.set()
        self.engine_up = True
        self.kills = 0
        self.websockets = 0


class Client:
    """One client with the keys of `secrets`, its own being `name`, and a connection that it keeps for a while."""

    def __init__(
        self, port: int, name: str, secrets: Mapping[str, str], ledger: Ledger, weather: Weather, seed: int
    ) -> None:
        self.port, self.ledger, self.weather = port, ledger, weather
        self.random = random.Random(seed)
        self.key, self.count = secrets[name], ledger.counts.setdefault(name, Count())
        self._name, self._secrets = name, secrets
        self._kept: Connection | None = None

    async def connection(self) -> Connection:
        """The connection that is kept between deeds."""
        if self._kept is not None and self._kept.closing:
            await self.hang_up()
        if self._kept is None:
            self._kept = await Connection.open(self.port)
        return self._kept

    async def hang_up(self) -> None:
        """Close it."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await kept.close()

    async def live(self, deeds: Sequence[Deed], until: float, think_s: float) -> None:
        """Do things at random until the monotonic time `until`; each is brought to its end."""
        while time.monotonic() < until:
            (deed,) = self.random.choices(deeds, [deed.weight for deed in deeds])
            await self._do(deed)
            if self.random.random() < 0.1:
                await self.hang_up()
            await asyncio.sleep(self.random.expovariate(1 / think_s))
        await self.hang_up()

    async def _do(self, deed: Deed) -> None:
        key_name = LEAVER if deed.leaves else self._name
        self.key, self.count = self._secrets[key_name], self.ledger.counts.setdefault(key_name, Count())
        name, was_up, kills = deed.do.__name__, self.weather.engine_up, self.weather.kills
        why = ""
        try:
            async with asyncio.timeout(60):
                ending = await deed.do(self)
        except CutError as error:
            ending, why = Ending.CUT, str(error)
        except TimeoutError:
            ending, why = Ending.CUT, "no end within a minute"
            self.ledger.wrong.append(f"{name}: {why}")
        except Exception as error:  # an answer of another shape: the soak goes on, and says so at its end
            ending = Ending.BROKEN
            self.ledger.wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            await self.hang_up()
        self.ledger.endings[name, ending] += 1
        self.count.requests += ending is not Ending.OUTSIDE
        self.count.errors += ending in (Ending.REFUSED, Ending.BROKEN, Ending.CUT)
        if ending in (Ending.CUT, Ending.LEFT):
            await self.hang_up()
        if ending in (Ending.BROKEN, Ending.CUT) and was_up and kills == self.weather.kills:
            self.ledger.wrong.append(f"{name}: {ending} though the engine lived {why}")

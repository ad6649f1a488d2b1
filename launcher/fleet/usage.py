"""What was used at the endpoint: a line for each request that went to a model, and the sums of a month. No prompts."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, get_type_hints

from sqlalchemy import case, func, select, update

from launcher.errors import RequestError
from launcher.fleet import months, tables
from launcher.fleet.spool import Spool
from launcher.fleet.store import Store
from launcher.fleet.tables import keys, uses
from launcher.gateway.exchange import Exchange
from launcher.gateway.usage import BROKEN_OFF, CLIENT_LEFT

BY = ("key", "model", "owner", "cluster")
_STATUS_MAX = 999
_write = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each use
_COUNT_MAX = 2**40  # what an engine says is believed as far as a database can add it up
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_RECENT_S = 60.0


class Use(NamedTuple):
    """One request, as a row of its table; `at` is the Unix time of its end.

    `status` is the HTTP status; 499: the client left, 502: no answer, or it broke off. `first_byte_s` is None where no
    byte of an answer came.
    """

    id: str
    at: float
    key: str
    owner: str
    model: str
    cluster: str
    session: str
    path: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    audio_s: float
    first_byte_s: float | None
    seconds: float

    @classmethod
    def of(cls, exchange: Exchange) -> Self | None:
        """What `exchange`, which ends now, has used; None where it came to no session."""
        holder, call = exchange.holder, exchange.call
        if holder is None or call is None or not exchange.session:
            return None
        prompt, completion = exchange.tokens
        broken = exchange.broken and exchange.status < 400
        return cls(
            id=os.urandom(12).hex(),
            at=time.time(),
            key=holder.name,
            owner=holder.owner,
            model=exchange.model,
            cluster=exchange.cluster,
            session=exchange.session,
            path=call.route,
            status=BROKEN_OFF if broken else exchange.status,
            prompt_tokens=prompt,
            completion_tokens=completion,
            audio_s=round(exchange.audio_s, 3),
            first_byte_s=None if call.first_s is None else round(call.first_s, 4),
            seconds=round(time.monotonic() - exchange.begun, 4),
        )

    @property
    def line(self) -> bytes:
        """For the spool."""
        return _write(self).encode()

    @classmethod
    def parsed(cls, line: bytes) -> Self | None:
        """What `line` says, as far as a database takes it; None for one that was torn, or is not ours."""
        try:
            values = json.loads(line.decode())
            return cls(*[believed(value) for believed, value in zip(_BELIEVED, values, strict=True)])
        except (ValueError, TypeError, RecursionError, OverflowError):
            return None


def _text(value: object) -> str:
    """Without NUL and half characters."""
    if not isinstance(value, str):
        raise TypeError("it is no text")
    if value.isascii() and "\0" not in value:
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "")


def _count(value: object, most: int = _COUNT_MAX) -> int:
    if type(value) is not int:
        raise TypeError("it is no whole number")
    return max(-most, min(value, most))


def _status(value: object) -> int:
    return _count(value, _STATUS_MAX)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("it is no number")
    found = float(value)
    return found if math.isfinite(found) else 0.0


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


# What of a line is believed, by what a field is.
_OF_KIND: Mapping[object, Callable[[object], Any]] = {
    str: _text, int: _count, float: _number, float | None: _number_or_none
}  # fmt: skip
_BELIEVED: list[Callable[[object], Any]] = [
    _status if name == "status" else _OF_KIND[kind] for name, kind in get_type_hints(Use).items()
]


class Uses:
    """Writes down what is used: first into a file of `folder`, from there into the store.

    After `kept_s` seconds only the sums of its month are left of a use, and nothing of a key that has ended.
    """

    def __init__(self, store: Store, folder: Path, kept_s: float = math.inf) -> None:
        self._store, self._kept_s = store, kept_s
        self._spool = Spool(folder, self._take, self._prune)

    def on_end(self, exchange: Exchange) -> None:
        """Write down `exchange`; to be called before the last byte of its answer goes out."""
        if (use := Use.of(exchange)) is not None:
            self.add(use)

    def add(self, use: Use) -> None:
        """Write down `use`."""
        self._spool.add(use.line)

    @property
    def waiting_bytes(self) -> int:
        """How much is not in the store yet."""
        return self._spool.waiting_bytes

    def close(self) -> None:
        """Bring all into the store, as far as it takes it."""
        self._spool.close()

    def _prune(self) -> bool:
        return self._kept_s < math.inf and months.prune(self._store, time.time() - self._kept_s)

    def _take(self, lines: Sequence[bytes]) -> None:
        found = [use for line in lines if (use := Use.parsed(line)) is not None]
        if not found:
            return
        last: dict[str, float] = {}
        for use in found:
            last[use.key] = max(use.at, last.get(use.key, 0.0))
        with self._store.writing() as connection:
            # An id that is there was brought in before a kill.
            self._store.insert_new(connection, uses, found)
            for key, at in sorted(last.items()):
                later = keys.c.used_at.is_(None) | (keys.c.used_at < at)
                connection.execute(update(keys).where(keys.c.name == key, later).values(used_at=at))


@dataclass(frozen=True, slots=True)
class Sum:
    """The requests of one key, model, owner or cluster; `errors` had a status of 400 or more, but for 499.

    `seconds` and `first_byte_s` are means, None where nothing was answered.
    """

    name: str
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    audio_s: float
    first_byte_s: float | None
    seconds: float | None


def month(text: str | None) -> tuple[float, float]:
    """Begin and end, in Unix time, of a month such as 2026-11 on this machine's clock; None: of this one."""
    if text is None:
        now = time.localtime()
        year, number = now.tm_year, now.tm_mon
    else:
        found = _MONTH.fullmatch(text)
        year, number = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1970 <= year <= 9998 or not 1 <= number <= 12:
            raise RequestError(f'"{text[:40]}" is not a month.', "Write it as 2026-11.")
    ends = (year + number // 12, number % 12 + 1)
    return _begin(year, number), _begin(*ends)


def _begin(year: int, number: int) -> float:
    return time.mktime((year, number, 1, 0, 0, 0, 0, 0, -1))


def sums(store: Store, by: str, begin: float, end: float, owner: str | None = None) -> list[Sum]:
    """What was used from `begin` until before `end`, by `key`, `model`, `owner` or `cluster`; the most used first.

    With `owner` only by that one.
    """
    if by not in BY:
        raise RequestError(f'Usage is not counted by "{by[:40]}".', f"Choose one of: {', '.join(BY)}.")
    of, name = uses.c, uses.c[by]
    answered = of.status < 400
    failed = (of.status >= 400) & (of.status != CLIENT_LEFT)
    said_s, took_s = case((answered, of.first_byte_s)), case((answered, of.seconds))
    asked = (
        select(
            name.label("name"),
            func.count().label("requests"),
            func.sum(case((failed, 1), else_=0)).label("errors"),
            func.sum(of.prompt_tokens).label("prompt_tokens"),
            func.sum(of.completion_tokens).label("completion_tokens"),
            func.sum(of.audio_s).label("audio_s"),
            func.sum(said_s).label("first_byte_s"),
            func.count(said_s).label("first_bytes"),
            func.sum(took_s).label("seconds"),
            func.count(took_s).label("answered"),
        )
        .where(of.at >= begin, of.at < end)
        .group_by(name)
    )
    kept = months.kept(by, begin, end)
    if owner is not None:
        asked, kept = asked.where(of.owner == owner), kept.where(tables.months.c.owner == owner)
    added: dict[str, list[float]] = {}
    with store.reading() as connection:
        for row in (*connection.execute(asked), *connection.execute(kept)):
            # PostgreSQL adds whole numbers up to decimals, and nothing to NULL.
            mine = [float(row._mapping[name] or 0) for name in months.SUMS]
            added[row.name] = [
                a + b for a, b in zip(added.get(row.name, [0.0] * len(mine)), mine, strict=True)
            ]
    found = [_sum(name, **dict(zip(months.SUMS, values, strict=True))) for name, values in added.items()]
    return sorted(
        found, key=lambda one: (-one.prompt_tokens - one.completion_tokens, -one.requests, one.name)
    )


def recent(store: Store, now: float | None = None) -> dict[str, Sum]:
    """What was used in the last minute, by model."""
    end = time.time() if now is None else now
    return {one.name: one for one in sums(store, "model", end - _RECENT_S, end + _RECENT_S)}


def _sum(
    name: str,
    requests: float,
    errors: float,
    prompt_tokens: float,
    completion_tokens: float,
    audio_s: float,
    first_byte_s: float,
    first_bytes: float,
    seconds: float,
    answered: float,
) -> Sum:
    return Sum(
        name,
        int(requests),
        int(errors),
        int(prompt_tokens),
        int(completion_tokens),
        audio_s,
        first_byte_s / first_bytes if first_bytes else None,
        seconds / answered if answered else None,
    )

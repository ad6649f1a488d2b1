"""The sums of each month: what is left of uses that are too old to be kept one by one.

Owns how uses become sums, a bounded number at a time, each of them once whoever else does the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, select

from launcher.fleet.store import Store
from launcher.fleet.tables import keys, months, uses
from launcher.gateway.usage import CLIENT_LEFT

_PLACE = ("month", "key", "owner", "model", "cluster")
SUMS = (
    *("requests", "errors", "prompt_tokens", "completion_tokens", "audio_s"),
    *("first_byte_s", "first_bytes", "seconds", "answered"),
)
_AT_ONCE = 1000


def name_of(at: float) -> str:
    """The month of a Unix time, such as 2026-11, on this machine's clock."""
    return time.strftime("%Y-%m", time.localtime(max(0.0, at)))


def prune(store: Store, before: float, most: int = _AT_ONCE) -> bool:
    """Add up to `most` uses from before the Unix time `before` to their months, and forget them.

    Then also the keys that had ended by then. Returns whether there may be more. Blocks, in one short transaction.
    """
    with store.writing() as connection:
        # Another gateway that does the same takes others.
        asked = select(uses).where(uses.c.at < before).order_by(uses.c.at).limit(most)
        old = connection.execute(asked.with_for_update(skip_locked=True)).all()
        added: dict[tuple[str, ...], list[float]] = {}
        for use in old:
            of = (name_of(use.at), use.key, use.owner, use.model, use.cluster)
            sums = added.get(of, [0.0] * len(SUMS))
            added[of] = [a + b for a, b in zip(sums, _counted(use), strict=True)]
        for place, sums in sorted(added.items()):  # in one order, or two gateways could wait for each other
            row = dict(zip((*_PLACE, *SUMS), (*place, *sums), strict=True))
            new = store.insert(months).values(row)
            both = {name: months.c[name] + new.excluded[name] for name in SUMS}
            connection.execute(new.on_conflict_do_update(index_elements=list(_PLACE), set_=both))
        if old:
            connection.execute(uses.delete().where(uses.c.id.in_([use.id for use in old])))
        else:
            connection.execute(keys.delete().where(keys.c.expires_at < before))
    return bool(old)


def kept(by: str, begin: float, end: float) -> Any:
    """The query for what is kept of the whole months between two Unix times: the name, then `SUMS`."""
    first = name_of(begin)
    whole: ColumnElement[bool] = months.c.month >= first
    if time.localtime(begin)[2:6] != (1, 0, 0, 0):
        whole = months.c.month > first
    added = (func.sum(months.c[name]).label(name) for name in SUMS)
    asked = select(months.c[by].label("name"), *added).where(whole, months.c.month < name_of(end))
    return asked.group_by(months.c[by])


def _counted(use: Any) -> Sequence[float]:
    answered, said = use.status < 400, use.first_byte_s is not None
    return (
        1,
        not answered and use.status != CLIENT_LEFT,
        use.prompt_tokens,
        use.completion_tokens,
        use.audio_s,
        use.first_byte_s if answered and said else 0.0,
        answered and said,
        use.seconds if answered else 0.0,
        answered,
    )

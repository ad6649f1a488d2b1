"""The soak in its short form: many clients, the engine killed under them, and the gateway's count is the clients'."""

from __future__ import annotations

import pytest

from benchmarks.parts.load import Ending
from benchmarks.soak import quick, soak


@pytest.mark.timeout(240)
async def test_nothing_is_lost_or_left_over_and_every_counter_is_as_the_clients_saw_it() -> None:
    report = await soak(quick())
    assert report.ledger.wrong == []
    assert report.differences() == {}
    assert report.left_over() == {}
    # The load was one: the engine died under requests, clients left, keys were wrong, and most answers came whole.
    assert report.kills >= 1
    endings = {ending for _, ending in report.ledger.endings}
    assert {Ending.WHOLE, Ending.LEFT, Ending.BROKEN, Ending.REFUSED, Ending.OUTSIDE} <= endings

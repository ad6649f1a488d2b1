"""The other gateways on the same state: that this one lives, what each sends where, and what a dead one has left.

Owns this gateway's name and its heartbeat. All of it is a few small transactions, made in a thread by its caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from launcher.fleet.store import Running, Store, Traffic
from launcher.schedulers.local import alive, own_job_id

_LOG = logging.getLogger("launcher.fleet")
_PRESENT_S = 5.0
HOLD_S = 30.0  # a gateway that was not heard of for so long is taken to be dead
_NONE = Traffic("", "", 0, 0, 0.0)


def living(store: Store) -> list[Running]:
    """The gateways that live, the oldest first; one of this machine whose process is gone is not waited for."""
    here = own_job_id().rpartition(":")[0]
    return [one for one in store.gateways() if one.id.rpartition(":")[0] != here or alive(one.id)]


class Peers:
    """Tells the others what this gateway does, and knows what they do; every method but `of` blocks."""

    def __init__(self, store: Store, url: str) -> None:
        self.name = own_job_id()  # of this process: no later one is mistaken for it
        self.url = url
        self._store = store
        self._present_at = float("-inf")
        self._told: list[Traffic] = []
        self._others: dict[tuple[str, str], Traffic] = {}

    def of(self, model: str, replica: str = "") -> Traffic:
        """What all others send to the replica, or have waiting for the model."""
        return self._others.get((model, replica), _NONE)

    def meet(self) -> None:
        """Take over at once from gateways of this machine that are dead, as nobody waits for them to be missed."""
        there = {one.id for one in living(self._store)}
        self._present([one.id for one in self._store.gateways() if one.id not in there])

    def exchange(self, mine: Sequence[Traffic]) -> None:
        """Tell what this gateway sends where, hear what the others do, and from time to time say that it lives."""
        if time.monotonic() - self._present_at >= _PRESENT_S:
            self._present([])
        if mine != self._told:
            self._store.report(self.name, mine)
            self._told = list(mine)
        own = {(one.model, one.session): one for one in mine}
        self._others = {}
        for told in self._store.loads():
            key = (told.model, told.session)
            less = own.get(key, _NONE)
            others = (told.in_flight - less.in_flight, told.waiting - less.waiting)
            self._others[key] = Traffic(*key, *others, told.asked_at)

    def gone(self) -> None:
        """Let the others take over at once."""
        self._store.gone(self.name)

    def _present(self, dead: Sequence[str]) -> None:
        self._present_at = time.monotonic()
        self._store.present(self.name, self.url, HOLD_S)
        for row in self._store.take_over(self.name, HOLD_S, dead):
            _LOG.info("%s: session %s is looked after from here now", row.model, row.session)

"""The models that there are and how each one is: its state, a sentence, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from launcher.fleet import seen
from launcher.fleet.lanes import Lanes
from launcher.fleet.learnt import UNKNOWN_QUEUE_S, UNKNOWN_START_S, Learnt
from launcher.fleet.offers import engine_of
from launcher.fleet.replicas import Member, by_model
from launcher.fleet.scene import Offer
from launcher.fleet.seen import ModelSeen
from launcher.fleet.sight import Sighted
from launcher.sessions.status import PENDING
from launcher.settings.schema import Settings

_AWAY = "The endpoint's database does not answer: nothing is started until it does."
_READY = (seen.READY, "Ready.")


class Board:
    """The models by name; `trouble` is why the last start of an offer led to nothing, until one leads to something.

    `away` is True while the state does not answer.
    """

    def __init__(self, offers: Mapping[str, Offer], settings: Settings) -> None:
        self.trouble: dict[str, str] = {}
        self.away = False
        self._offers = offers
        self._engines = {name: engine_of(offer, settings) for name, offer in offers.items()}
        self._models: dict[str, ModelSeen] = {}
        self._names: dict[str, str] = {}  # further names of each

    def models(self) -> Sequence[ModelSeen]:
        """Every offer, then the models of other sessions."""
        return list(self._models.values())

    def model(self, name: str) -> ModelSeen | None:
        """The model of that name, or with it among its further names."""
        found = self._models.get(name)
        return found if found is not None else self._models.get(self._names.get(name, ""))

    def write(self, members: Sequence[Member], lanes: Lanes, learnt: Learnt) -> None:
        """Take in what is seen now."""
        models: dict[str, ModelSeen] = {}
        of_model = by_model(members)
        for name, offer in self._offers.items():
            mine = of_model.get(name, [])
            # For everybody: what its owner launched by hand answers no one else.
            ready = any(not lane.leaving and lane.open_to(own=False) for lane in lanes.of(name))
            trouble = _AWAY if self.away else self.trouble.get(name)
            models[name] = offered(offer, mine, ready, learnt, trouble, self._engines[name])
        for name, sessions in lanes.others.items():
            models[name] = other(name, sessions, leaving=all(lane.leaving for lane in lanes.of(name)))
        self._models = models
        self._names = {served: name for name, model in reversed(models.items()) for served in model.served}


def offered(
    offer: Offer, members: Sequence[Member], ready: bool, learnt: Learnt, trouble: str | None, engine: str
) -> ModelSeen:
    """An offer as it is now; `ready`: a request would be answered. `trouble` is why its last start led to nothing."""
    clusters = tuple(
        dict.fromkeys([m.row.cluster for m in members if m.row.cluster] + [w.cluster for w in offer.profiles])
    )
    plans = [m.sighted.session.plan for m in members if m.sighted is not None]
    names = {offer.model, *(plan.model.served_name for plan in plans)} - {offer.name}
    state, message, retry_s = seen.STARTABLE, trouble or "It is started when somebody asks for it.", None
    starting = [m for m in members if not m.leaving]
    if ready:
        state, message = _READY
    elif starting:
        state = seen.STARTING
        first = min(starting, key=lambda m: left_s(m, offer, learnt) or UNKNOWN_START_S)
        message = _said(first)
        retry_s = left_s(first, offer, learnt)
    elif members:
        state, message = seen.LEAVING, "Its session ends; the next request starts another."
    return ModelSeen(
        offer.name,
        state,
        message,
        retry_s,
        clusters,
        plans[0].engine if plans else engine,
        offer.groups,
        min((plan.created_at for plan in plans), default=0.0),
        frozenset(names),
        True,
    )


def other(name: str, sessions: Sequence[Sighted], *, leaving: bool = False) -> ModelSeen:
    """A model of the user's own sessions that nobody offers, or that nobody offers any more (`leaving`)."""
    plans = [one.session.plan for one in sessions]
    clusters = tuple(dict.fromkeys(plan.cluster.name for plan in plans))
    names = frozenset(plan.model.id for plan in plans) - {name}
    created = min(plan.created_at for plan in plans)
    state, message = (seen.LEAVING, "It is no longer offered; its session ends.") if leaving else _READY
    return ModelSeen(
        name, state, message, None, clusters, plans[0].engine, frozenset(), created, names, False
    )


def left_s(member: Member, offer: Offer, learnt: Learnt) -> float | None:
    """How long a start will still take if it goes like former ones; None where nothing is known."""
    now = time.time()
    lead = learnt.lead(offer.model, member.row.cluster, member.row.profile)
    status = member.sighted.status if member.sighted is not None else None
    start_s = None if lead.start_s == UNKNOWN_START_S else lead.start_s
    if status is not None and status.expected_s is not None:
        start_s = status.expected_s
    if start_s is None:
        return None
    if status is not None and status.state != PENDING and status.phases:
        return max(1.0, min(start_s, status.phases[0].started_at + start_s - now))
    queue_s = 0.0 if lead.queue_s == UNKNOWN_QUEUE_S else lead.queue_s
    return max(1.0, min(queue_s + start_s, member.row.claimed_at + queue_s + start_s - now))


def _said(member: Member) -> str:
    if member.sighted is None:
        return "Its job is being submitted."
    if member.sighted.trouble is not None:
        return member.sighted.trouble
    return member.sighted.status.message

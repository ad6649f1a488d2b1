"""The lanes to all sessions that answer, and the models they are lanes of: what the front asks at every request.

Owns the `Lane` objects: one for the whole life of a replica, so that its load and its measured speed stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from launcher.fleet.choice import Lane
from launcher.fleet.replicas import Member, answering
from launcher.fleet.scene import Offer
from launcher.fleet.sight import Sighted
from launcher.gateway.place import Place
from launcher.sessions.status import PENDING


class Lanes:
    """All lanes, by the name of their model; `others` are the models of sessions that no offer has, by name."""

    def __init__(self, offers: Mapping[str, Offer]) -> None:
        self._offers = offers
        self._lanes: dict[str, Lane] = {}  # by replica
        self._by_model: dict[str, list[Lane]] = {}
        self._missed: dict[str, float] = {}  # since when nobody answered there
        self.others: dict[str, list[Sighted]] = {}

    def of(self, model: str) -> list[Lane]:
        """Those to the model, the leaving ones too."""
        return self._by_model.get(model, [])

    def lane(self, replica: str) -> Lane | None:
        """The one to that replica, also while it does not answer."""
        return self._lanes.get(replica)

    def lost(self, lane: Lane) -> None:
        """Take the lane away until its session was looked at anew."""
        self._missed.setdefault(lane.replica, time.time())
        for lanes in self._by_model.values():
            if lane in lanes:
                lanes.remove(lane)

    def missed(self, model: str, members: Iterable[Member]) -> bool:
        """Whether a replica that should answer is being looked at, because it did not."""
        return any(m.id in self._missed and m.answering for m in members)

    def arrange(
        self, members: Sequence[Member], sighted: Iterable[Sighted], looked_at: Mapping[str, float]
    ) -> list[str]:
        """Take in what is seen; `looked_at` is when each cluster was looked at last.

        Returns the replicas whose job is gone, or waits to run again, while requests still run there.
        """
        gone: list[str] = []
        by_model: dict[str, list[Lane]] = {}
        others: dict[str, list[Sighted]] = {}
        kept: set[str] = set()
        replicas = {m.sighted.id: m for m in members if m.sighted is not None}
        for one in sighted:
            if one.session.plan.batch is not None:  # it ends with its batch run, whoever else may be asking
                continue
            member = replicas.get(one.id)
            name = member.id if member is not None else one.id
            if not answering(one):
                known = self._lanes.get(name)
                if (
                    known is not None
                    and known.in_flight
                    and (one.status.ended or one.status.state == PENDING)
                ):
                    gone.append(name)
                continue
            cluster = one.session.plan.cluster.name
            kept.add(name)
            if (since := self._missed.get(name)) is not None:
                if looked_at.get(cluster, 0.0) <= since:
                    continue
                del self._missed[name]
            if member is not None and member.row.model in self._offers:
                model = member.row.model
            else:
                model = self._offered(one) or one.served
                if model not in self._offers:
                    others.setdefault(model, []).append(one)
            lane = self._lane(name, one, cluster)
            lane.leaving = member is not None and member.leaving
            lane.private = member is None and model in self._offers
            by_model.setdefault(model, []).append(lane)
        for name in self._lanes.keys() - kept:
            if not self._lanes[name].in_flight:
                del self._lanes[name]
        for name in self._missed.keys() - kept:
            del self._missed[name]
        self._by_model, self.others = by_model, others
        return gone

    def _lane(self, name: str, one: Sighted, cluster: str) -> Lane:
        assert one.address is not None
        assert one.connection is not None
        place = Place(one.address, one.connection.key, one.connection.proves)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name, place, one.served, cluster)
        elif lane.place != place:  # the job ran again
            lane.place, lane.served = place, one.served
        return lane

    def _offered(self, one: Sighted) -> str | None:
        """The offer that a session of the user's own serves as well."""
        if one.served in self._offers:
            return one.served
        model = one.session.plan.model.id
        return next(
            (name for name, offer in self._offers.items() if offer.model in (model, one.served)), None
        )

"""What the rules of `launcher.fleet.scale` are told: the replicas and the requests, here and at other gateways."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from launcher.fleet.lanes import Lanes
from launcher.fleet.load import Load
from launcher.fleet.peers import Peers
from launcher.fleet.replicas import Member
from launcher.fleet.scene import ClusterSeen, Demand, Offer, Seen, Start
from launcher.fleet.store import Traffic


class Facts:
    """Counts the requests that wait, by model, and knows what is `launching`: starts by model and slot."""

    def __init__(self, offers: Mapping[str, Offer], lanes: Lanes, peers: Peers) -> None:
        self.launching: dict[tuple[str, int], Start] = {}
        self.loads = {name: Load(offer.idle_s) for name, offer in offers.items()}
        self._offers, self._lanes, self._peers = offers, lanes, peers
        self._held: dict[str, int] = dict.fromkeys(offers, 0)

    def hold(self, model: str, more: int) -> None:
        """So many more requests wait for the model."""
        self._held[model] += more
        self.loads[model].changed(time.time(), held=self._held[model])

    def seen(self, member: Member, offer: Offer, clusters: Sequence[ClusterSeen]) -> Seen:
        """The replica `member` of `offer` as it is seen now."""
        seen = self.seen_there(member)
        if not offer.minimum:
            # Whoever sends a batch to the session itself uses it no less. (What is kept ready is told
            # to stay awake, which looks like use.)
            seen = dataclasses.replace(seen, last_used_at=max(seen.last_used_at, member.used_at))
        if seen.cluster:
            return seen
        # A claim does not say yet where; the rules count no replica that may be out of reach.
        well = {cluster.name for cluster in clusters if cluster.healthy}
        where = next((w for w in offer.profiles if w.cluster in well), offer.profiles[0])
        mine = self.launching.get((member.row.model, member.row.slot))
        cluster, profile = (
            (mine.cluster, mine.profile) if mine is not None else (where.cluster, where.profile)
        )
        return dataclasses.replace(
            seen, cluster=cluster, profile=profile, replaces=mine.replaces if mine is not None else None
        )

    def seen_there(self, member: Member) -> Seen:
        """The same of one that nobody offers any more, or whose offer is not known."""
        lane = self._lanes.lane(member.id)
        others = self._peers.of(member.row.model, member.id)
        if lane is None:
            return member.seen(others.in_flight, others.asked_at)
        return member.seen(lane.in_flight + others.in_flight, max(lane.used_at, others.asked_at))

    def demand(self, offer: Offer, members: Sequence[Member], now: float) -> Demand:
        """What is asked of the offer's replicas `members`, here and at other gateways.

        What the user's own sessions carry of it asks for no replica.
        """
        load, replicas = self.loads[offer.name], {member.id for member in members}
        lanes = self._lanes.of(offer.name)
        others = [self._peers.of(offer.name, lane.replica) for lane in lanes]
        in_flight = 0
        for lane, told in zip(lanes, others, strict=True):
            carried = 0 if lane.replica in replicas else offer.in_flight_per_replica
            in_flight += max(0, lane.in_flight + told.in_flight - carried)
        waiting = self._peers.of(offer.name).waiting
        load.changed(now, in_flight=in_flight, held=self._held[offer.name] + waiting)
        used_at = max([0.0, *(lane.used_at for lane in lanes), *(told.asked_at for told in others)])
        if waiting or used_at:
            load.asked(now if waiting else min(used_at, now))
        return load.demand(now)

    def traffic(self) -> list[Traffic]:
        """What this gateway sends where, and what waits here."""
        found = [Traffic(name, "", 0, held, 0.0) for name, held in self._held.items() if held]
        lanes = [(model, lane) for model in self._offers for lane in self._lanes.of(model)]
        used = [(model, lane) for model, lane in lanes if lane.in_flight or lane.used_at]
        return found + [Traffic(m, lane.replica, lane.in_flight, 0, lane.used_at) for m, lane in used]

"""How many replicas a model has, where the next one starts and which one goes: decisions, and nothing that acts.

Owns the rules. `decide` is given all that is seen, with an explicit clock, and keeps nothing between two calls; the
endpoint carries out what it says, and so does the simulated week of `benchmarks/week.py`.

A replica that nears its time limit, or waits far longer than its queue ever let one wait, is *outlasted*: it no longer
counts for the future, so a successor is started, although it still serves (or still waits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from launcher.fleet.learnt import Lead, Learnt
from launcher.fleet.scene import (
    LEAVING,
    LOST,
    READY,
    STARTING,
    Action,
    ClusterSeen,
    Demand,
    Leave,
    Offer,
    Seen,
    Start,
    Stop,
    Where,
)

# A load is believed when it lasted so long: another replica takes minutes to come, and a burst is over before it does.
STEADY_S = 30.0
# What is over the need goes when it was over it for so long, or for the idle limit where that is shorter.
CALM_S = 600.0
# One replica less must leave the others this full at the most, or it would soon be started again.
_FULL = 0.75
# A successor should be ready, and what runs on the old one be answered, so long before the time limit.
_MARGIN_S, _MARGIN_SHARE = 300.0, 0.1
# A successor is not submitted before a replica served this many times what a start takes, or half its time.
_WORTH_STARTS = 4.0
_LATE_FACTOR, _LATE_LEAST_S = 1.5, 60.0


def calm_s(idle_s: float) -> float:
    """How long a replica must have been too many before it goes, for an offer with this idle limit (0: none)."""
    return min(CALM_S, idle_s) if idle_s > 0 else CALM_S


def margin_s(life_s: float) -> float:
    """How long before the end of a replica that lives `life_s` its successor should be ready."""
    return min(_MARGIN_S, _MARGIN_SHARE * life_s)


def last_call_s(life_s: float) -> float:
    """How long before its end a replica takes no more requests although it has no successor, so that none is cut."""
    return margin_s(life_s) / 5


def handover_s(lead: Lead, life_s: float) -> float:
    """How long before the end of a replica that lives `life_s` its successor is submitted.

    So long as nine in ten former starts took, and the margin. But where that is most of its life, a replica shall first
    have served four times what a start takes, or half its life: else jobs would only ever follow each other.
    """
    early = lead.total_s + margin_s(life_s)
    return min(early, max(life_s - _WORTH_STARTS * lead.start_s, life_s / 2))


def decide(
    offer: Offer,
    seen: Sequence[Seen],
    demand: Demand,
    learnt: Learnt,
    clusters: Sequence[ClusterSeen],
    now: float,
) -> list[Action]:
    """What to do for `offer` now: at most a few starts, and each replica at most once.

    Where nothing else has changed, what its own actions led to asks for no further one.
    """
    sights = {cluster.name: cluster for cluster in clusters}
    stops = _View(offer, seen, demand, learnt, sights, now).stops()
    # What is stopped leaves its place to another, so the rest is seen without it, as the next decision will.
    gone = {stop.replica for stop in stops}
    rest = _View(offer, [s for s in seen if s.id not in gone], demand, learnt, sights, now)
    return [*stops, *rest.starts(), *rest.leaves()]


def retired(seen: Sequence[Seen]) -> list[Action]:
    """What to do with replicas of a model that the settings no longer offer: they answer what they have, and end."""
    why = "the settings no longer offer it"
    found: list[Action] = [Leave(s.id, why) for s in seen if s.state in (READY, LOST)]
    empty = [s for s in seen if s.state == LEAVING and s.in_flight == 0]
    return [*found, *(Stop(s.id, why) for s in (*empty, *(s for s in seen if s.state == STARTING)))]


class _View:
    """All that one decision rests on, sorted once."""

    def __init__(
        self,
        offer: Offer,
        seen: Sequence[Seen],
        demand: Demand,
        learnt: Learnt,
        clusters: Mapping[str, ClusterSeen],
        now: float,
    ) -> None:
        self.offer, self.demand, self.learnt, self.clusters, self.now = offer, demand, learnt, clusters, now
        self.seen = sorted(seen, key=lambda s: s.id)
        self.starting = [s for s in self.seen if s.state == STARTING and self._reachable(s)]
        self.ready = [s for s in self.seen if s.state == READY and self._reachable(s)]
        # A job that is there and does not answer costs as much as one that does; one out of reach may be anything.
        lost = [s for s in self.seen if s.state == LOST and self._reachable(s)]
        self.successors = _successors((*self.starting, *self.ready))
        self.outlasted = [s for s in self.ready if self._ends_soon(s)]
        self.outlasted += [s for s in self.starting if self._late(s)]
        past = {*self.successors, *(s.id for s in self.outlasted)}
        self.lasting = [s for s in (*self.starting, *self.ready) if s.id not in past]
        self.counted = len(self.lasting) + sum(s.id not in past for s in lost)
        self.need = self._need()
        self.keep = self._keep()

    # ---- how many

    def _need(self) -> int:
        """How many there should be, whatever there is now."""
        load = self.demand.load
        each = max(1, self.offer.in_flight_per_replica)
        if self.ready:
            steady = load if self.demand.steady is None else min(load, self.demand.steady)
            wanted = math.ceil(steady / each)
            # What waited for the first replica falls on it all at once; it shall show what it can do.
            # (A moment to come is that of a clock that was set back since.)
            if any(0 <= self.now - s.ready_at < STEADY_S for s in self.ready if s.ready_at is not None):
                wanted = min(wanted, len(self.lasting))
        else:
            wanted = min(1, load)  # how fast one is shows when it is there, however many wait
        return self._within(wanted)

    def _keep(self) -> int:
        """How many of those that there are should stay: more than are needed, so that none is soon started again."""
        busiest = max(self.demand.load, self.demand.busiest or 0)
        wanted = math.ceil(busiest / (_FULL * max(1, self.offer.in_flight_per_replica)))
        if self._wanted_lately():
            wanted = max(wanted, 1)
        return max(self.need, self._within(wanted))

    def _within(self, wanted: int) -> int:
        return min(max(wanted, self.offer.minimum), self.offer.maximum)

    def _asked_at(self) -> float:
        # Before it was watched anybody may have asked.
        watched_from = self.demand.watched_from
        asked_at = max([self.demand.last_asked_at, watched_from, *(s.last_used_at for s in self.seen)])
        return min(asked_at, self.now)

    def _wanted_lately(self) -> bool:
        idle_s = self.offer.idle_s or math.inf
        # Who was told to come back shall find it: the idle time begins when a replica is ready, but not anew with a
        # successor, or an unused model would be handed on for ever.
        ready_at = [s.ready_at for s in self.ready if s.ready_at is not None and s.replaces is None]
        return self.demand.load > 0 or self.now - max([self._asked_at(), *ready_at]) < idle_s

    # ---- starts

    def starts(self) -> list[Action]:
        """Those that are missing: for the load, for the minimum, and for what does not last."""
        open_ends = [s for s in self.outlasted if s.id not in self.successors]
        goal = max(self.need, min(self.keep, len(self.lasting) + len(open_ends)))
        missing = min(goal - len(self.lasting), self.offer.maximum - self.counted)
        found: list[Action] = []
        free = {name: dict(cluster.free) for name, cluster in self.clusters.items()}
        for _ in range(missing):
            old = open_ends.pop(0) if open_ends else None
            where = self._where(free, old if old is not None and old.state == STARTING else None)
            if where is None and old is not None and old.state == STARTING:
                continue
            if where is None:
                break
            if where.profile in free[where.cluster]:
                free[where.cluster][where.profile] -= 1
            found.append(Start(where.profile, where.cluster, self._why(old), _succeeded(old)))
        return found

    def _why(self, old: Seen | None) -> str:
        if old is not None and old.state == STARTING:
            return f"{old.id} waits on {old.cluster} for longer than any did there"
        if old is not None:
            return f"{old.id} nears its time limit"
        if len(self.lasting) < self.offer.minimum:
            return f"at least {self.offer.minimum} shall be ready"
        count = f"{self.demand.load} request{'' if self.demand.load == 1 else 's'}"
        return f"{count} at once for {len(self.ready)} ready" if self.ready else f"{count} and none ready"

    def _where(self, free: Mapping[str, Mapping[str, int]], late: Seen | None = None) -> Where | None:
        """The first place with capacity; where none has any, the one whose queue was the shortest."""
        usable = [where for where in self.offer.profiles if self._usable(where)]
        for where in usable:
            if free[where.cluster].get(where.profile, 1) > 0 and not (late and _at(late, where)):
                return where
        return (
            None
            if late
            else min(usable, key=lambda w: self._lead(w.cluster, w.profile).total_s, default=None)
        )

    def _usable(self, where: Where) -> bool:
        cluster = self.clusters.get(where.cluster)
        return (
            cluster is not None
            and cluster.healthy
            and (cluster.refused_until or 0.0) <= self.now
            and not self.learnt.paused(self.offer.paused_as, where.cluster, where.profile, self.now)
        )

    # ---- what does not last

    def _reachable(self, replica: Seen) -> bool:
        cluster = self.clusters.get(replica.cluster)
        return cluster is not None and cluster.healthy

    def _lead(self, cluster: str, profile: str) -> Lead:
        return self.learnt.lead(self.offer.model, cluster, profile)

    def _life_s(self, replica: Seen) -> float:
        if replica.ends_at is None:
            return math.inf
        return max(0.0, replica.ends_at - (replica.ready_at or replica.submitted_at))

    def _left_s(self, replica: Seen) -> float:
        return math.inf if replica.ends_at is None else replica.ends_at - self.now

    def _ends_soon(self, replica: Seen) -> bool:
        """Whether its successor should be on the way: by the slowest place where that may start."""
        if replica.ends_at is None:
            return False
        places = [w for w in self.offer.profiles if self._usable(w)] or [
            Where(replica.profile, replica.cluster)
        ]
        early_s = max(handover_s(self._lead(w.cluster, w.profile), self._life_s(replica)) for w in places)
        return self._left_s(replica) <= early_s

    def _late(self, replica: Seen) -> bool:
        """Whether it waits in the queue far longer than expected, while another place would start one at once."""
        if replica.began_at is not None:
            return False
        lead = self._lead(replica.cluster, replica.profile)
        if self.now - replica.submitted_at <= max(_LATE_FACTOR * lead.queue_s, _LATE_LEAST_S):
            return False
        taken = {(s.cluster, s.profile) for s in self.starting}
        return any(
            self._usable(w)
            and self.clusters[w.cluster].free.get(w.profile, 0) > 0
            and (w.cluster, w.profile) not in taken
            for w in self.offer.profiles
        )

    # ---- ends

    def stops(self) -> list[Stop]:
        """Those that left and are empty, and those that start for nobody."""
        found = [
            Stop(s.id, "it has left and its last request is answered")
            for s in self.seen
            if s.state == LEAVING and s.in_flight == 0
        ]
        unwanted: dict[str, str] = {}
        for replica in self.starting:
            successor = self.successors.get(replica.id)
            if successor is not None and (successor.began_at is not None or successor.state == READY):
                unwanted[replica.id] = f"{successor.id} came first"
            elder = self._came_first(replica) if replica.began_at is None else None
            if elder is not None:
                unwanted[replica.id] = f"{elder} came first"
        pending = sorted((s for s in self.lasting if s.state == STARTING), key=lambda s: -s.submitted_at)
        over = self.counted - self.offer.maximum
        idle = len(self.lasting) - self.offer.minimum if not self.demand.load else 0
        for replica in pending:
            if over > 0:
                unwanted[replica.id] = f"at most {self.offer.maximum} are allowed"
            elif idle > 0 and self._nobody_waits(replica):
                unwanted[replica.id] = "nobody has asked for it any more"
            else:
                continue
            over, idle = over - 1, idle - 1
        return [*found, *(Stop(name, why) for name, why in unwanted.items())]

    def _came_first(self, stand_in: Seen) -> str | None:
        """The job that was thought stuck when `stand_in` was submitted, and has begun since."""
        for elder in (*self.starting, *self.ready):
            came_at = elder.ready_at or elder.began_at
            stuck = self.successors.get(elder.id) is stand_in
            if stuck and came_at is not None and came_at > stand_in.submitted_at:
                return elder.id
        return None

    def _nobody_waits(self, replica: Seen) -> bool:
        patience_s = (self.offer.idle_s or math.inf) + self._lead(replica.cluster, replica.profile).total_s
        return self.now - max(self._asked_at(), replica.submitted_at) > patience_s

    def leaves(self) -> list[Action]:
        """Those whose successor is ready, whose time is up, or that are too many; the next to end first."""
        why: dict[str, str] = {}
        for replica in self.ready:
            successor = self.successors.get(replica.id)
            if successor is not None and successor.state == READY:
                why[replica.id] = f"{successor.id} has taken over"
            elif self._left_s(replica) <= last_call_s(self._life_s(replica)):
                why[replica.id] = "its time limit is near"
        staying = [s for s in self.ready if s.id not in why]
        excess = len([s for s in staying if s.id not in self.successors]) - self.keep
        too_many = self.counted - self.offer.maximum
        for replica in sorted(staying, key=_next_to_go):
            if replica.id in self.successors:
                continue  # it goes when its successor is ready
            if excess <= 0:
                break
            known_from = max(replica.ready_at or self.now, self.demand.watched_from)
            young = self.now - known_from < calm_s(self.offer.idle_s)
            if not young or too_many > 0:
                why[replica.id] = self._why_leave()
                excess, too_many = excess - 1, too_many - 1
        return [Leave(name, reason) for name, reason in why.items()]

    def _why_leave(self) -> str:
        if not self._wanted_lately():
            return "nobody has asked for it any more"
        return f"{self.keep} {'is' if self.keep == 1 else 'are'} enough"


def _successors(living: Sequence[Seen]) -> dict[str, Seen]:
    """Who is to take over from each; of several for the same one, from the older ones too."""
    found: dict[str, Seen] = {}
    for replica in sorted(living, key=lambda s: (s.submitted_at, s.id)):
        if replica.replaces is not None:
            if (older := found.get(replica.replaces)) is not None:
                found[older.id] = replica
            found[replica.replaces] = replica
    return found


def _succeeded(old: Seen | None) -> str | None:
    """What a successor of `old` replaces: the stand-in of a stuck successor takes over from the same replica."""
    if old is None:
        return None
    return old.replaces if old.state == STARTING and old.replaces is not None else old.id


def _next_to_go(replica: Seen) -> tuple[float, int, str]:
    ends_at = math.inf if replica.ends_at is None else replica.ends_at
    return ends_at, replica.in_flight, replica.id


def _at(replica: Seen, where: Where) -> bool:
    return (replica.cluster, replica.profile) == (where.cluster, where.profile)

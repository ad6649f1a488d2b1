"""Clusters, replicas and people with an accelerated clock, around the very `decide` and `Load` that the endpoint uses.

Owns what happens; the rules are the launcher's. A cluster lets jobs begin while a place of a profile is free, which
comes and goes; a replica takes its time to answer, ends at its time limit, and may fail to start. People ask, wait for
the answer, think and ask again; who waits for longer than one's patience gives up.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.fleet.learnt import Learnt
from launcher.fleet.load import Load
from launcher.fleet.scale import decide
from launcher.fleet.scene import (
    LEAVING,
    LOST,
    READY,
    STARTING,
    Action,
    ClusterSeen,
    Leave,
    Offer,
    Seen,
    Start,
    Stop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """The GPUs of a replica, for how long it runs, and when a place for it is free: (from, to), in order."""

    gpus: int
    life_s: float
    free: tuple[tuple[float, float], ...] = ((0.0, math.inf),)
    waits_s: float | None = None  # each job waits exactly so long, whatever is free

    def begins_at(self, now: float, chance: random.Random) -> float:
        """When a job submitted now begins."""
        if self.waits_s is not None:
            return now + self.waits_s
        at = bisect.bisect_right(self.free, (now, math.inf)) - 1
        if at >= 0 and now < self.free[at][1]:
            return now + chance.uniform(5, 40)
        return self.free[at + 1][0] + chance.uniform(5, 120) if at + 1 < len(self.free) else math.inf

    def is_free(self, now: float) -> bool:
        at = bisect.bisect_right(self.free, (now, math.inf)) - 1
        return at >= 0 and now < self.free[at][1]


@dataclass(frozen=True, slots=True)
class Model:
    """What is particular to one model: seconds to start, the share of starts that fail, seconds of an answer."""

    offer: Offer
    start_s: float
    fails: float = 0.01
    answer_s: float = 8.0
    start_varies: float = 0.15


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who asks `times` requests of a model, `at_once` in parallel, with a pause after each answer."""

    at: float
    model: str
    times: int
    at_once: int = 1
    think_s: float = 45.0


@dataclass(slots=True)
class Replica:
    """One job of the world."""

    id: str
    model: str
    start: Start
    gpus: int
    life_s: float
    submitted_at: float
    state: str = STARTING
    began_at: float | None = None
    ready_at: float | None = None
    ends_at: float | None = None
    over_at: float | None = None
    in_flight: int = 0
    last_used_at: float = 0.0
    answering_s: float = 0.0
    busy_since: float = 0.0
    in_use: set[int] = field(default_factory=set)

    def seen(self) -> Seen:
        return Seen(
            self.id, self.start.cluster, self.start.profile, self.state, self.submitted_at, self.ready_at,
            self.ends_at, self.in_flight, self.last_used_at, self.began_at, self.start.replaces,
        )  # fmt: skip


@dataclass(slots=True)
class Asked:
    """One request: `begun_at` None until a replica has it; `cold`: no replica was ready when it came."""

    number: int
    visit: Visit
    left: int
    at: float
    cold: bool
    begun_at: float | None = None


@dataclass
class Outcome:
    """What a world's time has led to; seconds, and `gpu_s` of all jobs from their begin to their end."""

    waits: list[float] = field(default_factory=list)
    cold_waits: list[float] = field(default_factory=list)
    talk_waits: list[float] = field(default_factory=list)  # of a person's first request; inf: gave up
    answered: int = 0
    gave_up: int = 0
    cut: int = 0
    starts: int = 0
    failed: int = 0
    handovers: int = 0
    replicas: list[Replica] = field(default_factory=list)
    now: float = 0.0

    def gpu_s(self) -> float:
        return sum(r.gpus * self._ran_s(r) for r in self.replicas)

    def starting_gpu_s(self) -> float:
        """Of which models were loading."""
        return sum(
            r.gpus * (self._until(r) if r.ready_at is None else r.ready_at) - r.gpus * r.began_at
            for r in self.replicas
            if r.began_at is not None
        )

    def answering_gpu_s(self) -> float:
        """Of which at least one request was being answered."""
        return sum(r.gpus * r.answering_s for r in self.replicas)

    def _until(self, replica: Replica) -> float:
        return self.now if replica.over_at is None else replica.over_at

    def _ran_s(self, replica: Replica) -> float:
        return 0.0 if replica.began_at is None else self._until(replica) - replica.began_at


Watch = Callable[[float, Offer, Sequence[Seen], Sequence[Action]], None]


class World:
    """Everything from time 0 on; `run` it up to an hour. `watch` is told each decision."""

    def __init__(
        self,
        models: Sequence[Model],
        clusters: Mapping[str, Mapping[str, Profile]],
        visits: Sequence[Visit],
        *,
        seed: int = 1,
        tick_s: float = 15.0,
        patience_s: float = 3600.0,
        watch: Watch | None = None,
        silent: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    ) -> None:
        self.models = {model.offer.name: model for model in models}
        self.clusters, self.chance, self.tick_s = clusters, random.Random(seed), tick_s
        self.patience_s, self.watch, self.silent = patience_s, watch, silent or {}
        self.learnt, self.outcome = Learnt(), Outcome()
        self.loads = {name: Load(model.offer.idle_s) for name, model in self.models.items()}
        self.living: dict[str, dict[str, Replica]] = {name: {} for name in self.models}
        self.waiting: dict[str, deque[Asked]] = {name: deque() for name in self.models}
        self.in_flight = dict.fromkeys(self.models, 0)
        self.now = 0.0
        self._numbers = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for visit in visits:
            self._at(visit.at, lambda visit=visit: self._come(visit))  # type: ignore[misc]
        self._at(0.0, self._tick)

    def run(self, until: float) -> Outcome:
        """Let it all happen up to `until`."""
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.now = self.outcome.now = until
        for replicas in self.living.values():
            for replica in replicas.values():
                if replica.in_flight:
                    replica.answering_s += until - replica.busy_since
                    replica.busy_since = until
        return self.outcome

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    # ---- people

    def _come(self, visit: Visit) -> None:
        each = max(1, visit.times // visit.at_once)
        for _ in range(min(visit.at_once, visit.times)):
            self._ask(visit, each)

    def _ask(self, visit: Visit, left: int) -> None:
        name = visit.model
        ready = any(r.state == READY for r in self.living[name].values())
        asked = Asked(next(self._numbers), visit, left, self.now, cold=not ready)
        self.loads[name].asked(self.now)
        if (replica := self._choose(name)) is not None:
            self._answer(replica, asked)
            return
        self.waiting[name].append(asked)
        self._changed(name)
        self._at(self.now + self.patience_s, lambda: self._give_up(asked))
        if not self.living[name]:
            self._decide(name)

    def _choose(self, name: str) -> Replica | None:
        most = 2 * self.models[name].offer.in_flight_per_replica
        free = [r for r in self.living[name].values() if r.state == READY and r.in_flight < most]
        return min(free, key=lambda r: r.in_flight, default=None)

    def _answer(self, replica: Replica, asked: Asked) -> None:
        name, model = asked.visit.model, self.models[asked.visit.model]
        asked.begun_at = self.now
        self.outcome.waits.append(self.now - asked.at)
        if asked.cold:
            self.outcome.cold_waits.append(self.now - asked.at)
        if asked.visit.at_once == 1 and asked.at == asked.visit.at:
            self.outcome.talk_waits.append(self.now - asked.at)
        if not replica.in_flight:
            replica.busy_since = self.now
        replica.in_flight += 1
        replica.last_used_at = self.now
        replica.in_use.add(asked.number)
        self.in_flight[name] += 1
        self._changed(name)
        # A full replica is slower for each: twice at what it is meant for.
        slower = 1 + replica.in_flight / model.offer.in_flight_per_replica
        takes_s = min(model.answer_s * self.chance.lognormvariate(0, 0.8) * slower, 240.0)
        self._at(self.now + takes_s, lambda: self._answered(replica, asked))

    def _answered(self, replica: Replica, asked: Asked) -> None:
        if asked.number not in replica.in_use:
            return  # it was cut
        self._let_go(replica, asked.number)
        self.outcome.answered += 1
        self._take_waiting(asked.visit.model)
        if asked.left > 1:
            pause_s = self.chance.expovariate(1 / asked.visit.think_s) if asked.visit.think_s else 0.0
            self._at(self.now + pause_s, lambda: self._ask(asked.visit, asked.left - 1))

    def _let_go(self, replica: Replica, number: int) -> None:
        replica.in_use.discard(number)
        replica.in_flight -= 1
        replica.last_used_at = self.now
        if not replica.in_flight:
            replica.answering_s += self.now - replica.busy_since
        self.in_flight[replica.model] -= 1
        self._changed(replica.model)

    def _take_waiting(self, name: str) -> None:
        waiting = self.waiting[name]
        while waiting and (replica := self._choose(name)) is not None:
            self._answer(replica, waiting.popleft())

    def _give_up(self, asked: Asked) -> None:
        if asked.begun_at is None:
            self.waiting[asked.visit.model].remove(asked)
            self.outcome.gave_up += 1
            if asked.visit.at_once == 1 and asked.at == asked.visit.at:
                self.outcome.talk_waits.append(math.inf)
            self._changed(asked.visit.model)

    def _changed(self, name: str) -> None:
        self.loads[name].changed(self.now, in_flight=self.in_flight[name], held=len(self.waiting[name]))

    # ---- jobs

    def _submit(self, name: str, start: Start) -> None:
        profile = self.clusters[start.cluster][start.profile]
        number = next(self._numbers)
        replica = Replica(f"r{number:08}", name, start, profile.gpus, profile.life_s, self.now)
        self.living[name][replica.id] = replica
        self.outcome.replicas.append(replica)
        self.outcome.starts += 1
        self.outcome.handovers += start.replaces is not None
        begins_at = profile.begins_at(self.now, self.chance)
        if begins_at < math.inf:
            self._at(begins_at, lambda: self._begin(replica))

    def _begin(self, replica: Replica) -> None:
        if replica.over_at is not None:
            return
        model = self.models[replica.model]
        replica.began_at, replica.ends_at = self.now, self.now + replica.life_s
        start_s = model.start_s * self.chance.lognormvariate(0, model.start_varies)
        if self.chance.random() < model.fails:
            self._at(self.now + start_s * self.chance.random(), lambda: self._fail(replica))
        else:
            self._at(self.now + start_s, lambda: self._ready(replica))
        self._at(replica.ends_at, lambda: self._over(replica))

    def _ready(self, replica: Replica) -> None:
        if replica.over_at is not None:
            return
        assert replica.began_at is not None
        replica.state, replica.ready_at = READY, self.now
        waited_s, start_s = replica.began_at - replica.submitted_at, self.now - replica.began_at
        where = replica.start
        self.learnt.started(
            self.models[replica.model].offer.model, where.cluster, where.profile, waited_s, start_s
        )
        self._take_waiting(replica.model)

    def _fail(self, replica: Replica) -> None:
        if replica.over_at is not None:
            return
        self.outcome.failed += 1
        where, model = replica.start, self.models[replica.model].offer.model
        self.learnt.failed(model, where.cluster, where.profile, self.now)
        self._over(replica)

    def _over(self, replica: Replica) -> None:
        if replica.over_at is not None:
            return
        replica.over_at = self.now
        del self.living[replica.model][replica.id]
        for number in list(replica.in_use):
            self.outcome.cut += 1
            self._let_go(replica, number)

    # ---- decisions

    def _tick(self) -> None:
        for name, model in self.models.items():
            if self.living[name] or self.waiting[name] or model.offer.minimum:
                self._decide(name)
        self._at(self.now + self.tick_s, self._tick)

    def _decide(self, name: str) -> None:
        offer, seen = self.models[name].offer, []
        sights = [self._sight(cluster) for cluster in self.clusters]
        healthy = {sight.name for sight in sights if sight.healthy}
        for replica in self.living[name].values():
            one = replica.seen()
            if one.cluster not in healthy:
                one = Seen(one.id, one.cluster, one.profile, LOST, one.submitted_at)
            seen.append(one)
        demand = self.loads[name].demand(self.now)
        actions = decide(offer, seen, demand, self.learnt, sights, self.now)
        if self.watch is not None:
            self.watch(self.now, offer, seen, actions)
        for action in actions:
            if isinstance(action, Start):
                self._submit(name, action)
            elif isinstance(action, Leave):
                self.living[name][action.replica].state = LEAVING
            else:
                assert isinstance(action, Stop)
                self._over(self.living[name][action.replica])

    def _sight(self, name: str) -> ClusterSeen:
        if any(begin <= self.now < end for begin, end in self.silent.get(name, ())):
            return ClusterSeen(name, healthy=False, reason="it does not answer")
        free = {key: 4 * profile.is_free(self.now) for key, profile in self.clusters[name].items()}
        return ClusterSeen(name, free=free)

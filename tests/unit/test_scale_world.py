"""Whatever the queues, the starts and the people: the rules keep to the settings, and no request is cut.

The world has an accelerated clock and random queues, lives, failures and visits; `decide`, `Load` and `Learnt` are the
endpoint's own.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.parts.world import Model, Profile, Visit, World
from launcher.fleet.learnt import Learnt
from launcher.fleet.scale import decide
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

HOUR, DAY = 3600.0, 86400.0
TICK_S = 30.0
PLACES = (Where("gpu", "here"), Where("big", "there"))
# A day takes a tenth of a second: to look for a simpler failure would take minutes.
quickly = settings(
    max_examples=10,
    derandomize=True,  # the suite must not fail by chance for what was so before
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate),
)


class Invariants:
    """What must hold at each decision; also remembers them."""

    def __init__(self) -> None:
        self.decisions: list[tuple[float, Sequence[Seen], Sequence[Action]]] = []

    def __call__(self, now: float, offer: Offer, seen: Sequence[Seen], actions: Sequence[Action]) -> None:
        self.decisions.append((now, seen, actions))
        known = {replica.id: replica for replica in seen}
        touched = [a.replica for a in actions if isinstance(a, Leave | Stop)]
        assert len(touched) == len(set(touched)), "one replica is told two things"
        for action in actions:
            if isinstance(action, Stop):
                replica = known[action.replica]
                assert replica.in_flight == 0, "somebody's answer would be cut"
                assert replica.state in (LEAVING, STARTING), "it may be given a request at this moment"
            elif isinstance(action, Leave):
                assert known[action.replica].state == READY
        staying = [(r.id, r.replaces) for r in seen if r.state in (STARTING, READY) and r.id not in touched]
        staying += [(f"new {number}", a.replaces) for number, a in enumerate(actions) if isinstance(a, Start)]
        lines = lines_of(staying)
        assert len(lines) <= offer.maximum, "more than the maximum"
        # One that ends, one stuck in each queue, and what came of it.
        assert max(map(len, lines), default=0) <= 1 + len(offer.profiles), "one line of jobs grows"
        if not any(r.state == READY for r in seen) and offer.minimum <= 1:
            assert sum(isinstance(a, Start) and a.replaces is None for a in actions) <= 1

    def ready(self) -> list[tuple[float, int]]:
        return [(now, sum(r.state == READY for r in seen)) for now, seen, _ in self.decisions]

    def after(self, since: float, kind: type[Action]) -> list[Action]:
        return [
            a for now, _, actions in self.decisions if now >= since for a in actions if isinstance(a, kind)
        ]


def lines_of(replicas: Sequence[tuple[str, str | None]]) -> list[list[str]]:
    """The replicas by what they replace in the end: each line counts as one."""
    line = {name: name for name, _ in replicas}
    for name, replaces in replicas:
        if replaces is not None:
            joined = line.setdefault(replaces, replaces)
            line = {other: joined if its == line[name] else its for other, its in line.items()}
    return [
        [name for name, _ in replicas if line[name] == one] for one in {line[name] for name, _ in replicas}
    ]


def windows(chance: random.Random, until: float) -> tuple[tuple[float, float], ...]:
    found, at = [], 0.0
    while at < until:
        length = chance.expovariate(1 / 2000)
        found.append((at, at + length))
        at += length + chance.expovariate(1 / 2000)
    return tuple(found)


def people(chance: random.Random, until: float, count: int) -> list[Visit]:
    return [
        Visit(
            chance.uniform(0, until),
            "chat",
            times=chance.randint(1, 200),
            at_once=chance.choice((1, 1, 1, 8, 40)),
            think_s=chance.choice((0.1, 30.0)),
        )
        for _ in range(count)
    ]


@quickly
@given(
    seed=st.integers(0, 2**32),
    minimum=st.integers(0, 2),
    more=st.integers(0, 3),
    idle_min=st.sampled_from((1, 10, 120)),
    life_h=st.sampled_from((1, 4, 24)),
    start_s=st.sampled_from((1, 90, 900)),
    fails=st.sampled_from((0.0, 0.3)),
    silent=st.booleans(),
)
def test_a_random_day_keeps_to_the_settings(
    seed: int, minimum: int, more: int, idle_min: int, life_h: float, start_s: int, fails: float, silent: bool
) -> None:
    """Never above the maximum, one start for any number of first requests, no request cut, nothing left at the end."""
    chance = random.Random(seed)
    maximum = max(1, minimum + more)
    offer = Offer("chat", "chat", PLACES, minimum, maximum, idle_min * 60.0, in_flight_per_replica=8)
    profiles = [Profile(1, life_h * HOUR, windows(chance, 3 * DAY)) for _ in PLACES]
    places = {
        where.cluster: {where.profile: profile} for where, profile in zip(PLACES, profiles, strict=True)
    }
    watch = Invariants()
    world = World(
        [Model(offer, start_s, fails, answer_s=0.3)],
        places,
        people(chance, DAY / 2, 25),
        seed=seed,
        tick_s=TICK_S,
        # While a cluster is silent its replicas are replaced, and come back when it does: more than the maximum.
        watch=None if silent else watch,
        silent={"here": [(4 * HOUR, 5 * HOUR), (8 * HOUR, 8.2 * HOUR)]} if silent else {},
    )
    outcome = world.run(DAY)
    asked = outcome.answered + outcome.gave_up + outcome.cut
    assert asked > 0
    assert outcome.cut == 0
    living = world.living["chat"].values()
    assert len(living) <= 2 * maximum
    if minimum == 0:
        assert not [r for r in living if r.state == READY and r.ready_at and r.ready_at < DAY / 2]
    assert outcome.starts < 24 * 3600 / TICK_S / 4, "one job after the other"


@quickly
@given(
    wait_s=st.floats(0, 4 * HOUR),
    start_s=st.floats(1, 2 * HOUR),
    share=st.floats(0.01, 0.46),
    minimum=st.integers(1, 3),
    varies=st.sampled_from((0.0, 0.02)),
)
def test_a_successor_is_ready_in_time_whatever_starts_take(
    wait_s: float, start_s: float, share: float, minimum: int, varies: float
) -> None:
    """From the first answer on there are always as many as the minimum, and no request waits, over six lives.

    As long as a start takes less than half of the time that a replica serves: before that none is replaced.
    """
    loading_s = start_s * (1 + 3 * varies)
    life_s = loading_s + (wait_s + loading_s + 4 * TICK_S) / share
    offer = Offer("chat", "chat", PLACES[:1], minimum, minimum + 1, 600.0, in_flight_per_replica=8)
    first = wait_s + loading_s + 2 * TICK_S
    end = first + 6 * life_s
    watch = Invariants()
    world = World(
        [Model(offer, start_s, fails=0.0, answer_s=min(5.0, life_s / 1000), start_varies=varies)],
        {"here": {"gpu": Profile(1, life_s, waits_s=wait_s)}},
        [Visit(first, "chat", times=10**6, think_s=end / 1000)],
        tick_s=max(min(3 * TICK_S, life_s / 200), life_s / 1000),
        watch=watch,
    )
    outcome = world.run(end)
    assert min(count for now, count in watch.ready() if now > first) >= minimum
    assert outcome.answered > 100
    assert outcome.cut == 0
    assert max(outcome.waits) < 1
    # Each successor costs what the old one had left: no more of them than lives, and half as many again.
    assert outcome.starts <= minimum * 6 / 0.5 + 2 * minimum


@quickly
@given(
    at_once=st.integers(1, 60),
    later=st.integers(1, 60),
    each=st.integers(1, 12),
    maximum=st.integers(1, 6),
    start_s=st.sampled_from((5.0, 300.0, 1500.0)),
)
def test_a_steady_load_has_a_steady_number_of_replicas(
    at_once: int, later: int, each: int, maximum: int, start_s: float
) -> None:
    """No flapping: after it has settled nothing starts or leaves, also when the load has changed once."""
    offer = Offer("chat", "chat", PLACES[:1], 0, maximum, 1800.0, in_flight_per_replica=each)
    change, end = 4 * HOUR, 8 * HOUR
    watch = Invariants()

    def constant(begin: float, count: int, length_s: float) -> Visit:
        # Each asks again at once, and the answers take about a minute: always `count` of them.
        return Visit(begin, "chat", times=count * int(length_s / 60), at_once=count, think_s=0.0)

    both = min(at_once, later)
    visits = [constant(0, both, 3 * end)]
    if at_once > both:
        visits.append(constant(0, at_once - both, change * 0.5))
    if later > both:
        visits.append(constant(change, later - both, 3 * end))
    world = World(
        [Model(offer, start_s, fails=0.0, answer_s=20.0)],
        {"here": {"gpu": Profile(1, 30 * DAY)}},
        visits,
        tick_s=TICK_S,
        watch=watch,
    )
    world.run(end)
    settle_s = 2 * start_s + 1800
    ready = dict(watch.ready())
    wanted = min(maximum, math.ceil(later / each))
    last = [count for now, count in ready.items() if now > end - HOUR / 2]
    assert len(set(last)) == 1
    assert last[0] >= wanted
    # What is left of a larger load counts, as it is remembered.
    busiest = world.loads["chat"].demand(end).busiest or 0
    assert last[0] <= min(maximum, max(1, math.ceil(busiest / each / 0.75)))
    if later >= at_once:
        assert busiest <= later
    if later >= at_once:  # otherwise the larger load ebbs away when it likes
        assert not watch.after(change + settle_s, Leave)
    assert not watch.after(change + settle_s, Start)


def test_an_unused_fleet_goes_home() -> None:
    """FIRST 4: idle for longer than the limit stops the job, and no successor comes for nobody."""
    offer = Offer("chat", "chat", PLACES, 0, 4, 1800.0, in_flight_per_replica=4)
    places = {where.cluster: {where.profile: Profile(1, 0.6 * HOUR)} for where in PLACES}
    world = World([Model(offer, 120.0)], places, [Visit(0, "chat", 600, 20, think_s=1.0)], tick_s=TICK_S)
    world.run(4 * HOUR)
    assert world.outcome.answered == 600
    assert not world.living["chat"]
    gone = max(replica.over_at or math.inf for replica in world.outcome.replicas)
    last = max(replica.last_used_at for replica in world.outcome.replicas)
    assert 1800 <= gone - last <= 1800 + 600 + 4 * TICK_S


# ---- what is seen may be anything

replicas = st.builds(
    Seen,
    id=st.sampled_from([f"r{number}" for number in range(8)]),
    cluster=st.sampled_from(("here", "there", "gone")),
    profile=st.sampled_from(("gpu", "big", "other")),
    state=st.sampled_from((STARTING, READY, LEAVING, LOST)),
    submitted_at=st.floats(0, 2e5),
    ready_at=st.none() | st.floats(0, 2e5),
    ends_at=st.none() | st.floats(0, 4e5),
    in_flight=st.integers(0, 100),
    last_used_at=st.floats(0, 2e5),
    began_at=st.none() | st.floats(0, 2e5),
    replaces=st.none() | st.sampled_from([f"r{number}" for number in range(8)]),
)
demands = st.builds(
    Demand,
    waiting=st.integers(0, 10_000),
    in_flight=st.integers(0, 10_000),
    last_asked_at=st.floats(0, 2e5),
    steady=st.none() | st.integers(0, 10_000),
    busiest=st.none() | st.integers(0, 10_000),
)
clusters = st.builds(
    ClusterSeen,
    name=st.sampled_from(("here", "there")),
    healthy=st.booleans(),
    refused_until=st.none() | st.floats(0, 4e5),
    free=st.dictionaries(st.sampled_from(("gpu", "big")), st.integers(0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(
    seen=st.lists(replicas, max_size=8, unique_by=lambda r: r.id),
    demand=demands,
    sights=st.lists(clusters, max_size=2, unique_by=lambda c: c.name),
    minimum=st.integers(0, 4),
    maximum=st.integers(0, 4),
    idle_s=st.sampled_from((0.0, 1.0, 1800.0)),
)
def test_whatever_is_seen_the_actions_are_sound_and_done_once(
    seen: list[Seen], demand: Demand, sights: list[ClusterSeen], minimum: int, maximum: int, idle_s: float
) -> None:
    """The same view after the actions asks for no further start, and every order of the replicas for the same."""
    now = 2e5
    offer = Offer("chat", "chat", PLACES, min(minimum, maximum), maximum, idle_s, in_flight_per_replica=8)
    actions = decide(offer, seen, demand, Learnt(), sights, now)
    assert decide(offer, seen[::-1], demand, Learnt(), sights[::-1], now) == actions
    known = {replica.id: replica for replica in seen}
    touched = [a.replica for a in actions if isinstance(a, Leave | Stop)]
    assert len(touched) == len(set(touched))
    healthy = {sight.name for sight in sights if sight.healthy}
    for action in actions:
        if isinstance(action, Start):
            assert Where(action.profile, action.cluster) in offer.profiles
            assert action.cluster in healthy
        elif isinstance(action, Stop):
            assert known[action.replica].state in (LEAVING, STARTING)
            assert known[action.replica].state == STARTING or known[action.replica].in_flight == 0
        else:
            assert known[action.replica].state == READY
    after = [r for r in seen if r.id not in {a.replica for a in actions if isinstance(a, Stop)}]
    left = {a.replica for a in actions if isinstance(a, Leave)}
    after = [dataclasses.replace(r, state=LEAVING) if r.id in left else r for r in after]
    made = [
        Seen(f"new{number}", a.cluster, a.profile, STARTING, now, replaces=a.replaces)
        for number, a in enumerate(a for a in actions if isinstance(a, Start))
    ]
    again = decide(offer, [*after, *made], demand, Learnt(), sights, now)
    assert not [a for a in again if isinstance(a, Start)], (actions, again)


def test_a_place_that_a_stop_frees_is_taken_at_once() -> None:
    """Two wait for one that is allowed: whichever stops, the decision after this one has nothing to add."""
    seen = [Seen("r1", "there", "big", STARTING, 0.0), Seen("r2", "there", "gpu", STARTING, 0.0)]
    sights = [ClusterSeen("there", healthy=True, free={"gpu": 0, "big": 1})]
    offer = Offer("chat", "chat", PLACES, 0, 1, 0.0, in_flight_per_replica=8)
    actions = decide(offer, seen, Demand(0, 0, 2e5), Learnt(), sights, 2e5)
    stopped = {a.replica for a in actions if isinstance(a, Stop)}
    started = [a for a in actions if isinstance(a, Start)]
    assert len(stopped) == 1
    made = [
        Seen(f"new{n}", a.cluster, a.profile, STARTING, 2e5, replaces=a.replaces)
        for n, a in enumerate(started)
    ]
    after = [replica for replica in seen if replica.id not in stopped] + made
    assert decide(offer, after, Demand(0, 0, 2e5), Learnt(), sights, 2e5) == []

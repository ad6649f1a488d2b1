"""How many replicas a model has: one start however many wait, enough for the load, one ready before another ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from launcher.fleet.learnt import Learnt
from launcher.fleet.scale import decide, handover_s, last_call_s, margin_s
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

NOW = 1_000_000.0
HOUR = 3600.0
HERE, THERE = Where("gpu", "here"), Where("big", "there")
OFFER = Offer("chat", "org/chat", (HERE, THERE), maximum=3, idle_s=1800.0, in_flight_per_replica=10)
BOTH = (ClusterSeen("here"), ClusterSeen("there"))


def starting(name: str, ago_s: float = 60.0, **given: object) -> Seen:
    return dataclasses.replace(Seen(name, "here", "gpu", STARTING, NOW - ago_s), **given)  # type: ignore[arg-type]


def ready(name: str, left_s: float | None = 20 * HOUR, ago_s: float = 4 * HOUR, **given: object) -> Seen:
    return dataclasses.replace(
        Seen(
            name,
            "here",
            "gpu",
            READY,
            NOW - ago_s - 120,
            ready_at=NOW - ago_s,
            began_at=NOW - ago_s - 100,
            ends_at=None if left_s is None else NOW + left_s,
            last_used_at=NOW - 10,
        ),
        **given,  # type: ignore[arg-type]
    )


def busy(count: int, *, waiting: int = 0, peak: int | None = None) -> Demand:
    return Demand(waiting, count, NOW, count + waiting, max(count + waiting, peak or 0))


NOBODY = Demand(0, 0, NOW - 10 * HOUR, 0, 0)


def decided(
    seen: Sequence[Seen],
    demand: Demand,
    *,
    offer: Offer = OFFER,
    learnt: Learnt | None = None,
    clusters: Sequence[ClusterSeen] = BOTH,
) -> list[Action]:
    return decide(offer, seen, demand, learnt or known(), clusters, NOW)


def known(queue_s: float = 60.0, start_s: float = 120.0) -> Learnt:
    """What is known after many starts that all took the same."""
    learnt = Learnt()
    for where in (HERE, THERE):
        for _ in range(40):
            learnt.started(OFFER.model, where.cluster, where.profile, queue_s, start_s)
    return learnt


def starts(actions: Sequence[Action]) -> list[tuple[str, str]]:
    assert all(isinstance(action, Start) for action in actions), actions
    return [(action.cluster, action.profile) for action in actions if isinstance(action, Start)]


# ---- cold


@pytest.mark.parametrize("waiting", [1, 50, 5000])
def test_any_number_of_first_requests_start_one_replica(waiting: int) -> None:
    """FIRST 3: fifty first requests start one job."""
    demand = Demand(waiting, 0, NOW, waiting, waiting)
    assert starts(decided([], demand)) == [("here", "gpu")]
    assert decided([starting("one")], demand) == []


def test_what_nobody_asks_for_is_not_started() -> None:
    assert decided([], NOBODY) == []
    assert decided([], Demand(0, 0, NOW - 5, 0, 0)) == [], "a stopped session would come back by itself"


def test_those_who_waited_for_the_first_start_no_second_at_once() -> None:
    just = ready("one", ago_s=5)
    assert decided([just], busy(25)) == []
    assert len(decided([ready("one", ago_s=60)], busy(25))) == 2


# ---- load


def test_each_load_has_its_replicas_up_to_the_maximum() -> None:
    """FIRST 5: queue depth raises replicas."""
    for load, missing in ((10, 0), (11, 1), (20, 1), (21, 2), (1000, 2)):
        assert len(decided([ready("one")], busy(load))) == missing, load


def test_a_burst_that_is_over_starts_nothing() -> None:
    assert decided([ready("one")], Demand(0, 80, NOW, steady=3, busiest=80)) == []


def test_what_is_already_on_the_way_is_not_started_again() -> None:
    assert decided([ready("one"), starting("two"), starting("three")], busy(100)) == []


def test_one_too_many_leaves_when_the_others_would_still_have_room() -> None:
    """FIRST 5: drained replicas leave."""
    two = [ready("one", left_s=9 * HOUR), ready("two", left_s=5 * HOUR)]
    assert decided(two, busy(8, peak=8)) == []
    assert decided(two, busy(2, peak=8)) == [], "the others were fuller than that a minute ago"
    assert decided(two, busy(2, peak=7)) == [Leave("two", "1 is enough")], "the one that ends first"


def test_a_replica_that_has_just_come_does_not_leave_at_once() -> None:
    two = [ready("one", ago_s=100), ready("two", ago_s=100)]
    assert decided(two, busy(1)) == []


@pytest.mark.parametrize("in_flight", [1, 30])
def test_a_leaving_replica_is_stopped_when_it_is_empty(in_flight: int) -> None:
    """FIRST 5: a drained replica leaves without failing a request."""
    leaving = ready("one", state=LEAVING, in_flight=in_flight)
    assert not [a for a in decided([leaving, ready("two")], busy(1)) if isinstance(a, Stop)]
    empty = dataclasses.replace(leaving, in_flight=0)
    assert [a.replica for a in decided([empty, ready("two")], busy(1)) if isinstance(a, Stop)] == ["one"]


# ---- idle


def test_an_unused_replica_goes_after_the_idle_limit_and_not_before() -> None:
    """FIRST 4: idle for longer than the limit stops the job."""
    used = ready("one", last_used_at=NOW - 1799)
    assert decided([used], Demand(0, 0, NOW - 1799, 0, 0)) == []
    unused = ready("one", last_used_at=NOW - 1801)
    assert decided([unused], Demand(0, 0, NOW - 1801, 0, 0)) == [
        Leave("one", "nobody has asked for it any more")
    ]


def test_a_running_stream_keeps_its_replica() -> None:
    """FIRST 4: a running stream keeps it alive."""
    streaming = ready("one", last_used_at=NOW - 2 * HOUR, in_flight=1)
    assert decided([streaming], Demand(0, 1, NOW - 2 * HOUR, 1, 1)) == []


def test_a_clock_that_was_set_back_holds_up_no_further_replica() -> None:
    ahead = ready("a", ago_s=-HOUR)
    assert starts(decided([ahead], busy(100))) == starts(decided([ready("a")], busy(100))) != []


def test_a_hot_model_is_kept_and_started_unasked() -> None:
    """FIRST 4: hot models are not stopped."""
    hot = dataclasses.replace(OFFER, minimum=2)
    assert starts(decided([], NOBODY, offer=hot)) == [("here", "gpu")] * 2
    old = [ready("one", last_used_at=0.0), ready("two", last_used_at=0.0), ready("three", last_used_at=0.0)]
    assert len(decided(old, NOBODY, offer=hot)) == 1
    assert decided(old[:2], NOBODY, offer=hot) == []


def test_an_idle_limit_of_zero_means_never() -> None:
    assert decided([ready("one", last_used_at=0.0)], NOBODY, offer=dataclasses.replace(OFFER, idle_s=0)) == []


def test_whoever_waited_long_finds_it_ready_for_the_idle_time() -> None:
    cold = ready("one", ago_s=600, last_used_at=0.0)
    assert decided([cold], Demand(0, 0, NOW - 3 * HOUR, 0, 0)) == []


def test_an_unused_model_is_not_handed_on_for_ever() -> None:
    successor = ready("two", ago_s=900, last_used_at=0.0, replaces="one")
    assert decided([successor], NOBODY) == [Leave("two", "nobody has asked for it any more")]


def test_a_start_that_nobody_waits_for_any_more_is_given_up() -> None:
    asked = Demand(0, 0, NOW - 1000, 0, 0)
    assert decided([starting("one", ago_s=1000)], asked) == []
    # Whoever asked last waits for it: the idle limit, and as long as it is expected to take.
    asked = Demand(0, 0, NOW - 1900, 0, 0)
    assert decided([starting("one", ago_s=1900)], asked, clusters=[ClusterSeen("here")]) == []
    long_ago = Demand(0, 0, NOW - 3000, 0, 0)
    assert decided([starting("one", ago_s=3000)], long_ago, clusters=[ClusterSeen("here")]) == [
        Stop("one", "nobody has asked for it any more")
    ]


def test_a_gateway_that_has_just_started_sends_nobody_home() -> None:
    """FIRST 4: what was used a minute ago is kept, also by a gateway that was started anew and did not see it."""
    old = [ready("one", last_used_at=0.0), ready("two", last_used_at=0.0)]
    fresh = Demand(0, 0, 0.0, 0, 0, watched_from=NOW - 5)
    assert decided(old, fresh) == []
    assert decided(old, dataclasses.replace(fresh, watched_from=NOW - 700)) == [Leave("one", "1 is enough")]
    assert len(decided(old, dataclasses.replace(fresh, watched_from=NOW - 1801))) == 2


# ---- handover


def test_a_successor_is_submitted_as_early_as_starts_have_taken() -> None:
    learnt = known(queue_s=1000, start_s=500)
    early = 1.025 * 1500 + 300
    assert decided([ready("one", left_s=early + 1)], busy(1), learnt=learnt) == []
    (start,) = decided([ready("one", left_s=early - 1)], busy(1), learnt=learnt)
    assert start == Start("gpu", "here", "one nears its time limit", replaces="one")


def test_the_old_one_serves_until_its_successor_answers() -> None:
    old = ready("one", left_s=600)
    assert decided([old, starting("two", replaces="one")], busy(5)) == []
    successor = ready("two", ago_s=1, replaces="one")
    assert decided([old, successor], busy(5)) == [Leave("one", "two has taken over")]


def test_a_started_handover_goes_on_when_starts_become_quicker() -> None:
    old = ready("one", left_s=2 * HOUR)
    pending = starting("two", replaces="one")
    assert decided([old, pending], busy(5), learnt=known(1, 1)) == []


def test_without_a_successor_it_serves_nearly_to_the_end() -> None:
    nowhere = [ClusterSeen("here", refused_until=NOW + 60), ClusterSeen("there", healthy=False)]
    assert decided([ready("one", left_s=100)], busy(5), clusters=nowhere) == []
    assert decided([ready("one", left_s=59)], busy(5), clusters=nowhere) == [
        Leave("one", "its time limit is near")
    ]


def test_an_idle_replica_gets_no_successor() -> None:
    old = ready("one", left_s=60, last_used_at=NOW - 2 * HOUR)
    assert [type(a) for a in decided([old], NOBODY)] == [Leave]


def test_a_successor_that_failed_is_followed_by_another() -> None:
    assert len(decided([ready("one", left_s=300)], busy(1))) == 1


def test_a_job_without_an_end_needs_no_successor() -> None:
    assert decided([ready("one", left_s=None)], busy(1)) == []


def test_jobs_do_not_only_follow_each_other_where_the_queue_is_longer_than_they_live() -> None:
    lead = known(queue_s=100 * HOUR, start_s=600).lead(OFFER.model, "here", "gpu")
    assert handover_s(lead, 4 * HOUR) == pytest.approx(4 * HOUR - 4 * 615)
    assert decided([ready("one", left_s=3.9 * HOUR, ago_s=0.1 * HOUR)], busy(1), learnt=known(1e5, 600)) == []


def test_the_margins_fit_into_a_short_life() -> None:
    for life_s in (1.0, 60.0, HOUR, 24 * HOUR):
        assert 0 < last_call_s(life_s) < margin_s(life_s) < life_s / 2


# ---- several clusters


def test_the_first_profile_that_has_room_is_taken() -> None:
    """FIRST 7: the first healthy cluster with capacity wins."""
    cold = Demand(1, 0, NOW, 0, 1)
    full, room = ClusterSeen("here", free={"gpu": 0}), ClusterSeen("there", free={"big": 2})
    assert starts(decided([], cold, clusters=[full, room])) == [("there", "big")]
    assert starts(decided([], cold, clusters=[ClusterSeen("here", free={"gpu": 1}), room])) == [
        ("here", "gpu")
    ]
    silent = ClusterSeen("here", healthy=False)
    assert starts(decided([], cold, clusters=[silent, room])) == [("there", "big")]
    refused = ClusterSeen("here", refused_until=NOW + 1)
    assert starts(decided([], cold, clusters=[refused, room])) == [("there", "big")]
    assert decided([], cold, clusters=[silent, ClusterSeen("there", healthy=False)]) == []


def test_where_nothing_is_free_the_shortest_queue_is_taken() -> None:
    learnt = known(queue_s=3000)
    for _ in range(40):
        learnt.started(OFFER.model, "there", "big", 100, 120)
    full = [ClusterSeen("here", free={"gpu": 0}), ClusterSeen("there", free={"big": 0})]
    assert starts(decided([], Demand(1, 0, NOW, 0, 1), clusters=full, learnt=learnt)) == [("there", "big")]


def test_several_starts_are_spread_over_what_is_free() -> None:
    hot = dataclasses.replace(OFFER, minimum=3)
    room = [ClusterSeen("here", free={"gpu": 1}), ClusterSeen("there", free={"big": 5})]
    assert starts(decided([], NOBODY, offer=hot, clusters=room)) == [
        ("here", "gpu"), ("there", "big"), ("there", "big")
    ]  # fmt: skip


def test_what_is_wrong_with_one_offer_holds_up_no_other_of_its_model() -> None:
    learnt, long = known(), dataclasses.replace(OFFER, name="long")
    learnt.failed("long", "here", "gpu", NOW)
    assert starts(decided([], busy(1), offer=long, learnt=learnt)) == [("there", "big")]
    assert starts(decided([], busy(1), learnt=learnt)) == [("here", "gpu")]


def test_a_failed_start_is_tried_elsewhere_and_there_again_after_a_pause() -> None:
    """FIRST 7: it falls back."""
    learnt, cold = known(), Demand(1, 0, NOW, 0, 1)
    learnt.failed(OFFER.model, "here", "gpu", NOW, answered=True)
    assert starts(decided([], cold, learnt=learnt)) == [("here", "gpu")], "it had answered: once more at once"
    learnt.failed(OFFER.model, "here", "gpu", NOW)
    assert starts(decided([], cold, learnt=learnt)) == [("there", "big")]
    learnt.failed(OFFER.model, "there", "big", NOW)
    assert decided([], cold, learnt=learnt) == []
    assert starts(decide(OFFER, [], cold, learnt, BOTH, NOW + 31)) == [("here", "gpu")]


def test_replicas_of_a_silent_cluster_are_replaced_elsewhere_and_none_is_over_when_it_is_back() -> None:
    silent = [ClusterSeen("here", healthy=False), ClusterSeen("there")]
    lost = ready("one", state=LOST)
    assert starts(decided([lost], busy(1, waiting=1), clusters=silent)) == [("there", "big")]
    other = ready("two", cluster="there", profile="big", ago_s=60, left_s=22 * HOUR)
    only = dataclasses.replace(OFFER, maximum=1)
    assert decided([lost, other], busy(1), offer=only, clusters=silent) == []
    back = ready("one")
    assert decided([back, other], busy(1), offer=only) == [Leave("one", "1 is enough")]


def test_a_job_that_does_not_answer_counts_for_the_maximum() -> None:
    only = dataclasses.replace(OFFER, maximum=1)
    assert decided([ready("one", state=LOST)], busy(0, waiting=5), offer=only) == []
    assert len(decided([ready("one", state=LOST)], busy(0, waiting=5))) == 1


def test_a_job_stuck_in_the_queue_gets_a_stand_in_where_there_is_room() -> None:
    room = [ClusterSeen("here", free={"gpu": 0}), ClusterSeen("there", free={"big": 1})]
    cold = Demand(1, 0, NOW, 1, 1)
    only = dataclasses.replace(OFFER, maximum=1)
    assert decided([starting("one", ago_s=80)], cold, offer=only, clusters=room) == []
    (start,) = decided([starting("one", ago_s=200)], cold, offer=only, clusters=room)
    assert isinstance(start, Start)
    assert (start.cluster, start.replaces) == ("there", "one")


def test_of_a_stuck_job_and_its_stand_in_the_one_that_begins_first_stays() -> None:
    only, cold = dataclasses.replace(OFFER, maximum=1), Demand(1, 0, NOW, 1, 1)
    stuck = starting("one", ago_s=900)
    stand_in = starting("two", ago_s=100, cluster="there", profile="big", replaces="one")
    assert decided([stuck, stand_in], cold, offer=only) == []
    begun = dataclasses.replace(stand_in, began_at=NOW - 1)
    assert decided([stuck, begun], cold, offer=only) == [Stop("one", "two came first")]
    moved = dataclasses.replace(stuck, began_at=NOW - 1)
    assert decided([moved, stand_in], cold, offer=only) == [Stop("two", "one came first")]


def test_the_stand_in_of_a_stuck_successor_takes_over_from_the_same_replica() -> None:
    only, room = dataclasses.replace(OFFER, maximum=1), [BOTH[0], ClusterSeen("there", free={"big": 1})]
    old, stuck = ready("one", left_s=600), starting("two", ago_s=200, replaces="one")
    (start,) = decided([old, stuck], busy(5), offer=only, clusters=room)
    assert isinstance(start, Start)
    assert (start.cluster, start.replaces) == ("there", "one")
    third = starting("three", ago_s=5, cluster="there", profile="big", replaces="one")
    assert decided([old, stuck, third], busy(5), offer=only, clusters=room) == []
    begun = dataclasses.replace(third, began_at=NOW - 1)
    assert decided([old, stuck, begun], busy(5), offer=only) == [Stop("two", "three came first")]
    assert decided([old, begun], busy(5), offer=only) == []
    last = ready("three", ago_s=1, replaces="one")
    assert decided([old, last], busy(5), offer=only) == [Leave("one", "three has taken over")]


def test_what_is_being_replaced_is_not_what_is_too_much() -> None:
    several = [ready("one", left_s=600), starting("two", replaces="one"), ready("three", left_s=5 * HOUR)]
    assert decided([*several, ready("four", left_s=9 * HOUR)], busy(2, peak=7)) == [
        Leave("three", "1 is enough")
    ]


# ---- settings that change


def test_a_lower_maximum_is_kept_at_once() -> None:
    none = dataclasses.replace(OFFER, maximum=0)
    two = [ready("one", ago_s=5), starting("two")]
    assert decided(two, busy(9), offer=none) == [
        Stop("two", "at most 0 are allowed"), Leave("one", "0 are enough")
    ]  # fmt: skip

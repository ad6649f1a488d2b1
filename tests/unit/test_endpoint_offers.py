"""What settings offer, as the rules read it; and what a row of the state and a session's status make of a replica."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.api.session import Session
from launcher.errors import LauncherError, SettingsError
from launcher.fleet.facts import Facts
from launcher.fleet.lanes import Lanes
from launcher.fleet.offers import offers_of, own_idle_minutes
from launcher.fleet.peers import Peers
from launcher.fleet.replicas import Member, found, joined
from launcher.fleet.scene import LEAVING, LOST, READY, STARTING, Offer, Where
from launcher.fleet.sight import Sighted
from launcher.fleet.store import Replica, Store
from launcher.planning import Request, make_plan
from launcher.sessions import registry
from launcher.sessions import status as of
from launcher.sessions.connection import Connection
from launcher.sessions.status import Idle, Phase, Status
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE
from tests.settings import without_site

NOW = 1_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """Settings of a site file with the given blocks."""

    def made(**blocks: Any) -> Settings:
        file = tmp_path / "site.yml"
        file.write_text(yaml.safe_dump(blocks))
        return load({**without_site(tmp_path), "LAUNCHER_SITE": str(file)})

    return made


# ---- offers


def test_an_offer_says_little_and_the_rest_is_the_sites(settings: Any) -> None:
    (offer,) = offers_of(settings(offers={"chat-1.5_b": {}})).values()
    assert (offer.name, offer.model, offer.minimum, offer.maximum) == ("chat-1.5_b", "chat-1.5_b", 0, 1)
    assert offer.profiles == (Where("local", "local"),)
    assert offer.idle_s == 3600


def test_an_offer_says_all_there_is(settings: Any) -> None:
    profiles = {"a": {"cluster": "one"}, "b": {"cluster": "two"}}
    chosen = settings(
        clusters={"one": {}, "two": {}},
        profiles=profiles,
        groups={"course": {"owners": ["bob"]}},
        offers={
            "chat": {
                "model": "org/chat", "profiles": ["b", "a"], "minimum": 1, "maximum": 3, "idle_minutes": 0.5,
                "hours": 2, "in_flight": 7, "groups": ["course"], "requests_per_minute": 60,
                "tokens_per_minute": 1000, "launch": {"max_model_len": 4096, "engine_args": ["--seed", "1"]},
            }
        },
    )  # fmt: skip
    assert offers_of(chosen) == {
        "chat": Offer(
            "chat", "org/chat", (Where("b", "two"), Where("a", "one")), 1, 3, 30.0, 2.0, 7,
            frozenset({"course"}), 1000, 60, {"max_model_len": 4096, "engine_args": ("--seed", "1")},
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("offer", "told"),
    [
        ({"minimum": 4, "maximum": 3}, "offers.chat.minimum must be at most the offer's maximum, 3"),
        ({"minimum": -1}, "offers.chat.minimum"),
        ({"maximum": 0}, "offers.chat.maximum"),
        ({"in_flight": 0}, "offers.chat.in_flight"),
        ({"idle_minutes": -5}, "offers.chat.idle_minutes"),
        ({"hours": 0}, "offers.chat.hours"),
        ({"profiles": ["locl"]}, "locl"),
        ({"groups": ["nobody"]}, "nobody"),
        ({"idel_minutes": 5}, "idel_minutes"),
        ({"launch": ["--seed"]}, "offers.chat.launch"),
    ],
)
def test_a_mistake_in_an_offer_is_told_with_its_place(settings: Any, offer: Any, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        offers_of(settings(offers={"chat": offer}))
    assert told in str(refused.value)
    assert "site.yml" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["profile", "name", "hours", "idle_minutes", "page", "model", "max_modle_len"]
)
def test_what_cannot_be_said_for_a_launch_is_refused(settings: Any, name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        offers_of(settings(offers={"chat": {"launch": {name: "x"}}}))
    assert f"offers.chat.launch.{name} cannot be said there" in str(refused.value)
    assert refused.value.hint
    if name == "max_modle_len":
        assert "max_model_len" in refused.value.hint


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_an_offer_are_refused_in_a_sentence_or_stay_text(settings: Any, text: str) -> None:
    for offers in (
        {text: {"model": "simulated"}},
        {"chat": {"model": text}},
        {"chat": {"profiles": [text]}},
        {"chat": {"groups": [text]}},
        {"chat": {"launch": {text: 1}}},
    ):
        try:
            made = offers_of(settings(offers=offers))
        except LauncherError:
            continue
        (offer,) = made.values()
        assert offer.name == text or (offer.name, offer.model) == ("chat", text or "chat")


def test_a_session_of_an_endpoint_outlasts_the_endpoints_own_idle_limit(settings: Any) -> None:
    chosen = settings(offers={"chat": {}, "brief": {"idle_minutes": 1}, "kept": {"idle_minutes": 0}})
    offers = offers_of(chosen)
    own = {name: own_idle_minutes(offer, chosen) for name, offer in offers.items()}
    assert own == {"chat": 120, "brief": 30, "kept": 0}


# ---- replicas


@pytest.fixture
def session(settings: Any) -> Session:
    plan = dataclasses.replace(make_plan(Request("simulated"), settings(), door="python"), created_at=NOW)
    paths = registry.make(Path(plan.places.sessions), plan.id)
    paths.plan.write_text(plan.to_json())
    return Session(paths)


def row(session: str | None, **given: Any) -> Replica:
    made = Replica("chat", 0, "here", NOW + 60, NOW, "PLANNED", "", session, "local", "gpu", None)
    return dataclasses.replace(made, **given)


def status(session: Session, state: str, **given: Any) -> Status:
    return dataclasses.replace(Status(session.id, state, NOW + 50, "It is so."), **given)


def sighted(session: Session, state: str, *, reached: bool = True, **given: Any) -> Sighted:
    place = ("127.0.0.1", 1234)
    connection = Connection(session.id, *place, "http://127.0.0.1:1234/v1", None, "chat", "key")
    return Sighted(
        session, status(session, state, **given), connection if reached else None, place if reached else None
    )


PHASES = (Phase("weights", NOW + 20, 25.0), Phase("probe", NOW + 45, 5.0))


@pytest.mark.parametrize(
    ("state", "given", "reached", "expected"),
    [
        (of.PENDING, {}, False, STARTING),
        (of.LAUNCHING, {}, False, STARTING),
        (of.READY, {}, True, READY),
        (of.READY, {}, False, LOST),
        (of.UNHEALTHY, {"reason": "no-answer"}, True, LOST),
        (of.UNHEALTHY, {"reason": "no-beat"}, True, READY),
        (of.UNHEALTHY, {"reason": of.ENGINE_RESTART}, True, LOST),
        (of.READY, {"reason": "ending"}, False, LOST),
    ],
)
def test_the_rules_see_each_state_of_a_session(
    session: Session, state: str, given: Any, reached: bool, expected: str
) -> None:
    member = Member(row(session.id), sighted(session, state, reached=reached, **given))
    assert member.seen(3, NOW + 60).state == expected
    leaving = dataclasses.replace(member, row=row(session.id, state="LEAVING"))
    assert leaving.seen(3, NOW + 60).state == LEAVING, "whatever its session says"


def test_a_row_and_its_session_tell_when_it_began_answered_and_ends(session: Session) -> None:
    ready = sighted(session, of.READY, phases=PHASES, ends_at=NOW + 9000)
    seen = Member(row(session.id, replaces="old"), ready).seen(2, NOW + 70)
    assert (seen.id, seen.cluster, seen.profile, seen.replaces) == (session.id, "local", "gpu", "old")
    assert (seen.submitted_at, seen.began_at, seen.ready_at, seen.ends_at) == (
        NOW, NOW + 20, NOW + 50, NOW + 9000
    )  # fmt: skip
    assert (seen.in_flight, seen.last_used_at) == (2, NOW + 70)


@pytest.mark.parametrize(("since", "used_at"), [(51.0, 0.0), (400.0, NOW + 400)])
def test_a_session_that_is_used_past_the_endpoint_says_so(
    session: Session, since: float, used_at: float
) -> None:
    idle = Idle(1800.0, NOW + since, NOW + since + 1800)
    assert Member(row(session.id), sighted(session, of.READY, phases=PHASES, idle=idle)).used_at == used_at


def test_what_the_users_own_session_carries_asks_for_no_replica(
    session: Session, settings: Any, tmp_path: Path
) -> None:
    offers = offers_of(settings(offers={"chat": {"in_flight": 4}}))
    lanes = Lanes(offers)
    with contextlib.closing(Store(f"sqlite:///{tmp_path}/state/endpoint.db")) as store:
        facts = Facts(offers, lanes, Peers(store, ""))
        mine = sighted(session, of.READY)
        lanes.arrange([], [mine], {})
        (lane,) = lanes.of("chat")
        assert not lane.open_to(own=False)
        lane.in_flight = 4
        assert facts.demand(offers["chat"], [], NOW).load == 0
        lane.in_flight = 6
        assert facts.demand(offers["chat"], [], NOW).load == 2
        members = [Member(row(session.id), mine)]
        assert facts.demand(offers["chat"], members, NOW).load == 6
        lanes.arrange(members, [mine], {})
        assert lane.open_to(own=False)


def test_a_session_of_a_batch_run_takes_no_other_requests(session: Session, settings: Any) -> None:
    plan = dataclasses.replace(session.plan, batch="/runs/one")
    session.paths.plan.write_text(plan.to_json())
    lanes = Lanes(offers_of(settings(offers={"chat": {}})))
    lanes.arrange([], [sighted(Session(session.paths), of.READY)], {})
    assert (lanes.of("chat"), lanes.others) == ([], {})


def test_a_job_that_waits_has_not_begun(session: Session) -> None:
    seen = Member(row(session.id), sighted(session, of.PENDING, reached=False)).seen(0, 0.0)
    assert (seen.began_at, seen.ready_at, seen.ends_at) == (None, None, None)


def test_a_claim_without_a_session_is_a_start(session: Session) -> None:
    (member,) = joined([row(None, slot=3)], {session.id: sighted(session, of.READY)})
    assert (member.id, member.seen(0, 0.0).state, member.ended) == ("chat+3", STARTING, None)


def test_each_row_finds_its_session_and_no_other(session: Session) -> None:
    whole = {session.id: sighted(session, of.READY)}
    assert found(session.id, whole) is whole[session.id]
    # A launcher far away makes the end of an id, after a hyphen.
    beginning = session.id.rpartition("-")[0]
    assert found(beginning, whole) is whole[session.id]
    assert found(beginning[:-1], whole) is None, "another one's name may begin so"
    assert found(None, whole) is None
    assert found("", whole) is None


@pytest.mark.parametrize(("final", "over"), [(True, True), (False, False)])
def test_what_may_run_again_is_not_over(session: Session, final: bool, over: bool) -> None:
    end = sighted(session, of.SHUTDOWN, reached=False, reason="preempted", final=final)
    assert (Member(row(session.id), end).ended is not None) == over

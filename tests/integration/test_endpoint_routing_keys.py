"""Whose key may ask what at an endpoint, and what it is told of the rest: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.fleet.seen import STARTABLE
from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from tests.programs.front import BEARER, chat
from tests.programs.replicas import Replica, RunningEndpoint, endpoint, pair

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Replica]]:
    """Two sessions that do not change during these tests."""
    with pair() as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[RunningEndpoint]:
    """An endpoint without any model."""
    with endpoint() as made:
        yield made


def test_what_a_key_may_not_use_is_not_there_for_it(fresh: RunningEndpoint, replicas: list[Replica]) -> None:
    """FIRST 13: a refused model gives 403 and is in no list."""
    fresh.fleet.add("secret", replicas[0].place)
    fresh.fleet.add("open", replicas[0].place)
    fresh.rules.forbidden.add("secret")
    refused = fresh.ask("POST", CHAT, body=chat(model="secret"))
    assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    for path in ("/v1/models", "/list-endpoints", "/status"):
        assert "secret" not in fresh.ask("GET", path).body.decode()
    assert fresh.ask("GET", "/v1/models/secret").status == 404
    fresh.rules.reached.add("open")
    limited = fresh.ask("POST", CHAT, body=chat(model="open"))
    assert (limited.status, limited.header("Retry-After")) == (429, "7")
    # What is wrong anyway costs nothing of a limit, and what is forbidden is not told apart.
    assert fresh.ask("POST", f"/nowhere/simulated{CHAT}", body=chat(model="open")).status == 404
    assert fresh.ask("POST", f"/nowhere/simulated{CHAT}", body=chat(model="secret")).status == 403


def test_a_further_name_is_that_of_a_model_which_the_key_may_use(
    fresh: RunningEndpoint, replicas: list[Replica]
) -> None:
    """FIRST 13: two offers of one model; nobody learns by its name that there is another one."""
    for name in ("secret", "open", "hidden"):
        alias = "org/two" if name == "hidden" else "org/one"
        fresh.fleet.add(name, replicas[0].place, aliases=frozenset((alias,)))
    fresh.rules.forbidden |= {"secret", "hidden"}
    assert fresh.ask("POST", CHAT, body=chat(model="org/one")).status == 200
    assert fresh.used[-1][0] == "open"
    refused = fresh.ask("POST", CHAT, body=chat(model="org/two"))
    assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert b"hidden" not in refused.body


def test_a_session_that_is_no_offer_is_its_owners_alone(replicas: list[Replica], tmp_path: Path) -> None:
    """FIRST 13: other people's keys see what is offered to them, in no list the rest, and cannot ask it."""
    _, secret = keys.new(SessionPaths(tmp_path), "colleague")
    with endpoint(further=SessionPaths(tmp_path).further_keys) as front:
        front.fleet.add("offered", replicas[0].place)
        front.fleet.add("private", replicas[0].place, offered=False, cluster="hidden")
        other = {"Authorization": f"Bearer {secret}"}
        for bearer, seen in ((BEARER, ["offered", "private"]), (other, ["offered"])):
            listed = front.ask("GET", "/v1/models", bearer, key=False).json()["data"]
            assert [one["id"] for one in listed] == seen
            jobs = [front.ask("GET", f"/{name}/jobs", bearer, key=False) for name in ("local", "hidden")]
            found = [one["Models"] for told in jobs if told.status == 200 for one in told.json()["running"]]
            assert found == seen
            answer = front.ask("POST", CHAT, bearer, chat(model="private"), key=False)
            assert answer.status == (200 if bearer is BEARER else 404)
            assert front.ask("GET", "/metrics", bearer, key=False).status == (
                200 if bearer is BEARER else 403
            )
            status = front.ask("GET", "/status", bearer, key=False).body
            assert (b"private" in status) is (bearer is BEARER)
        for path, body in (("jobs", None), ("simulated/v1/models", None), (f"simulated{CHAT}", "offered")):
            hidden, nowhere = (
                front.ask("POST", f"/{name}/{path}", other, chat(model=body), key=False)
                if body
                else front.ask("GET", f"/{name}/{path}", other, key=False)
                for name in ("hidden", "nowhere")
            )
            assert (hidden.status, hidden.body) == (404, nowhere.body.replace(b"nowhere", b"hidden"))


def test_what_its_owner_launched_by_hand_takes_nobody_elses_requests_for_an_offer(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """FIRST 13: also where it is the only one that answers; for others the model is as if it were not there."""
    _, secret = keys.new(SessionPaths(tmp_path), "colleague")
    with endpoint(further=SessionPaths(tmp_path).further_keys) as front:
        (lane,) = front.fleet.add("m", replicas[0].place, state=STARTABLE)
        lane.private = True
        own, other = BEARER, {"Authorization": f"Bearer {secret}"}
        for bearer, state, seen, status in ((own, "ready", ["m-1"], 200), (other, "startable", [], 503)):
            assert front.ask("GET", "/v1/models/m", bearer, key=False).json()["state"] == state
            (told,) = front.ask("GET", "/status", bearer, key=False).json()["models"]
            assert (told["state"], [one["id"] for one in told["replicas"]]) == (state, seen)
            answer = front.ask("POST", CHAT, bearer, chat(model="m"), key=False)
            assert answer.status == status
        front.fleet.starts = lambda model: [replicas[1].place]
        held = {**other, "X-Launcher-Hold": "30"}
        assert front.ask("POST", CHAT, held, chat(model="m"), key=False).status == 200
        for bearer in (own, other) * 10:
            assert front.ask("POST", CHAT, bearer, chat(model="m"), key=False).status == 200
        where = [session for model, session, status, _ in front.used if model and status == 200]
        assert where[:2] == ["m-1", "m-2"]
        assert where[3::2] == ["m-2"] * 10
        assert set(where[2::2]) == {"m-1", "m-2"}
        # When what the endpoint has started fails, others' requests go nowhere else either.
        front.fleet.known["m"].remove(front.fleet.known["m"][1])
        assert front.ask("POST", CHAT, other, chat(model="m"), key=False).status == 503
        assert front.ask("POST", CHAT, own, chat(model="m"), key=False).status == 200

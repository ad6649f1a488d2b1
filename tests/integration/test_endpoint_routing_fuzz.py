"""An endpoint between damaged requests and damaged replicas: each request has one answer, which is its own.

Bounded to some seconds together. Longer: `FUZZ_SECONDS=600 pytest tests/integration/test_endpoint_routing_fuzz.py`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.gateway.body import HELD
from launcher.gateway.place import Place
from tests.hostile import HOSTILE
from tests.integration.test_gateway_fuzz import ANSWERS, END, damaged, split
from tests.programs.front import KEY, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.replicas import REPLICA_KEY, RunningEndpoint
from tests.programs.wire import exchange, replies, request

SECONDS = float(os.environ.get("FUZZ_SECONDS", "6"))
pytestmark = pytest.mark.timeout(int(SECONDS) + 200)

CHAT, HEARD = "/v1/chat/completions", "/v1/audio/transcriptions"
FORM = b"Content-Type: multipart/form-data; boundary=XX\r\n"
bounded = settings(
    max_examples=round(SECONDS * 10),
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)


class Front:
    """An endpoint whose model `m` has other replicas for each example: what comes late is not the next one's."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = RunningEndpoint()
        self.endpoint.fleet.finds_well = True
        self.over_at = time.monotonic() + SECONDS / 3
        self._folder = folder
        self._made = 0
        self.used: list[Recorder] = []

    @property
    def over(self) -> bool:
        """Whether the time is up; what follows is then passed without being looked at."""
        return time.monotonic() > self.over_at

    def fresh(self, count: int = 1) -> list[Recorder]:
        """Replicas that have seen nothing; the first is asked first."""
        for one in self.used:
            one.close()
        self.endpoint.fleet.known["m"] = []
        self.used = []
        for number in range(count):
            self._made += 1
            # A damaged field may hold a key where nobody looks for one, so that it goes on.
            self.used.append(Recorder(self._folder, name=f"{self._made}.sock", secret=None))
            place = Place(self.used[-1].socket, REPLICA_KEY)
            (lane,) = self.endpoint.fleet.add("m", place, served="served", aliases=frozenset(("alias",)))
            lane.speed = 1000.0 / 100**number
        return self.used

    def calm(self) -> None:
        """Nothing is left running or in memory, nothing odd was passed on, and others are served."""
        lanes = self.endpoint.fleet.known["m"]
        wait_until(lambda: self.endpoint.usage.in_flight == 0 and not any(one.in_flight for one in lanes))
        wait_until(lambda: HELD.waiting == HELD.kept == 0)
        assert self.endpoint.ask("GET", "/v1/models").status == 200
        assert [fault for one in self.used for fault in one.faults] == []


@pytest.fixture
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="iod") as folder:
        front = Front(Path(folder))
        yield front
        front.endpoint.close()
        for one in front.used:
            one.close()


@dataclass(frozen=True)
class Ask:
    """One request that names its number in the target, and the status of its answer."""

    target: str
    status: int
    raw: bytes


NAMES = st.sampled_from(["m", "alias"]) | st.sampled_from(["M", "m ", "n" * 1500, *HOSTILE])


@st.composite
def questions(draw: st.DrawFn, number: int) -> Ask:
    """A request in JSON; its field may be twice there, or none, or no name."""
    target = f"{CHAT}?k{number}"
    fields: list[tuple[str, object]] = draw(
        st.lists(
            st.one_of(
                NAMES.map(lambda name: ("model", name)),
                st.tuples(
                    st.sampled_from(["messages", "Model", "stream", "stream_options", "x" * 90_000, "model"]),
                    st.sampled_from([None, 1, True, [], {"model": "n"}, "model", '"model":"n"}', "é" * 999]),
                ),
            ),
            max_size=4,
        )
    )
    text = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields)
    body = ("{" + text + "}").encode()
    name = dict(fields).get("model")
    status = 400 if not isinstance(name, str) or not name else 200 if name in ("m", "alias") else 404
    return Ask(target, status, request(target, method="POST", body=body))


@st.composite
def forms(draw: st.DrawFn, number: int) -> Ask:
    """A form with a recording; the model may come late, twice, or not at all."""
    target = f"{HEARD}?k{number}"
    sound = st.sampled_from([b"", b"x" * 70_000, b"\r\n--X" * 30, b"--XX", b'name="model"\r\n\r\nm\r\n'])
    fields = draw(
        st.lists(
            st.one_of(
                sound.map(lambda data: (b'name="file"; filename="model"', data)),
                NAMES.filter(lambda name: "\r" not in name and "\n" not in name).map(
                    lambda name: (b'name="model"', name.encode())
                ),
            ),
            min_size=1,
            max_size=3,
        )
    )
    parts = [
        b"--XX\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n"
        for head, data in fields
    ]
    named = [data for head, data in fields if head == b'name="model"']
    status = 400 if not named or len(named[0]) > 1024 else 200 if named[0] in (b"m", b"alias") else 404
    raw = request(target, method="POST", body=b"".join(parts) + b"--XX--\r\n", extra=FORM)
    return Ask(target, status, raw)


@st.composite
def conversations(draw: st.DrawFn) -> list[Ask]:
    return [
        draw(draw(st.sampled_from([questions, forms]))(number)) for number in range(draw(st.integers(1, 5)))
    ]


@given(data=st.data())
@bounded
def test_each_request_has_its_own_answer_however_it_names_its_model(
    front: Front, data: st.DataObject
) -> None:
    asked = data.draw(conversations())
    pieces = data.draw(split(b"".join(one.raw for one in asked) + END))
    if front.over:
        return
    (upstream,) = front.fresh()
    found = replies(exchange(front.endpoint.port, pieces, silence_s=20.0)[0])
    answered = asked[: len(found)]
    # After a form that was refused before its end the endpoint closes, but an answer is never left out.
    assert len(found) == len(asked) + 1 or answered[-1].status != 200
    for one, reply in zip(answered, found, strict=False):
        assert reply.whole
        assert reply.status == one.status, one.raw[:2000]
        if one.status == 200:
            assert reply.json()["target"] == one.target
        else:
            assert set(reply.json()["error"]) == {"message", "type", "code", "param"}
    assert [seen.target for seen in upstream.requests] == [
        one.target for one in answered if one.status == 200
    ]
    for seen in upstream.requests:  # what another program reads there is the replica's own name
        if seen.target.startswith(CHAT):
            assert json.loads(seen.body)["model"] == "served"
        else:
            assert b'name="model"\r\n\r\nserved\r\n--XX' in seen.body
    front.calm()


@given(data=st.data())
@bounded
def test_damaged_requests_let_nobody_in_and_keep_nobody_out(front: Front, data: st.DataObject) -> None:
    asked = data.draw(conversations())
    sent = data.draw(damaged(b"".join(one.raw for one in asked)))
    pieces = data.draw(split(sent + END))
    if front.over:
        return
    (upstream,) = front.fresh()
    found = replies(exchange(front.endpoint.port, pieces, silence_s=0.2)[0])
    assert {reply.status for reply in found} <= {200, 400, 401, 404, 405, 413, 417, 431, 501, 505}
    for seen in upstream.requests:
        start = sent.find(b" " + seen.target.encode())
        head = sent[start:].partition(b"\r\n\r\n")[0] if start >= 0 else b""
        assert KEY.encode() in head, f"{seen.target} got in"
    front.calm()


@given(data=st.data())
@bounded
def test_damaged_answers_are_one_answer_and_nobody_elses(front: Front, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(ANSWERS))
    pieces = data.draw(split(data.draw(damaged(whole)) + data.draw(st.sampled_from([b"", whole]))))
    keep, count = data.draw(st.booleans()), data.draw(st.integers(1, 3))
    if front.over:
        return
    speaking: list[Seen] = []

    def answer(seen: Seen) -> Iterator[bytes]:
        speaking.append(seen)
        try:
            yield from pieces if seen.target.endswith("?k") else echo(seen)
        finally:
            speaking.remove(seen)

    bad = front.fresh(count)[0]
    bad.answer, bad.keep = answer, keep
    body = json.dumps({"model": "m"}).encode()
    sent = request(f"{CHAT}?k", method="POST", body=body, extra=b"Connection: close\r\n")
    found = replies(exchange(front.endpoint.port, [sent], silence_s=0.3 if keep else 20.0)[0])
    assert len(found) <= 1
    assert found or keep  # a replica that says half a head and stays is waited for
    assert sum(seen.target.endswith("?k") for one in front.used for seen in one.requests) <= 4
    # The rest of the damage must lie there before the next request: what comes after it is, to anybody, its answer.
    wait_until(lambda: not speaking and (keep or bad.open == 0))
    for number in range(3):
        got = front.endpoint.ask("POST", f"{CHAT}?next{number}", body=body)
        assert (got.status, got.json()["target"]) == (200, f"{CHAT}?next{number}")
    front.calm()

"""Which replica a request gets, and what its path and body say of where it should go."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.batch.form import FormError
from launcher.fleet.choice import Lane, pick
from launcher.fleet.paths import Asked, asked
from launcher.fleet.question import ModelField, Question
from launcher.gateway.place import Place
from tests.hostile import HOSTILE


def lanes(*speeds: float | None) -> list[Lane]:
    return [
        Lane(str(number), Place(("n", number)), "tiny", speed=speed) for number, speed in enumerate(speeds)
    ]


def shares(
    speeds: list[float], *, clients: int, together: bool, requests: int = 3000, seed: int = 1
) -> list[float]:
    """The share of each of a few replicas that so many clients ask without a pause.

    `together`: the requests of a replica share its tokens a second; else each has them for itself.
    """
    dice = random.Random(seed)
    free, now, done = clients, 0.0, [0] * len(speeds)
    known = lanes(*[None] * len(speeds))
    running: list[list[tuple[float, float, float]]] = [[] for _ in speeds]  # left, tokens, begun
    while sum(done) < requests:
        for _ in range(free):
            lane = pick(known)
            assert lane is not None
            lane.in_flight += 1
            tokens = 1 + dice.expovariate(1 / 100)
            running[int(lane.replica)].append((tokens, tokens, now))
        rates = [
            speed / (len(on) or 1) if together else speed for speed, on in zip(speeds, running, strict=True)
        ]
        after, who = min(
            (left / rates[number], (number, at))
            for number, on in enumerate(running)
            for at, (left, _, _) in enumerate(on)
        )
        now += after
        running = [
            [(left - after * rate, tokens, begun) for left, tokens, begun in on]
            for rate, on in zip(rates, running, strict=True)
        ]
        _, tokens, begun = running[who[0]].pop(who[1])
        known[who[0]].in_flight -= 1
        known[who[0]].measured(tokens, now - begun)
        done[who[0]] += 1
        free = 1
    return [count / sum(done) for count in done]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("clients", [1, 2, 5, 24])
def test_the_share_of_requests_follows_the_measured_speed(clients: int, together: bool) -> None:
    """Replicas whose speeds are as 1:2:4 get requests as 1:2:4, within 15 %."""
    found = shares([50.0, 100.0, 200.0], clients=clients, together=together)
    for share, expected in zip(found, (1 / 7, 2 / 7, 4 / 7), strict=True):
        assert share == pytest.approx(expected, rel=0.15)


def test_a_replica_that_stalls_gets_hardly_more_than_what_it_has() -> None:
    one, two = lanes(100.0, 100.0)
    for _ in range(200):
        lane = pick([one, two])
        assert lane is not None
        lane.in_flight += lane is one  # the other answers at once
    assert one.in_flight < 20


def test_a_new_replica_gets_its_part_and_not_everything() -> None:
    old, new = lanes(100.0, 100.0)
    for _ in range(50):
        pick([old])
        pick([old, lanes(100.0)[0]])
    got = [pick([old, new]) for _ in range(40)]
    assert 15 <= got.count(new) <= 25


def test_one_that_was_slow_once_is_asked_again() -> None:
    slow, quick = lanes(0.001, 100.0)
    assert slow in [pick([slow, quick]) for _ in range(100)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.none() | st.floats(0.0, 1e6)), max_size=8))
def test_a_leaving_replica_gets_nothing(states: list[tuple[bool, int, float | None]]) -> None:
    known = lanes(*[speed for _, _, speed in states])
    for lane, (leaving, in_flight, _) in zip(known, states, strict=True):
        lane.leaving, lane.in_flight = leaving, in_flight
    found = pick(known)
    if all(lane.leaving for lane in known):
        assert found is None
    else:
        assert found is not None
        assert not found.leaving


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", Asked("/v1/chat/completions")),
        ("/v1/chat/completions/", Asked("/v1/chat/completions")),
        ("/rerank", Asked("/rerank")),
        ("/sophia/vllm/v1/completions", Asked("/v1/completions", "sophia", "vllm")),
        ("/resource_server/sophia/infinity/v1/embeddings", Asked("/v1/embeddings", "sophia", "vllm")),
        ("/two%20words/vllm/v1/models/a/b", Asked("/v1/models/a/b", "two words", "vllm", "models", "a/b")),
        ("/v1/models", Asked("/v1/models", listing="models")),
        ("/v1/models/org%2Fname", Asked("/v1/models/org%2Fname", listing="models", model="org/name")),
        ("/resource_server/list-endpoints", Asked("/list-endpoints", listing="endpoints")),
        ("/sophia/jobs", Asked("/sophia/jobs", "sophia", listing="jobs")),
        ("/whoami/", Asked("/whoami", listing="whoami")),
        ("/sleep", Asked("/sleep")),
        ("/v1/load_lora_adapter", Asked("/v1/load_lora_adapter")),
        ("/", Asked("/")),
    ],
)  # fmt: skip
def test_paths(path: str, expected: Asked) -> None:
    assert asked(path) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"no json", b"[]", b"{}", b'{"model": 5}', b'{"model": ""}', b'{"model": ["two"]}', b"null", b"\xff\xfe{",
        b"[" * 100_000, b'{"model": "a"', json.dumps({"model": "tiny"}).encode("utf-16"),
    ],
)  # fmt: skip
def test_a_body_without_a_model_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^The body .*\.$"):
        Question(body, streams=True)


@pytest.mark.parametrize("name", [text for text in HOSTILE if text])
def test_any_name_is_read_and_written(name: str) -> None:
    body = json.dumps({"model": name, "stream": True, "messages": ["model"]}).encode()
    question = Question(body, streams=True)
    assert question.model == name
    assert not question.usage_wanted
    sent = json.loads(question.written(body, "served " + name))
    assert sent == {
        "model": "served " + name,
        "stream": True,
        "messages": ["model"],
        "stream_options": {"include_usage": True},
    }


def test_a_body_that_needs_no_change_goes_on_byte_for_byte() -> None:
    for body in (
        b' {"model":"a" ,\n"x":1.0e+0}\n',
        b'{"model":"a","stream":true,"stream_options":{"include_usage":true}}',
    ):
        assert Question(body, streams=True).written(body, "a") is body


@pytest.mark.parametrize("said", ["no", "off", "yes", 1])
def test_a_stream_tells_its_usage_whatever_an_engine_takes_for_false(said: object) -> None:
    body = json.dumps({"model": "a", "stream": True, "stream_options": {"include_usage": said}}).encode()
    question = Question(body, streams=True)
    assert question.usage_wanted
    assert json.loads(question.written(body, "a"))["stream_options"] == {"include_usage": True}


def test_each_replica_gets_the_name_that_it_knows_and_nothing_of_the_last_one() -> None:
    body = b' {"model":"a" ,\n"x":1e400}\n'
    question = Question(body, streams=True)
    first = question.written(body, "b")
    second = question.written(first, "c")
    assert (json.loads(first)["model"], json.loads(second)["model"]) == ("b", "c")
    assert second.count(b"model") == 2
    assert question.written(second, "a") == body[:-1]


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"":0,'])
def test_a_body_of_nothing_but_values_is_not_parsed(piece: bytes) -> None:
    """A million and more of them would take a hundred times the memory, and hold up everybody."""
    inside = piece * (2**20 + 1) + (b'"a":1' if b":" in piece else b"1")
    body = b'{"model":"a",' + (inside if b":" in piece else b'"x":[' + inside + b"]") + b"}"
    with pytest.raises(ValueError, match="values"):
        Question(body, streams=False)
    assert (
        Question(b'{"model":"a","image":"' + b"," * 2**19 + b"x" * 2**20 + b'"}', streams=False).model == "a"
    )


def form(*fields: tuple[str, bytes]) -> bytes:
    """A form of these fields; a head begins with its parameters."""
    parts = [
        b"--XX\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value + b"\r\n"
        for head, value in fields
    ]
    return b"".join(parts) + b"--XX--\r\n"


KIND = "multipart/form-data; boundary=XX"
SOUND = ('name="file"; filename="model"\r\nContent-Type: audio/wav', b"\r\n--X\r\n\r\n--" * 400)


@pytest.mark.parametrize("size", [1, 2, 5, 61, 100_000])
@pytest.mark.parametrize(
    "fields",
    [
        [('name="model"', b"whisper"), SOUND],
        [SOUND, ('name="language"', b""), ("name=model", b"whisper")],
        [
            SOUND,
            SOUND,
            ('name="model"; x="y"\r\nContent-Type: text/plain', b"whisper"),
            ('name="model"', b"two"),
        ],
    ],
)
def test_the_model_of_a_form_is_found_wherever_it_stands(size: int, fields: list[tuple[str, bytes]]) -> None:
    body, field = form(*fields), ModelField(KIND)
    assert any(field.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert field.value == "whisper"
    assert body[field.start : field.end] == b"whisper"


@pytest.mark.parametrize(
    "body",
    [
        form(SOUND), form(('name="models"', b"x"), ('name="the model"', b"y")), b"--XX--\r\n", b"no form",
        form(('name="model"', b"x" * 5000)), b"--XX\r\n" + b"X-Head: y\r\n" * 5000,
        form(*[("name=x", b"")] * 1000, ("name=model", b"late")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_form_without_the_field_has_no_model(size: int, body: bytes) -> None:
    field = ModelField(KIND)
    with contextlib.suppress(FormError):
        assert not any(field.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert field.value is None


@given(st.lists(st.binary(max_size=200)))
def test_any_bytes_may_come_as_a_form(pieces: list[bytes]) -> None:
    field = ModelField(KIND)
    with contextlib.suppress(FormError):
        for piece in pieces:
            field.feed(piece)
    assert field.value is None or field.end - field.start <= 1024


@pytest.mark.parametrize("name", [b"", b"x" * 1024, "mödel".encode()])
def test_where_the_name_of_a_model_stands(name: bytes) -> None:
    body, field = form(SOUND, ("name=model", name), SOUND), ModelField(KIND)
    assert field.feed(body)
    assert (field.value, body[field.start : field.end]) == (name.decode(), name)

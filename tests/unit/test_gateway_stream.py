"""What is read in an answer that passes: token counts however it is cut, and the usage nobody asked for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.stream import Events, Tail, asking_for_usage

CHAT = {
    "prompt_tokens": 11,
    "total_tokens": 18,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 4},
}
STREAM = (
    'data: {"choices":[{"delta":{"content":"Hi"}}],"usage":null}\n\n'
    f'data: {{"choices":[],"usage":{json.dumps(CHAT)}}}\n\ndata: [DONE]\n\n'
)


def tokens(text: str, cut: int = 10**9) -> tuple[int, int]:
    tail, data = Tail(), text.encode()
    for start in range(0, len(data), cut):
        tail.feed(data[start : start + cut])
    return tail.tokens()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps({"choices": [], "usage": CHAT, "prompt_logprobs": None}), (11, 7)),
        (STREAM, (11, 7)),
        (json.dumps({"data": [[0.1] * 9000], "usage": {"prompt_tokens": 3, "total_tokens": 3}}), (3, 0)),
        (
            json.dumps({"type": "response.completed", "usage": {"input_tokens": 5, "output_tokens": 6}}),
            (5, 6),
        ),
        (json.dumps({"text": "hello", "usage": {"type": "duration", "seconds": 3}}), (0, 0)),
        (json.dumps({"choices": [{"text": '"usage": {"prompt_tokens": 99}'}]}), (0, 0)),
        (json.dumps({"usage": {"prompt_tokens": "many", "completion_tokens": -3}}), (0, 0)),
        (json.dumps({"usage": {"prompt_tokens": 10**400, "completion_tokens": True}}), (0, 0)),
        ('{"usage": {"prompt_tokens": 5, "completion_tokens": 1%s}}' % ("0" * 5000), (0, 0)),
        ('data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"usage":null}\n\n', (1, 1)),
        ("", (0, 0)),
        ('"usage": {"prompt_tokens": 1', (0, 0)),
    ],
)
def test_tokens_are_read_from_every_shape(text: str, expected: tuple[int, int]) -> None:
    assert tokens(text) == expected
    assert tokens(text, 7) == expected


@given(st.integers(1, 300), st.integers(0, 40000))
def test_tokens_are_read_however_the_stream_is_cut(cut: int, before: int) -> None:
    assert tokens("x" * before + STREAM, cut) == (11, 7)


def test_a_tail_stays_small() -> None:
    tail = Tail()
    for _ in range(1000):
        tail.feed(bytes(10000))
    assert len(tail._bytes) <= 2 * 8192


FIRST = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}\n\n'
DONE = b"data: [DONE]\n\n"


def passed(data: bytes, cut: int, *, wanted: bool = False) -> tuple[bytes, tuple[int, int]]:
    tail = Tail()
    events = Events(tail, usage_wanted=wanted)
    out = b"".join(events.feed(data[start : start + cut]) for start in range(0, len(data), cut))
    return out + events.rest(), tail.tokens()


@given(st.integers(1, 300))
def test_the_usage_nobody_asked_for_is_counted_and_left_out_however_it_is_cut(cut: int) -> None:
    assert passed(FIRST + USAGE + DONE, cut) == (FIRST + DONE, (11, 7))
    assert passed(FIRST + USAGE + DONE, cut, wanted=True) == (FIRST + USAGE + DONE, (11, 7))


@pytest.mark.parametrize(
    "kept",
    [
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\"choices\\": [], \\"usage\\": {}"}}]}\n\n',
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":3}}\n\n',
        b": a comment\n\n",
        b"data: one\r\n\r\ndata: two\r\n\r\n",
        b"data: cut off in the mid",
        b"x" * 200_000,
    ],
)
@pytest.mark.parametrize("cut", [3, 10**9])
def test_every_other_event_goes_on_byte_for_byte(kept: bytes, cut: int) -> None:
    assert passed(kept, cut)[0] == kept


def test_half_an_event_waits_for_its_end_but_not_in_memory_without_end() -> None:
    events = Events(Tail(), usage_wanted=False)
    assert events.feed(FIRST[:20]) == b""
    between = [events.between_events]
    assert events.feed(FIRST[20:]) == FIRST
    between.append(events.between_events)
    assert between == [False, True]
    assert events.count == 1
    assert len(events.feed(b"y" * 70_000)) == 70_000


@pytest.mark.parametrize(
    ("body", "asked", "wanted"),
    [
        ({"stream": True}, {"include_usage": True}, False),
        ({"stream": True, "stream_options": None}, {"include_usage": True}, False),
        (
            {"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": True}},
            {"include_usage": True, "continuous_usage_stats": True},
            False,
        ),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, True),
        # pydantic, and so vLLM, reads it as false.
        ({"stream": True, "stream_options": {"include_usage": "no"}}, {"include_usage": True}, True),
        ({"stream": False, "tools": [{"stream": True}]}, None, True),
        ({"messages": [{"content": '"stream": true'}]}, None, True),
        ({"tools": {"stream": True}}, None, True),
    ],
)
@pytest.mark.parametrize("compact", [True, False])
def test_every_stream_is_asked_for_its_usage(
    body: dict[str, object], asked: object, wanted: bool, compact: bool
) -> None:
    text = json.dumps(body, separators=(",", ":") if compact else None) + "\n"
    sent, own = asking_for_usage(text.encode())
    assert own is wanted
    assert json.loads(sent) == ({**body, "stream_options": asked} if asked else body)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b'{"stream": true',
        b'["stream": true]',
        b'"stream": true',
        b'{"stream": true, "stream_options": 5}',
        b"[" * 9000,
    ],
)
def test_a_broken_question_goes_on_as_it_is(broken: bytes) -> None:
    assert asking_for_usage(broken) == (broken, True)

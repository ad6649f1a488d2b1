"""Reading token counts from the end of answers, however they are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.usage import Tail

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

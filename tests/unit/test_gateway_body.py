"""The body of a request that may have to be sent again: what is held of it, and what of all together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway import body
from launcher.gateway.body import HELD, Body


def test_chunks_of_a_byte_take_no_more_memory_than_their_bytes() -> None:
    one = Body(False, 10**9)
    for _ in range(10):
        for _ in range(1000):
            one.feed(b"ab")
        one.wake()
    assert len(one.pieces) == 10
    assert one.waiting == b"ab" * 10_000
    one.drop()


def test_a_long_one_is_crowded_when_all_together_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_ALL_BYTES", 3 * 2**20)
    first, second, short = Body(False, 10**9), Body(False, 10**9), Body(False, 10**9)
    first.feed(b"x" * 2**21)
    assert not first.crowded
    second.feed(b"x" * 2**21)
    short.feed(b"x")
    assert (first.crowded, second.crowded, short.crowded) == (True, True, False)
    short.keep(2**20)
    short.take()
    assert short.rewind()
    second.keep(2**23)
    second.take()
    assert not first.crowded
    first.keep(2**23)
    first.take()
    assert second.rewind()
    assert not first.rewind()
    for one in (first, second, short):
        one.drop()
    assert HELD.waiting == HELD.kept == 0


@given(
    st.booleans(),
    st.lists(
        st.sampled_from(["feed", "wake", "take", "rewind", "settle", "waiting", "replace"]), max_size=40
    ),
)
def test_what_is_counted_is_what_is_held(keeps: bool, steps: list[str]) -> None:
    """Whatever happens to it, in whatever order; and with `keep` nothing is lost until it is settled."""
    one, whole = Body(False, 10**9), b""
    if keeps:
        one.keep(10**6)
    for number, step in enumerate(steps):
        if step == "feed":
            one.feed(b"%03d" % number)
            whole += b"%03d" % number
        elif step == "waiting":
            assert whole.endswith(one.waiting)
        elif step == "replace":
            if not one.rewind():
                continue
            one.replace(whole)
        elif step != "take" or one:
            getattr(one, step)()
        assert HELD.waiting == one.waiting_bytes == sum(map(len, one.pieces))
    if one.rewind():
        assert one.waiting == whole
        assert (HELD.waiting, HELD.kept) == (len(whole), 0)
    one.drop()
    assert HELD.waiting == HELD.kept == 0

"""The queue over all requests: whose turn it is, what shares a batch, what becomes of a batch that fails."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from launcher.whisper.model import Ask, Heard
from launcher.whisper.queue import Line, Queue, Ticket
from launcher.whisper.refusal import Refusal
from launcher.whisper.wanted import Decoding
from tests.programs.front import wait_until

ENGLISH = Decoding(language="en")


def ask(name: str, decoding: Decoding = ENGLISH) -> Ask:
    """A stretch that is told by its name: the first of its features."""
    return Ask(np.full(1, int(name, 36), np.float32), 1.0, decoding)


def name_of(one: Ask) -> str:
    return np.base_repr(int(one.features[0]), 36).lower()


class Ears:
    """Hears one batch each time it is let; remembers what was in each, and fails at the names in `deaf`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.deaf: dict[str, Exception] = {}
        self.begun = threading.Semaphore(0)
        self._let = threading.Semaphore(0)

    def let(self, count: int = 1) -> None:
        self._let.release(count)

    def __call__(self, asks: Sequence[Ask]) -> list[Heard]:
        names = [name_of(one) for one in asks]
        self.batches.append(names)
        self.begun.release()
        assert self._let.acquire(timeout=20)
        for name in names:
            if name in self.deaf:
                raise self.deaf[name]
        return [Heard((int(name, 36),), -0.5, 0.0, "en", 1.0, None) for name in names]


@pytest.fixture
def ears() -> Iterator[Ears]:
    made = Ears()
    yield made
    made.let(1000)


def queue_of(ears: Callable[[Sequence[Ask]], list[Heard]], **options: Any) -> Queue:
    return Queue(ears, **{"batch_size": 1, "parallel": 1} | options)


def line_of(queue: Queue, left: threading.Event | None = None) -> Line:
    return queue.line(left or threading.Event())


def heard(line: Line, ticket: Ticket) -> str:
    found = line.wait(ticket)
    assert found is not None
    return np.base_repr(found.tokens[0], 36).lower()


def busy(queue: Queue, ears: Ears) -> Line:
    """Let the one thread hear a stretch, so that what is put now waits."""
    line = line_of(queue)
    line.put(ask("0"))
    assert ears.begun.acquire(timeout=20)
    return line


def test_a_clip_waits_for_one_batch_of_a_long_file_and_no_more(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=2)
    long = busy(queue, ears)
    for name in "abcdefgh":
        long.put(ask(name))
    clip = line_of(queue)
    ticket = clip.put(ask("z"))
    ears.let(2)
    assert heard(clip, ticket) == "z"
    assert ears.batches[:2] == [["0"], ["a", "z"]]


def test_lines_take_turns(ears: Ears) -> None:
    queue = queue_of(ears)
    first = busy(queue, ears)
    second, third = line_of(queue), line_of(queue)
    tickets = [first.put(ask(name)) for name in ("a1", "a2", "a3")]
    tickets += [second.put(ask(name)) for name in ("b1", "b2")] + [third.put(ask("c1"))]
    ears.let(7)
    wait_until(lambda: all(ticket.done.is_set() for ticket in tickets))
    assert [name for [name] in ears.batches[1:]] == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_batch_holds_only_what_is_asked_for_in_one_way(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=4)
    line = busy(queue, ears)
    others = [line_of(queue) for _ in range(4)]
    ways = [ENGLISH, Decoding(language="de"), Decoding(language="en", prompt="x"), Decoding(language=None)]
    for other, name, way in zip(others, "abcd", ways, strict=True):
        other.put(ask(name, way))
    ears.let(9)
    wait_until(lambda: len(ears.batches) == 3)
    assert ears.batches[1:] == [["a", "b", "d"], ["c"]]  # the language is no obstacle, the prompt is
    del line


def test_words_are_aligned_in_one_language(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=4)
    line = busy(queue, ears)
    ways = [("en", "a"), ("de", "b"), ("en", "c"), (None, "d"), (None, "e")]
    for language, name in ways:
        line_of(queue).put(ask(name, Decoding(language=language, words=True)))
    ears.let(9)
    wait_until(lambda: len(ears.batches) == 5)
    assert ears.batches[1:] == [["a", "c"], ["b"], ["d"], ["e"]]
    del line


def test_free_threads_share_what_is_there() -> None:
    """Of four stretches none of two threads takes all, so that the other would look on."""
    together = threading.Barrier(2)
    batches: list[tuple[str, int]] = []

    def hear(asks: Sequence[Ask]) -> list[Heard]:
        batches.append((threading.current_thread().name, len(asks)))
        if len(batches) <= 2:
            together.wait(20)
        return [Heard((), 0.0, 0.0, "en", 1.0, None) for _ in asks]

    queue = queue_of(hear, batch_size=4, parallel=2, linger_s=0.5)
    line = line_of(queue)
    tickets = [line.put(ask(name)) for name in "abcd"]
    assert all(line.wait(ticket) for ticket in tickets)
    assert len({name for name, _ in batches[:2]}) == 2
    assert batches[0][1] == 2


def test_how_long_to_wait_grows_with_what_waits() -> None:
    ready = threading.Event()

    def hear(asks: Sequence[Ask]) -> list[Heard]:
        assert ready.wait(20)
        return [Heard((), 0.0, 0.0, "en", 1.0, None) for _ in asks]

    queue = queue_of(hear)
    line = line_of(queue)
    assert queue.retry_after_s == 2
    first = line.put(ask("a"))
    assert not first.done.wait(0.3)  # so long takes a stretch here
    ready.set()
    wait_until(lambda: first.done.is_set() and queue.waiting == 0)
    ready.clear()
    for _ in range(30):
        line.put(ask("b"))
    assert 8 <= queue.retry_after_s <= 60
    for _ in range(10_000):
        line.put(ask("b"))
    assert queue.retry_after_s == 60
    ready.set()


def test_leaving_drops_what_waits(ears: Ears) -> None:
    queue = queue_of(ears)
    keeps = busy(queue, ears)
    kept = keeps.put(ask("a"))
    with line_of(queue) as leaves:
        leaves.put(ask("b"))
        assert queue.waiting == 2
    assert queue.waiting == 1
    ears.let(2)
    assert heard(keeps, kept) == "a"
    assert ears.batches == [["0"], ["a"]]


def test_a_client_that_left_costs_no_batch(ears: Ears) -> None:
    queue = queue_of(ears)
    keeps = busy(queue, ears)
    left = threading.Event()
    leaves = line_of(queue, left)
    gone = leaves.put(ask("b"))
    kept = keeps.put(ask("a"))
    left.set()
    ears.let(2)
    assert heard(keeps, kept) == "a"
    assert leaves.wait(gone) is None
    assert ears.batches == [["0"], ["a"]]


def test_a_stretch_that_cannot_be_heard_fails_alone(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=4)
    keeps = busy(queue, ears)
    lines = [line_of(queue) for _ in range(3)]
    tickets = [line.put(ask(name)) for line, name in zip(lines, "abc", strict=True)]
    ears.deaf["b"] = ValueError("cannot be heard")
    ears.let(9)
    assert heard(lines[0], tickets[0]) == "a"
    with pytest.raises(ValueError, match="cannot be heard"):
        lines[1].wait(tickets[1])
    assert heard(lines[2], tickets[2]) == "c"
    assert heard(keeps, keeps.put(ask("d"))) == "d"


def test_batches_get_smaller_where_the_memory_of_the_gpu_is_too_small() -> None:
    sizes: list[int] = []

    def hear(asks: Sequence[Ask]) -> list[Heard]:
        sizes.append(len(asks))
        if len(asks) > 2:
            raise RuntimeError("CUDA failed with error out of memory")
        return [Heard((int(name_of(one), 36),), -0.5, 0.0, "en", 1.0, None) for one in asks]

    queue = queue_of(hear, batch_size=8, linger_s=0.5)
    line = line_of(queue)
    names = "abcdefgh"
    tickets = [line.put(ask(name)) for name in names]
    assert [heard(line, ticket) for ticket in tickets] == list(names)
    assert queue.batch_size == 2
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert queue.broken is None


def test_a_broken_gpu_is_said_to_all(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=1)
    first = line_of(queue)
    ears.deaf["a"] = RuntimeError("CUDA failed with error an illegal memory access was encountered")
    heard_last = first.put(ask("a"))
    second = line_of(queue)
    waits = second.put(ask("b"))
    ears.let(9)
    for line, ticket in ((first, heard_last), (second, waits)):
        with pytest.raises(Refusal) as refused:
            line.wait(ticket)
        assert refused.value.status == 503
        assert "illegal memory access" in refused.value.message
    with pytest.raises(Refusal, match="illegal memory access"):
        second.put(ask("c"))
    assert queue.broken is not None
    assert queue.waiting == 0


def test_each_of_many_requests_has_few_stretches_in_memory(ears: Ears) -> None:
    queue = queue_of(ears, batch_size=4, parallel=2)
    rooms = []
    for _ in range(200):
        line_of(queue)
        rooms.append(queue.room)
    assert rooms[0] == 24
    assert rooms[-1] == 2
    assert all(later <= sooner for sooner, later in itertools.pairwise(rooms))

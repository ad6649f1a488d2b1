"""The ids of a batch run's lines: told apart by more than their hashes."""

from __future__ import annotations

from launcher.batch.ids import Ids


def test_equal_hashes_are_no_equal_ids() -> None:
    texts = [f"id {number}" for number in range(3000)]
    ids = Ids(lambda number: texts[number], digest=lambda text: len(text) % 3)
    assert [ids.add(text, number) for number, text in enumerate(texts[:300])] == [None] * 300
    assert ids.add("id 17", 300) == 17
    assert (ids.find("id 299"), ids.find("id 300")) == (299, None)
    grown = Ids(lambda number: texts[number])
    for number, text in enumerate(texts):
        assert grown.add(text, number) is None
    assert all(grown.find(text) == number for number, text in enumerate(texts))
    assert grown.holds("id 5", 5)
    assert not grown.holds("id 5", 6)

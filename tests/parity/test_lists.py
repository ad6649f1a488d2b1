"""The lists of what vec-inf, Blackfish, della-inference and FIRST can do, held against the tests that name them."""

from __future__ import annotations

import pytest

from scripts import parity
from scripts.parity import Item

ITEMS = parity.items()
TESTS = parity.tests()


@pytest.mark.parametrize("item", [item for item in ITEMS if item.testable], ids=lambda item: item.name)
def test_each_item_has_a_test_that_names_it(item: Item) -> None:
    assert TESTS.get(item.name), f'No docstring of a test begins with "{item.name}: …" ({item.says})'


def test_the_lists_are_whole() -> None:
    counts = {
        system: [i.number for i in ITEMS if i.system == system]
        for system in ("vec-inf", "Blackfish", "della", "FIRST")
    }
    assert counts == {
        "vec-inf": list(range(1, 15)), "Blackfish": list(range(1, 18)), "della": list(range(1, 11)),
        "FIRST": list(range(1, 17)),
    }  # fmt: skip


def test_no_test_names_an_item_that_is_not_there() -> None:
    assert set(TESTS) <= {item.name for item in ITEMS}


def test_what_needs_a_gpu_is_said_to_be_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    """In items.yml and on the page; and at the end of a run of the tests."""
    page = parity.PAGE.read_text(encoding="utf-8")
    with capsys.disabled():
        for item in ITEMS:
            if "G" in item.needs:
                assert item.missing is not None, item
                assert item.missing in page
                print(f"\nNot verified, {item.name}: {item.missing}", end="")


def test_the_page_is_what_the_script_makes() -> None:
    assert parity.PAGE.read_text(encoding="utf-8") == parity.page(), "run scripts/parity.py"


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("vec-inf 9: all or none.", ["vec-inf 9"]),
        ("vec-inf 4, Blackfish 2: a table.", ["vec-inf 4", "Blackfish 2"]),
        ("vec-inf 1, 2: the same rows; della 13: the script.", ["vec-inf 1", "vec-inf 2", "della 13"]),
        ("As vec-inf 9: not at its beginning.", []),
        ("A table.\n\nvec-inf 9: not in its first line.", []),
        ("vec-inf 9 without a colon", []),
        ("", []),
    ],
)
def test_how_a_test_names_its_item(docstring: str, expected: list[str]) -> None:
    assert parity.named(docstring) == expected

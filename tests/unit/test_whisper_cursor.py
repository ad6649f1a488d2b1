"""The place to go on from: what a client sends back is what was given, or is refused."""

from __future__ import annotations

import pytest

from launcher.whisper.cursor import Cursor
from launcher.whisper.refusal import Refusal
from launcher.whisper.wanted import Cutting
from tests.hostile import HOSTILE

CUTTING = Cutting(stretch_s=30)


def test_it_survives_the_way_to_the_client_and_back() -> None:
    begun = Cursor.read(None, CUTTING)
    assert (begun.window, begun.index, begun.language) == (0, 0, None)
    for cursor in (
        begun,
        Cursor(begun.settings, 2_400_000, 7, "en", 0.9876, 4_294_967_295, 3),
        Cursor(begun.settings, 10**12 - 1, 0, "yue", 1.0),
    ):
        assert Cursor.read(str(cursor), CUTTING) == cursor


@pytest.mark.parametrize("other", [Cutting(stretch_s=20), Cutting(stretch_s=30, threshold=0.4)])
def test_it_holds_for_the_same_cuts_only(other: Cutting) -> None:
    with pytest.raises(Refusal, match="other settings") as refused:
        Cursor.read(str(Cursor.read(None, CUTTING)), other)
    assert (refused.value.status, refused.value.param) == (400, "resume_from")


GOOD = str(Cursor.read(None, CUTTING))


@pytest.mark.parametrize(
    "text",
    [*HOSTILE, "", "0", GOOD + "\n", GOOD.replace("1.", "2.", 1), GOOD.upper() + " ", GOOD[:-1], f" {GOOD}",
     GOOD.replace(".0.", ".٣.", 1), GOOD.replace("1.0.", f"1.{9 * 10**12}.", 1), "1" * 10_000],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        Cursor.read(text, CUTTING)
    assert (refused.value.status, refused.value.code) == (400, "invalid_cursor")
    assert len(refused.value.message) < 200

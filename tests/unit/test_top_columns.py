"""The rows of `launcher top` and of every table, in columns of a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from launcher.cli.columns import HEAD, line, short, widths
from launcher.cli.tables import Redrawn, clipped, filled, table, width
from tests.hostile import HOSTILE
from tests.programs.terminal import Terminal

ROWS = [
    HEAD,
    ("llama-3-3-70b-instruct-1a2b3c4d", "meta-llama/Llama-3.3-70B-Instruct", "READY", "", "4 a100", "1234", "12", "3",
     "3h20", "58m"),
    ("llama-3-3-70b-instruct-5e6f7a8b", "meta-llama/Llama-3.3-70B-Instruct", "LAUNCHING", "compile", "4 a100", "", "",
     "", "4d07", ""),
]  # fmt: skip


@pytest.mark.parametrize("room", [18, 30, 40, 58, 78, 100, 130, 200])
def test_a_row_fits_into_any_terminal(room: int) -> None:
    wide = widths(ROWS, room)
    shown = [line(row, wide) for row in ROWS]
    assert max(map(width, shown)) <= room
    assert shown[1].split()[0] != shown[2].split()[0]  # two sessions of one model are told apart
    assert "READY" in shown[1] or room < 30


def test_nothing_is_cut_where_there_is_room() -> None:
    wide = widths(ROWS, 200)
    assert line(ROWS[1], wide).split() == " ".join(ROWS[1]).split()


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    cpu = [HEAD, tuple("" if name == "GPUs" else cell for name, cell in zip(HEAD, ROWS[1], strict=True))]
    assert "GPUs" not in line(HEAD, widths(cpu, 200))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (12_000, "3h20"), (200_000, "2d07")],
)
def test_a_span_takes_five_columns(seconds: float, says: str) -> None:
    assert short(seconds) == says


@pytest.mark.parametrize("text", [*HOSTILE, "模型", "é", "e\u0301", "🦙"])
def test_a_cell_has_its_columns_whatever_is_in_it(text: str) -> None:
    for columns in (0, 1, 2, 9, 40):
        assert width(clipped(text, columns)) <= columns
        assert width(filled(clipped(text, columns), columns)) == columns
    lines = table([[text, "x"]], head=["模型", "b"]).splitlines()
    assert len(lines) == 5
    assert len({width(one) for one in lines}) == 1


def test_what_is_redrawn_elsewhere_than_on_a_terminal_comes_below() -> None:
    stream = io.StringIO()
    place = Redrawn(stream)
    place.show("a\nb")
    place.show("c")
    assert stream.getvalue() == "a\nb\nc\n"


def test_a_table_fits_into_the_terminal_by_folding_its_sentences() -> None:
    path = "/scratch/" + "x" * 30
    rows_of_it = f"[['a', 'word ' * 20], ['b', '{path}']]"
    code = f"from launcher.cli.tables import table; print(table({rows_of_it}, head=['A', 'B']))"
    with Terminal([sys.executable, "-c", code], columns=50) as terminal:
        rows = terminal.wait_for("┘")
        assert terminal.ended() == 0
    assert [row[-1] for row in rows if row] == list("┐│┤││││┘")
    assert " ".join(rows).count("word") == 20
    assert path in "".join(rows)


@pytest.mark.parametrize(("columns", "left"), [(60, "ABCD"), (50, "ACD"), (40, "AD")])
def test_a_table_leaves_out_what_may_be_left_out_where_it_is_too_narrow(columns: int, left: str) -> None:
    row = ["a" * 10, "b" * 6, "c" * 4, "word " * 8]
    code = f"from launcher.cli.tables import table; print(table([{row}], head=list('ABCD'), yielding=('B', 'C')))"
    with Terminal([sys.executable, "-c", code], columns=columns) as terminal:
        rows = terminal.wait_for("┘")
        assert terminal.ended() == 0
    assert "".join(c for c in rows[1] if c.isupper()) == left
    assert " ".join(rows).count("word") == 8

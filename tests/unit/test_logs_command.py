"""The end of a log as `launcher logs` and `launcher top` show it: bounded, whatever the engine wrote."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.api.log import after, end_of
from launcher.cli.logs import shown


def test_a_line_without_end_costs_its_end(tmp_path: Path) -> None:
    """Progress bars are such lines. Of this one, more than fits into memory was read, again for each piece."""
    log = tmp_path / "engine.log"
    log.write_bytes(b"first\n")
    os.truncate(log, 20 << 30)  # takes no room on the disk
    with log.open("ab") as file:
        file.write(b"the end\n")
    last, place = end_of(log, 3)
    assert last.endswith(b"the end\n")
    assert len(last) < 4 << 20
    assert place == log.stat().st_size


def test_lines_are_counted_over_all_blocks(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    lines = [f"{number} {'x' * 3000}\n" for number in range(500)]
    log.write_text("".join(lines))
    for count in (1, 21, 22, 100, 499, 500, 501):
        assert end_of(log, count)[0].decode() == "".join(lines[-count:])
    assert end_of(log, 0) == (b"", log.stat().st_size)


def test_what_comes_after_is_in_whole_lines_and_a_log_that_was_made_anew_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert after(log, 7) == (b"", 0)
    text = "\n".join(["naïve ☃" * 1000] * 50).encode()
    log.write_bytes(text)
    place, pieces = 0, []
    while (piece := after(log, place))[0]:
        pieces.append(piece[0].decode())  # no letter is cut
        place = piece[1]
    assert "".join(pieces).encode() == text
    log.write_bytes(b"new\n")
    assert after(log, place) == (b"new\n", 4)


def test_an_engine_writes_colours_and_nothing_else_that_steers() -> None:
    wild = "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2J\x1b[8;1H\x9b2J\x1bP1\x1b\\\r\u202eback"
    assert shown(wild) == "\x1b[31mred\x1b[0m?]0;title??[2J?[8;1H?2J?P1?\\??back"

"""The journal of a recording: what survives a kill, a torn line, a second command, and what is not believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Header, Journal, Piece, Source, glance, open_journal
from launcher.whisper.segments import Segment, Word
from tests.hostile import HOSTILE

HEADER = Header(Source("/data/a.mp3", 1000, 17), Asked(language="en"), {"model": "m", "revision": "abc"})
WORDS = (Word(" one", 0.1, 0.4, 0.9), Word(" two", 0.5, 0.8, 0.1234))


def piece(number: int, text: str = " one two") -> Piece:
    segment = Segment(
        number * 3.0, number * 3.0 + 2.13, text, -0.1234, 1.1, tokens=(1, 2), words=WORDS, marks=("unsure",)
    )
    return Piece(f"0:{number}", number * 3.0 + 3.0, 60.0, "en", (segment, segment))


def opened(path: Path) -> Journal:
    journal = open_journal(path)
    assert journal is not None
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".a.mp3.launcher.jsonl"


def test_what_is_added_is_there_again_to_the_last_digit(path: Path) -> None:
    pieces = [piece(number, text) for number, text in enumerate(HOSTILE)]
    with opened(path) as journal:
        journal.begin(HEADER)
        for each in pieces:
            journal.add(each)
    with opened(path) as journal:
        assert journal.content.header == HEADER
        assert journal.content.pieces == pieces
        assert journal.content.done_s == pieces[-1].done_s
        assert not journal.content.ended
        journal.end()
    assert glance(path).ended


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_torn_last_line_is_cut_off_and_the_next_piece_follows(path: Path, cut: int) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        for number in range(3):
            journal.add(piece(number))
    os.truncate(path, path.stat().st_size - cut)
    assert glance(path).pieces == [piece(0), piece(1)]
    with opened(path) as journal:
        assert journal.content.pieces == [piece(0), piece(1)]
        journal.add(piece(2))
    assert glance(path).pieces == [piece(0), piece(1), piece(2)]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "junk", [b"\0" * 100 + b"\n", b"{}\n", b"[]\n", b"1\n", b"not json\n", b"[" * 100_000 + b"\n", b"\xff\n"]
)
def test_what_follows_a_broken_line_is_not_believed(path: Path, junk: bytes) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        journal.add(piece(0))
    with path.open("ab") as file:
        file.write(junk + json.dumps(piece(1).to_dict()).encode() + b"\n")
    with opened(path) as journal:
        assert journal.content.pieces == [piece(0)]
        journal.add(piece(1))
    assert glance(path).pieces == [piece(0), piece(1)]


@pytest.mark.parametrize("text", ["", "{}\n", '{"schema": 2}\n', "\0\0\0", '{"schema": 1, "source": 3}\n'])
def test_a_file_without_a_beginning_is_begun_anew(path: Path, text: str) -> None:
    path.write_text(text)
    with opened(path) as journal:
        assert journal.content.header is None
        journal.begin(HEADER)
        journal.add(piece(0))
    assert glance(path).header == HEADER


def test_a_journal_that_holds_nothing_does_not_stay(path: Path) -> None:
    opened(path).close()
    assert not path.exists()
    with opened(path) as journal:
        journal.begin(HEADER)
        assert path.exists()
    assert not path.exists()


def test_a_second_command_does_not_get_it(path: Path) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        journal.add(piece(0))
        assert open_journal(path) is None
        code = "import sys; from pathlib import Path; from launcher.transcripts.journal import open_journal"
        code += "; print(open_journal(Path(sys.argv[1])))"
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert done.stdout == "None\n"
    with opened(path) as journal:
        assert journal.content.header == HEADER


def test_a_killed_command_leaves_it_whole_and_free(path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from tests.unit.test_transcripts_journal import HEADER, opened, piece
journal = opened(Path(sys.argv[1]))
journal.begin(HEADER)
for number in range(5):
    journal.add(piece(number))
print("added", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "added\n"
        assert open_journal(path) is None
        process.send_signal(signal.SIGKILL)
    with opened(path) as journal:
        assert journal.content.pieces == [piece(number) for number in range(5)]


def test_the_one_who_waited_does_not_write_into_a_removed_file(path: Path) -> None:
    journal = opened(path)
    journal.begin(HEADER)
    journal.remove()
    with opened(path) as other:
        other.begin(replace(HEADER, asked=Asked()))
        journal.close()
        other.add(piece(0))
    assert glance(path).header == replace(HEADER, asked=Asked())


@pytest.mark.parametrize("make", ["link", "fifo", "folder"])
def test_what_somebody_put_in_its_place_is_not_written(path: Path, make: str) -> None:
    target = path.with_name("precious")
    target.write_text("precious")
    if make == "link":
        path.symlink_to(target)
    elif make == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"launcher\.jsonl"):
        open_journal(path)
    assert glance(path).header is None
    assert target.read_text() == "precious"


def test_a_header_says_why_old_pieces_are_of_no_use() -> None:
    same = replace(HEADER, source=replace(HEADER.source, path="/moved/a.mp3"))
    assert HEADER.difference(same) is None
    for changed, why in (
        (replace(HEADER, source=replace(HEADER.source, size=999)), "the file has changed"),
        (replace(HEADER, source=replace(HEADER.source, modified_ns=18)), "the file has changed"),
        (replace(HEADER, asked=Asked(language="de")), "other options"),
        (replace(HEADER, made_by={"model": "other", "revision": "abc"}), "another model"),
        (replace(HEADER, made_by={"model": "m", "revision": "def"}), "another version"),
    ):
        assert why in (HEADER.difference(changed) or "")

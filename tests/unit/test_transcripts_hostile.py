"""Folders where somebody else may write: what they plant there, `launcher transcribe` neither believes nor follows."""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.transcripts import ledger, outputs
from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Header, Piece, Source, glance, mode_of, open_journal, open_regular
from launcher.transcripts.recordings import FOREIGN, find
from launcher.transcripts.standing import BROKEN, standings
from launcher.whisper import cluster_files
from launcher.whisper.formats import FORMATS
from launcher.whisper.refusal import Refusal
from launcher.whisper.segments import Segment

ASKED = Asked(language="en")
PIECE = Piece("0:1", 3.0, 6.0, "en", (Segment(0.5, 1.0, " one", marks=("unsure",)),))
ENTRY = ledger.Entry(
    Source("/data/a.mp3", 1, 2), ASKED, {"model": "m"}, outputs.facts([PIECE]),
    {"srt": ledger.Output("a.srt", 3, 4, "0")},
)  # fmt: skip
NO_NUMBERS: list[Any] = [float("nan"), float("inf"), 1e300, "7", None, True, [], {"a": 1}]
NO_TEXTS: list[Any] = [7, True, ["a"], {"a": 1}]


def put(data: dict[str, Any], where: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """`data` with another value at one place."""
    made = copy.deepcopy(data)
    place: Any = made
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    return made


@pytest.mark.parametrize(
    ("where", "values"),
    [
        (("done_s",), NO_NUMBERS),
        (("duration_s",), NO_NUMBERS[:4]),
        (("segments", 0, "start"), NO_NUMBERS),
        (("segments", 0, "end"), NO_NUMBERS),
        (("cursor",), NO_TEXTS),
        (("language",), NO_TEXTS),
        (("segments", 0, "text"), NO_TEXTS),
        (("segments", 0, "marks"), [[7], 7, [None]]),
        (("segments",), [7, "x", [7], {"a": 1}]),
    ],
)
def test_a_line_of_a_journal_that_would_break_something_later_is_no_line(
    tmp_path: Path, where: tuple[str | int, ...], values: list[Any]
) -> None:
    path = tmp_path / "j"
    journal = open_journal(path)
    assert journal is not None
    with journal:
        journal.begin(Header(Source("/data/a.mp3", 1, 2), ASKED, {"model": "m"}))
        journal.add(PIECE)
    good = path.read_bytes()
    for value in values:
        path.write_bytes(good + json.dumps(put(PIECE.to_dict(), where, value)).encode() + b"\n")
        content = glance(path)
        assert content.pieces == [PIECE], (where, value)
        assert outputs.rendered(content.pieces, ASKED, ("srt", "vtt", "tsv", "txt", "json"))


@pytest.mark.parametrize(
    ("where", "values"),
    [
        (("facts", "duration_s"), NO_NUMBERS),
        (("facts", "words"), NO_NUMBERS),
        (("facts", "language"), NO_TEXTS),
        (("facts", "marks", 0, "start"), NO_NUMBERS),
        (("facts", "marks", 0, "text"), NO_TEXTS),
        (("facts", "marks", 0, "marks"), [[7], 7]),
        (("source", "path"), [0, *NO_TEXTS, None]),
        (("outputs", "srt", "name"), [*NO_TEXTS, None]),
        (("made_by",), [7, "model", ["model"], None]),
        (("name",), [7, None, ["a"]]),
    ],
)
def test_a_line_of_a_ledger_that_would_break_something_later_is_no_line(
    tmp_path: Path, where: tuple[str | int, ...], values: list[Any]
) -> None:
    ledger.add(tmp_path, "a.mp3", ENTRY)
    path = tmp_path / ledger.NAME
    good = json.loads(path.read_bytes())
    path.write_text("".join(json.dumps(put(good, where, value)) + "\n" for value in values))
    assert ledger.read(tmp_path) in ({}, {"a.mp3": ledger.Kept()})
    ledger.add(tmp_path, "a.mp3", ENTRY)
    assert ledger.read(tmp_path)["a.mp3"].latest == ENTRY


def test_a_second_name_of_a_file_of_mine_is_not_written(tmp_path: Path) -> None:
    mine = tmp_path / "thesis.tex"
    mine.write_text("five years")
    os.link(mine, tmp_path / "journal")
    with pytest.raises(FileExistsError):
        open_journal(tmp_path / "journal")
    os.link(mine, tmp_path / ledger.NAME)
    with pytest.raises(FileExistsError):
        ledger.add(tmp_path, "a.mp3", ENTRY)
    assert mine.read_text() == "five years"


def test_a_ledger_that_somebody_keeps_locked_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_LOCK_RETRY_S", 0.001)
    ledger.again(tmp_path, ["a.mp3"])
    with (tmp_path / ledger.NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ledger.add(tmp_path, "a.mp3", ENTRY)
    assert set(ledger.read(tmp_path)["a.mp3"].entries) == {"srt"}


def test_a_pipe_in_the_place_of_a_recording_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp3")
    (tmp_path / "b.mp3").symlink_to("a.mp3")
    for name in ("a.mp3", "b.mp3"):
        with pytest.raises(FileExistsError):
            open_regular(tmp_path / name, links=True)


def test_a_json_that_became_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"segments": [{"start": 0, "end": 1, "text": "secret"}]}')
    assert outputs.converted(tmp_path / "secret.json", ["txt"]) == {"txt": b"secret\n"}
    (tmp_path / "a.json").symlink_to("secret.json")
    assert outputs.converted(tmp_path / "a.json", ["txt"]) is None


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which somebody else has made a link to a file, and one to a folder, that are neither's."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "talk.mp3").write_bytes(b"sound")
    links = (tmp_path / "in" / "theirs.mp3", tmp_path / "in" / "folder")
    links[0].symlink_to("/etc/passwd")
    links[1].symlink_to("/srv")
    if os.geteuid() == 0:
        for link in links:
            os.lchown(link, 65534, 65534)
    else:  # whoever made the links is somebody else for the launcher then
        me = os.geteuid()
        monkeypatch.setattr("launcher.transcripts.recordings.os.geteuid", lambda: me + 1)
    return tmp_path / "in"


@pytest.mark.parametrize("way", ["{}", "{}/*", "{}/**/*", "{}/theirs.mp3"])
def test_a_link_of_somebody_else_to_what_only_i_may_read_is_not_followed(shared: Path, way: str) -> None:
    found = find([way.format(shared)])
    names = {recording.name for recording in found.recordings}
    assert names == (set() if way.endswith("theirs.mp3") else {"talk.mp3"})
    assert (str(shared / "theirs.mp3"), FOREIGN) in found.troubles
    assert way != "{}" or (str(shared / "folder"), FOREIGN) in found.troubles


def test_a_recording_that_becomes_such_a_link_meanwhile_is_not_read(shared: Path) -> None:
    found = find([str(shared / "talk.mp3")])
    (shared / "theirs.mp3").rename(shared / "talk.mp3")
    (standing,) = standings(found.recordings, ASKED, None, ("srt",))
    assert (standing.state, standing.why) == (BROKEN, FOREIGN)


@pytest.mark.parametrize("path", ["/tmp/\ud800", "~nobody\0", "~\0", "a\0"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(Refusal) as raised:
        cluster_files.opened(path, ())
    assert (raised.value.status, raised.value.param) == (400, "path")


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_that_would_steer_a_terminal_or_a_player_does_not(name: str) -> None:
    controls = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
    text = f"{controls}\x1b[2Jone ---> two -----> three{controls}"
    made = FORMATS[name]([Segment(0.0, 1.0, text)])
    assert not [character for character in made if not character.isprintable() and character not in "\n\t"]
    assert made.count("-->") == (name in ("srt", "vtt")) + (name in ("txt", "tsv")) * 2


def test_transcripts_do_not_go_through_a_link_that_somebody_put_below_the_output_folder(shared: Path) -> None:
    source = shared.parent / "mine" / "folder" / "talk.mp3"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"sound")
    found = find([str(shared.parent / "mine")], shared)
    assert not found.recordings
    assert found.troubles[0][0] == str(source)


@pytest.mark.parametrize(
    ("recording", "made"), [(0o600, 0o600), (0o640, 0o660), (0o444, 0o666), (0o200, 0o600)]
)
def test_who_may_not_read_a_recording_may_not_read_what_was_said_either(
    tmp_path: Path, recording: int, made: int
) -> None:
    (tmp_path / "a.mp3").write_bytes(b"sound")
    (tmp_path / "a.mp3").chmod(recording)
    assert mode_of(tmp_path / "a.mp3") == made
    assert mode_of(tmp_path / "gone.mp3") == 0o600
    (found,) = find([str(tmp_path)]).recordings
    umask = os.umask(0)
    try:
        outputs.write(found, {"txt": b"secret"})
        ledger.add(
            tmp_path, "a.mp3", dataclasses.replace(ENTRY, source=Source(str(tmp_path / "a.mp3"), 1, 2))
        )
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a.txt", tmp_path / ledger.NAME)} == {made}


def test_what_was_said_in_a_private_recording_is_not_in_a_ledger_that_others_read(tmp_path: Path) -> None:
    for name, mode in (("public.mp3", 0o644), ("private.mp3", 0o600)):
        (tmp_path / name).write_bytes(b"sound")
        (tmp_path / name).chmod(mode)
        entry = dataclasses.replace(ENTRY, source=Source(str(tmp_path / name), 1, 2))
        ledger.add(tmp_path, name, entry)
        (tmp_path / ledger.NAME).chmod(0o644)
    said = {
        name: kept.latest.facts.marks[0].text for name, kept in ledger.read(tmp_path).items() if kept.latest
    }
    assert said == {"public.mp3": "one", "private.mp3": ""}

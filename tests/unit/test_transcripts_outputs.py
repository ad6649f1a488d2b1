"""Transcripts on the disk: when they are made, when they are left alone, and that they appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.transcripts import ledger, outputs
from launcher.transcripts.asked import FORMATS, Asked, formats, language
from launcher.transcripts.journal import Header, Piece, Source, open_journal
from launcher.transcripts.recordings import Recording, find
from launcher.transcripts.standing import BEGUN, BROKEN, FINISHED, NEW, Standing, standings
from launcher.whisper.segments import Segment

ASKED = Asked(language="en")
PIECES = [
    Piece("0:1", 3.0, 6.0, "en", (Segment(0.5, 1.0, " one"), Segment(1.5, 2.0, " two", marks=("unsure",)))),
    Piece("0:2", 4.5, 6.0, "en", ()),
    Piece("0:3", 6.02, 6.0, "en", (Segment(5.0, 5.9, " --> three <b>"),)),
]


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    (tmp_path / "a.mp3").write_bytes(b"sound")
    return only(tmp_path)


def only(folder: Path) -> Recording:
    (found,) = find([str(folder)]).recordings
    return found


def stands(
    recording: Recording,
    *endings: str,
    asked: Asked = ASKED,
    model: str | None = "m",
    overwrite: bool = False,
) -> Standing:
    (found,) = standings([recording], asked, model, endings or ("srt", "txt"), overwrite=overwrite)
    return found


def finish(recording: Recording, *endings: str, asked: Asked = ASKED, model: str = "m") -> None:
    written = outputs.write(recording, outputs.rendered(PIECES, asked, endings or ("srt", "txt")))
    source = Source.of(recording.source)
    entry = ledger.Entry(source, asked, {"model": model}, outputs.facts(PIECES), written)
    ledger.add(recording.folder, recording.name, entry)


def test_the_formats_of_a_recording(recording: Recording) -> None:
    outputs.write(recording, outputs.rendered(PIECES, ASKED, FORMATS))
    texts = {ending: recording.output(ending).read_text() for ending in FORMATS}
    assert texts["txt"] == "one\ntwo\n--> three <b>\n"
    assert texts["srt"].startswith("1\n00:00:00,500 --> 00:00:01,000\none\n\n2\n")
    assert texts["vtt"].startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.000\none\n\n")
    assert texts["tsv"].splitlines()[2] == "1500\t2000\ttwo\tunsure"
    data = json.loads(texts["json"])
    assert (data["duration"], data["language"], data["segments"][1]["marks"]) == (6.02, "english", ["unsure"])
    assert sorted(os.listdir(recording.folder)) == ["a.json", "a.mp3", "a.srt", "a.tsv", "a.txt", "a.vtt"]


def test_facts_of_a_recording() -> None:
    facts = outputs.facts(PIECES)
    assert (facts.duration_s, facts.language, facts.words) == (6.02, "en", 5)
    assert facts.marks == (ledger.Mark(1.5, 2.0, ("unsure",), "two"),)
    assert outputs.facts([Piece("0:0", 0.0, None, None, ())]).words == 0


def test_new_then_finished(recording: Recording) -> None:
    assert stands(recording).state == NEW
    assert stands(recording).formats == ("srt", "txt")
    finish(recording)
    done = stands(recording)
    assert (done.state, done.why, done.formats) == (FINISHED, "", ())
    assert done.facts == outputs.facts(PIECES)
    assert [path.name for path in done.outputs] == ["a.srt", "a.txt"]


def test_only_the_format_that_is_missing_is_made(recording: Recording) -> None:
    finish(recording, "srt")
    assert stands(recording, "srt", "vtt").formats == ("vtt",)
    recording.output("srt").unlink()
    assert stands(recording, "srt").formats == ("srt",)


def test_a_changed_file_is_done_again_and_said(recording: Recording) -> None:
    finish(recording)
    recording.source.write_bytes(b"other sound")
    now = stands(recording)
    assert (now.state, now.formats) == (NEW, ("srt", "txt"))
    assert "file has changed" in now.why
    assert "done again" in now.why


@pytest.mark.parametrize("asked", [Asked(), Asked("de"), Asked("en", words=True), Asked("en", prompt="x")])
def test_other_options_are_another_transcript(recording: Recording, asked: Asked) -> None:
    finish(recording)
    now = stands(recording, asked=asked)
    assert now.formats == ("srt", "txt")
    assert "options have changed" in now.why


def test_another_model_counts_only_where_one_was_named(recording: Recording) -> None:
    finish(recording, model="small")
    assert stands(recording, model=None).state == FINISHED
    assert stands(recording, model="small").state == FINISHED
    assert stands(recording, model="large").formats == ("srt", "txt")


def test_a_transcript_of_somebody_else_is_left_alone(recording: Recording) -> None:
    recording.output("srt").write_text("mine")
    now = stands(recording, "srt")
    assert (now.state, now.formats) == (FINISHED, ())
    assert "a.srt is there and was not made here" in now.why
    assert "--overwrite replaces it" in now.why
    assert stands(recording, "srt", "txt").formats == ("txt",)
    assert stands(recording, "srt", "txt", overwrite=True).formats == ("srt", "txt")


def test_a_corrected_transcript_is_never_replaced_unasked(recording: Recording) -> None:
    finish(recording)
    recording.output("txt").write_text("one, two, tree")
    assert stands(recording).state == FINISHED
    assert stands(recording).why == ""
    recording.source.write_bytes(b"other sound")
    now = stands(recording)
    assert now.formats == ()
    assert "a.txt was edited" in now.why
    assert stands(recording, overwrite=True).formats == ("srt", "txt")


def test_a_touched_but_equal_transcript_is_still_ours(recording: Recording) -> None:
    finish(recording)
    os.utime(recording.output("srt"), ns=(1, 1))
    recording.source.write_bytes(b"other sound")
    assert stands(recording).formats == ("srt", "txt")


def test_overwrite_is_remembered_until_it_was_done(recording: Recording) -> None:
    finish(recording)
    ledger.again(recording.folder, [recording.name])
    assert stands(recording).formats == ("srt", "txt")
    finish(recording)
    assert stands(recording).state == FINISHED


def test_a_json_of_ours_becomes_the_other_formats(recording: Recording) -> None:
    finish(recording, "json")
    now = stands(recording, "srt", "json", "vtt")
    assert now.formats == ("srt", "vtt")
    assert now.whole is not None
    texts = outputs.converted(recording.output("json"), now.formats)
    assert texts == outputs.rendered(PIECES, ASKED, now.formats)
    recording.output("json").write_text("{}")
    assert stands(recording, "srt").whole is None
    assert outputs.converted(recording.output("json"), ["srt"]) is None


def test_begun_and_how_far(recording: Recording) -> None:
    journal = open_journal(recording.journal)
    assert journal is not None
    with journal:
        journal.begin(Header(Source.of(recording.source), ASKED, {}))
        journal.add(PIECES[0])
        assert (stands(recording).state, stands(recording).done_s, stands(recording).duration_s) == (
            BEGUN,
            3.0,
            6.0,
        )
        recording.source.write_bytes(b"other sound")
        assert (stands(recording).state, stands(recording).done_s) == (NEW, 0.0)


def test_names_once_given_stay_though_another_recording_comes(recording: Recording) -> None:
    finish(recording)
    (recording.folder / "a.wav").write_bytes(b"more")
    first, second = standings(find([str(recording.folder)]).recordings, ASKED, "m", ("srt", "txt"))
    assert (first.state, first.recording.output("srt").name) == (FINISHED, "a.srt")
    assert second.recording.output("srt").name == "a.wav.srt"
    finish(second.recording)
    recording.source.unlink()
    (left,) = standings(find([str(recording.folder)]).recordings, ASKED, "m", ("srt",))
    assert (left.state, left.recording.output("srt").name) == (FINISHED, "a.wav.srt")


def test_transcripts_of_another_recording_are_not_replaced(tmp_path: Path) -> None:
    for folder in ("t", "u"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp3").write_text(folder)
    (first,) = find([str(tmp_path / "t")], tmp_path / "out").recordings
    (second,) = find([str(tmp_path / "u")], tmp_path / "out").recordings
    first.folder.mkdir()
    finish(first)
    now = stands(second)
    assert now.state == BROKEN
    assert "another --output-dir" in now.why
    os.rename(tmp_path / "t", tmp_path / "moved")  # then it is the same recording in another place
    (moved,) = find([str(tmp_path / "moved")], tmp_path / "out").recordings
    assert stands(moved).state == FINISHED


@pytest.mark.parametrize(
    "junk", [b"\n", b"{}\n", b"[1]\n", b"\0\0", b'{"name": [], "again": 1}\n', b'{"name": "a.mp3"']
)
def test_a_ledger_with_broken_lines_keeps_its_others(recording: Recording, junk: bytes) -> None:
    finish(recording)
    with (recording.folder / ledger.NAME).open("ab") as file:
        file.write(junk)
    assert stands(recording).state == FINISHED
    recording.source.write_bytes(b"other sound")
    finish(recording)
    assert stands(recording).state == FINISHED


def test_what_cannot_be_read_is_said(recording: Recording) -> None:
    recording.source.unlink()
    assert (stands(recording).state, stands(recording).why) == (BROKEN, "It is gone.")
    recording.source.symlink_to(recording.source)
    assert "cannot be read" in stands(recording).why


def test_a_failed_write_leaves_the_old_one_and_no_part(recording: Recording) -> None:
    finish(recording, "txt")
    os.mkdir(recording.output("srt"))
    with pytest.raises(OSError, match="irectory"):
        outputs.write(recording, {"srt": b"new"})
    assert sorted(os.listdir(recording.folder)) == [ledger.NAME, "a.mp3", "a.srt", "a.txt"]


def test_what_a_kill_left_of_a_part_is_no_hindrance(recording: Recording) -> None:
    recording.part.write_text("half")
    outputs.write(recording, {"srt": b"new"})
    assert recording.output("srt").read_bytes() == b"new"
    assert not recording.part.exists()


def test_formats_and_languages_as_people_write_them() -> None:
    assert formats("srt, .VTT,srt") == ("srt", "vtt")
    assert formats(("json", "txt")) == ("txt", "json")
    for wrong in ("", "docx", "srt,", "verbose_json"):
        with pytest.raises(RequestError, match="Choose some of: srt, vtt, txt, json, tsv"):
            formats(wrong)
    assert [language(text) for text in ("German", "de", " EN ", "", None)] == ["de", "de", "en", None, None]
    with pytest.raises(RequestError, match="Did you mean german"):
        language("Germann")

"""Which files `launcher transcribe` takes, and what it calls their transcripts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.transcripts.recordings import Found, Recording, find
from tests.hostile import HOSTILE

HOSTILE_NAMES = [
    text for text in HOSTILE if text and "\0" not in text and "/" not in text and len(text) < 240
]
HOSTILE_NAMES += ["x" * 251, "é" * 125, os.fsdecode(b"\xff\xfe caf\xe9"), "~", "*", "[a]", "%"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()


def shown(found: Found) -> list[str]:
    return [recording.shown for recording in found.recordings]


def outputs(found: Found, ending: str = "srt") -> dict[str, str]:
    return {r.shown: os.path.relpath(r.output(ending)) for r in found.recordings}


def only(found: Found) -> Recording:
    (recording,) = found.recordings
    return recording


def test_a_folder_gives_its_recordings_in_order_and_nothing_else(here: Path) -> None:
    touch(
        "t/b.MP3", "t/a.wav", "t/notes.pdf", "t/a.srt", "t/deep/er/c.mkv", "t/.hidden.mp3", "t/.trash/d.mp3"
    )
    touch("t/._a.wav", "t/code.ts")
    assert shown(find(["t"])) == ["t/a.wav", "t/b.MP3", "t/deep/er/c.mkv"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(here: Path) -> None:
    touch("Prof. Smith", "voice.dat", "a.mp3")
    assert outputs(find(["Prof. Smith", "voice.dat", "a.mp3"])) == {
        "Prof. Smith": "Prof. Smith.srt",
        "voice.dat": "voice.dat.srt",
        "a.mp3": "a.srt",
    }


def test_transcripts_that_a_shell_names_too_are_passed_over(here: Path) -> None:
    touch("a.mp3", "a.srt", "a.json", "notes.txt")
    found = find(["a.json", "a.mp3", "a.srt", "notes.txt"])
    assert shown(found) == ["a.mp3"]
    assert found.passed_over == 3


def test_the_same_file_twice_is_one_recording(here: Path) -> None:
    touch("t/a.mp3")
    assert shown(find(["t/a.mp3", "t", "./t/a.mp3", str(here / "t" / "a.mp3")])) == ["t/a.mp3"]


def test_patterns(here: Path) -> None:
    touch("t/a.mp3", "t/b.wav", "t/x/c.mp3", "t/x/y/d.mp3", "t/e.txt")
    assert shown(find(["t/*.mp3"])) == ["t/a.mp3"]
    assert shown(find(["t/**/*.mp3"])) == ["t/a.mp3", "t/x/c.mp3", "t/x/y/d.mp3"]
    assert shown(find(["t/*"])) == ["t/a.mp3", "t/b.wav", "t/x/c.mp3", "t/x/y/d.mp3"]
    assert shown(find(["t/**"])) == ["t/a.mp3", "t/b.wav", "t/x/c.mp3", "t/x/y/d.mp3"]
    with pytest.raises(RequestError, match="matches no recording"):
        find(["t/*.txt"])


def test_a_file_whose_name_is_a_pattern_is_that_file(here: Path) -> None:
    touch("[ab]*.mp3", "a1.mp3")
    assert shown(find(["[ab]*.mp3"])) == ["[ab]*.mp3"]


def test_links_that_lead_in_circles_end(here: Path) -> None:
    touch("t/a.mp3", "t/x/b.mp3")
    Path("t/x/up").symlink_to("..")
    Path("t/x/self").symlink_to(".")
    Path("t/loop").symlink_to("loop")
    Path("t/loop.mp3").symlink_to("loop.mp3")
    assert shown(find(["t"])) == ["t/a.mp3", "t/loop.mp3", "t/x/b.mp3"]


def test_folders_behind_links_are_read(here: Path) -> None:
    touch("real/a.mp3")
    Path("t").mkdir()
    Path("t/data").symlink_to(here / "real")
    assert shown(find(["t"])) == ["t/data/a.mp3"]


def test_what_is_neither_file_nor_folder_is_a_trouble(here: Path) -> None:
    touch("t/a.mp3")
    os.mkfifo("t/pipe.mp3")
    assert shown(find(["t"])) == ["t/a.mp3"]
    assert find(["t/pipe.mp3"]).troubles == (("t/pipe.mp3", "It is neither a file nor a folder."),)


@pytest.mark.parametrize("path", ["nothing.mp3", "no/where", "a\0b", "x" * 300, "-leading", "t/a.mp3/b"])
def test_what_is_not_there_is_refused_in_a_sentence(here: Path, path: str) -> None:
    touch("t/a.mp3")
    with pytest.raises(RequestError) as caught:
        find([path])
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_link_to_nothing_says_so(here: Path) -> None:
    Path("a.mp3").symlink_to("gone.mp3")
    with pytest.raises(RequestError, match="a link to something that is gone"):
        find(["a.mp3"])


def test_names_that_differ_in_the_ending_only_keep_it(here: Path) -> None:
    touch("t/a.mp3", "t/a.wav", "t/b.mp3", "t/x/a.mp3")
    told_apart = {
        "t/a.mp3": "t/a.mp3.srt",
        "t/a.wav": "t/a.wav.srt",
        "t/b.mp3": "t/b.srt",
        "t/x/a.mp3": "t/x/a.srt",
    }
    assert outputs(find(["t"])) == told_apart
    # Not by which of them are named: the names would depend on the command.
    assert outputs(find(["t/a.mp3"])) == {"t/a.mp3": "t/a.mp3.srt"}


def test_another_folder_gets_the_same_tree(here: Path) -> None:
    touch("t/a.mp3", "t/x/a.mp3", "u/b.mp3")
    assert outputs(find(["t", "u/b.mp3"], Path("out"))) == {
        "t/a.mp3": "out/a.srt",
        "t/x/a.mp3": "out/x/a.srt",
        "u/b.mp3": "out/b.srt",
    }
    assert outputs(find(["t/**/*.mp3"], Path("out"))) == {"t/a.mp3": "out/a.srt", "t/x/a.mp3": "out/x/a.srt"}


def test_two_recordings_never_share_their_transcripts(here: Path) -> None:
    touch("t/a.mp3", "u/a.mp3", "u/b.wav", "t/b.mp3")
    with pytest.raises(RequestError, match=r"t/a\.mp3 and u/a\.mp3 would both be"):
        find(["t", "u/a.mp3"], Path("out"))
    assert outputs(find(["t/b.mp3", "u/b.wav"], Path("out"))) == {
        "t/b.mp3": "out/b.mp3.srt",
        "u/b.wav": "out/b.wav.srt",
    }


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_stay_in_their_folder_and_fit(here: Path, name: str) -> None:
    Path("t").mkdir()
    file = (
        Path("t", name[: 255 - 4] + ".mp3")
        if len(os.fsencode(name)) < 252
        else Path("t", name[:125] + ".mp3")
    )
    file.touch()
    recording = only(find(["t"]))
    assert recording.source == here / file
    for path in (recording.journal, recording.part, *map(recording.output, ("srt", "json"))):
        assert path.parent == here / "t"
        path.touch()  # the file system takes it
    assert len(os.listdir("t")) == 5
    assert shown(find(["t"])) == [str(file)]


def test_long_names_are_cut_and_stay_different(here: Path) -> None:
    touch(f"t/{'ü' * 124}1.mp3", f"t/{'ü' * 124}2.mp3")
    found = outputs(find(["t"]), "json")
    assert len(set(found.values())) == 2
    assert all(len(os.fsencode(os.path.basename(name))) <= 255 for name in found.values())
    assert outputs(find(["t"]), "json") == found

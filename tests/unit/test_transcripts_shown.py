"""What `launcher transcribe` shows: bars that fit a terminal, commands to paste; and that nothing heavy is loaded."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from launcher.cli.bars import Bars, cut, lines
from launcher.cli.transcribe import quoted, same_command
from launcher.transcripts.report import OnTheWay, Progress, position
from tests.hostile import HOSTILE

RUNNING = OnTheWay("interviews/anna.mp3", 723.4, 3600.0, None, 10, 31.04, 92.0)


def progress(*running: OnTheWay, left_s: float | None = 720.0) -> Progress:
    return Progress(2, 12, 4800.0, 62.04, left_s, running)


def test_the_bars_say_audio_time_speed_and_what_is_left() -> None:
    first, last = lines(progress(RUNNING))
    assert first == "interviews/anna.mp3 ####................ 12:03 of 1:00:00, 31.0×, 92 s left"
    assert last == "2 of 12 recordings, 80 min of audio, 62.0× real time, 12 min left"


def test_what_is_not_known_is_left_out() -> None:
    unknown = OnTheWay("a.mp3", 12.0, None)
    first, last = lines(progress(unknown, left_s=None))
    assert first.split() == ["a.mp3", "." * 20, "0:12"]
    assert "left" not in last
    assert lines(Progress(0, 1, 0.0, 0.0, None, ())) == ["0 of 1 recordings"]


def test_an_upload_shows_its_bytes() -> None:
    (first, _) = lines(progress(OnTheWay("a.mp3", 0.0, None, 3 * 2**20, 2**30)))
    assert first.split(maxsplit=1)[1] == "sending 3.0 MB of 1.0 GB"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_one_line_that_fits(name: str) -> None:
    (first, _) = lines(progress(OnTheWay(f"{name}日本語\x1b[2J.mp3", 1.0, 2.0)))
    assert first.isprintable()
    assert "\x1b" not in first
    assert len(cut(first, 40)) <= 40


def test_wide_characters_count_twice() -> None:
    assert cut("日本語の会議.mp3", 10) == "…会議.mp3"
    assert cut("short", 10) == "short"


def test_positions() -> None:
    assert [position(s) for s in (0, 59.9, 723, 3600, 36_000.5)] == [
        "0:00",
        "0:59",
        "12:03",
        "1:00:00",
        "10:00:00",
    ]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_bars_are_drawn_over_themselves_and_leave_nothing() -> None:
    stream = Terminal()
    bars = Bars(stream)
    bars.show(progress(RUNNING, RUNNING))
    bars.say("Session x is started\nfor this.")
    bars.show(progress(RUNNING))  # too soon after the first
    bars.end()
    drawn, _, after = stream.getvalue().partition("\033[3F\033[J")
    assert "█" in drawn
    assert drawn.count("\n") == 3
    assert after == "\033[33mlauncher:\033[0m Session x is started?for this.\n"


def test_where_there_is_no_terminal_only_sentences_are_said() -> None:
    plain, quiet = io.StringIO(), io.StringIO()
    for stream, is_quiet in ((plain, False), (quiet, True)):
        bars = Bars(stream, quiet=is_quiet)
        bars.show(progress(RUNNING))
        bars.say("Hello.")
        bars.end()
    assert plain.getvalue() == "launcher: Hello.\n"
    assert quiet.getvalue() == ""


@pytest.mark.parametrize("word", [*(text for text in HOSTILE if "\0" not in text), os.fsdecode(b"\xff'\\\n")])
def test_a_command_to_paste_is_printable_and_means_the_same(word: str) -> None:
    shown = quoted(word)
    assert shown.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)


def test_nothing_heavy_is_loaded_for_it() -> None:
    heavy = ("openai", "gradio", "flask", "av", "numpy", "faster_whisper", "ctranslate2", "aiohttp", "torch")
    mine = (
        "launcher.cli.transcribe",
        "launcher.cli.bars",
        "launcher.transcripts.work",
        "launcher.transcripts.carrier",
    )
    code = f"import sys, {', '.join(mine)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("named", [["--session", "words-3f9a"], ["--session=words-3f9a"]])
def test_the_command_to_go_on_with_names_no_session_that_is_over(
    named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["launcher", "transcribe", "my talks", *named, "--overwrite", "--words"])
    assert same_command(session=False) == "launcher transcribe 'my talks' --words"
    assert same_command() == f"launcher transcribe 'my talks' {' '.join(named)} --words"

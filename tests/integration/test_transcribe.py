"""`launcher transcribe` with a real session: what comes out, what is passed over, and bad input of every kind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import transcripts as api
from launcher.transcripts.report import Progress
from tests.conftest import skip_loudly
from tests.integration.transcribing import ALL, WORDS, Desk, desk, left_behind, transcripts
from tests.markdown import ROOT, blocks
from tests.speech import convert, needs_speech

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    needs_speech()
    with desk(tmp_path_factory.mktemp("desk")) as made:
        made.session()
        yield made


@pytest.fixture
def here(shared: Desk, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own below the desk."""
    folder: Path = shared.folder / request.node.name[:60].replace("[", "-").replace("]", "")
    folder.mkdir()
    return folder


def test_a_folder_becomes_transcripts_and_a_table(shared: Desk, here: Path) -> None:
    """Blackfish 10: a folder of recordings."""
    shared.audio(f"{here.name}/a.wav", words=("zero", "one", "two"))
    shared.audio(f"{here.name}/deep/b.wav", words=("yes", "no"))
    done = shared.run(here.name, *ALL)
    assert done.code == 0, done
    assert sorted(transcripts(here)) == sorted(
        f"{stem}.{ending}" for stem in ("a", "deep/b") for ending in ("json", "srt", "tsv", "txt", "vtt")
    )
    assert (here / "a.txt").read_text().lower().split() == ["zero", "one", "two"]
    data = json.loads((here / "deep" / "b.json").read_text())
    assert len(data["words"]) == len(data["text"].split())
    assert left_behind(here) == []
    for word in ("Recording", "Length", "Language", "Words", "Marks", "State", "done", "goes on"):
        assert word in done.text
    assert "\033" not in done.text + done.error
    assert "real time" not in done.error, "no bar where there is no terminal"
    again = shared.run(here.name, *ALL, "--json")
    assert again.code == 0
    assert set(again.states.values()) == {"skipped"}
    assert again.data["recordings"][0]["words"] == 3
    assert again.data["session"] is None
    assert again.error == ""


def test_one_json_object_tells_all(shared: Desk, here: Path) -> None:
    shared.audio(f"{here.name}/a.wav", words=("zero",))
    (here / "b.mp3").write_text("this is a text\n" * 50)
    done = shared.run(here.name, "--json", "--format", "txt")
    assert done.code == 1
    assert done.error == ""
    assert done.states == {"a.wav": "done", "b.mp3": "failed"}
    first, second = done.data["recordings"]
    assert first["outputs"] == [str(here / "a.txt")]
    assert first["duration_s"] == pytest.approx(2.5, abs=1.5)
    assert second["message"]
    assert done.data["session_goes_on"]
    assert not (here / "b.txt").exists()
    assert left_behind(here) == []


def test_a_dry_run_says_all_and_writes_nothing(shared: Desk, here: Path) -> None:
    """Blackfish 10: `--dry-run`."""
    shared.audio(f"{here.name}/a.wav", words=("zero",))
    before = sorted(here.rglob("*"))
    done = shared.run(here.name, "--dry-run", "--output-dir", f"{here.name}/out")
    assert done.code == 0
    assert "is used" in done.text
    assert "new" in done.text
    data = shared.run(here.name, "--dry-run", "--json", "--hours", "1", "--model", "words").data
    assert "is started on local, for up to 1 h" in data["session"]
    assert data["recordings"][0]["outputs"] == [
        str(here / f"a.{ending}") for ending in ("srt", "txt", "json")
    ]
    assert sorted(here.rglob("*")) == before


def test_a_changed_file_is_done_again_and_a_corrected_transcript_is_kept(shared: Desk, here: Path) -> None:
    for name in ("a", "b"):
        shared.audio(f"{here.name}/{name}.wav", words=("zero", "one"))
    assert shared.run(here.name, "--format", "txt").code == 0
    (here / "b.txt").write_text("corrected by hand\n")
    for name in ("a", "b"):
        shared.audio(f"{here.name}/{name}.wav", words=("yes", "no", "stop"))
    done = shared.run(here.name, "--format", "txt")
    assert done.code == 0
    assert "The file has changed since its transcript was made: it is done again." in done.text
    assert "b.txt was edited. --overwrite replaces it." in done.text
    assert (here / "a.txt").read_text().lower().split() == ["yes", "no", "stop"]
    assert (here / "b.txt").read_text() == "corrected by hand\n"
    assert shared.run(here.name, "--format", "txt", "--overwrite").code == 0
    assert (here / "b.txt").read_bytes() == (here / "a.txt").read_bytes()


def test_more_formats_come_from_the_json_without_a_session(shared: Desk, here: Path) -> None:
    shared.audio(f"{here.name}/a.wav", words=("zero", "one"))
    shared.audio(f"{here.name}/b.wav", words=("zero", "one"))
    assert shared.run(f"{here.name}/a.wav", "--format", "json").code == 0
    done = shared.run(f"{here.name}/a.wav", "--format", "srt,vtt,txt,tsv", "--json")
    assert done.states == {"a.wav": "done"}
    assert done.data["session"] is None
    assert shared.run(f"{here.name}/b.wav", "--format", "srt,vtt,txt,tsv,json").code == 0
    made = transcripts(here)
    assert all(made[f"a.{ending}"] == made[f"b.{ending}"] for ending in ("srt", "vtt", "txt", "tsv", "json"))


def test_hostile_names(shared: Desk, here: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-leading.wav",
        b'it\'s "so".wav',
        b"$(id).wav",
        b"\xff\xfe.wav",
        b"x" * 251 + b".wav",
    ]
    source = shared.audio(f"{here.name}/source/plain.wav", words=("zero", "one"))
    for name in names:
        os.link(source, os.path.join(os.fsencode(here), name))
    done = shared.run(here.name, "--json", "--format", "txt")
    assert set(done.states.values()) == {"done"}, done
    assert len(done.states) == 7
    texts = {path.read_text() for path in here.rglob("*.txt")}
    assert len(texts) == 1
    assert left_behind(here) == []
    table = shared.run(here.name, "--format", "txt").text
    assert len([line for line in table.splitlines() if "skipped" in line]) == 7, "one line each"
    assert shared.run("-leading.wav").code == 2


def test_files_that_cannot_be(shared: Desk, here: Path) -> None:
    good = shared.audio(f"{here.name}/good.wav", words=("zero",))
    (here / "empty.mp3").touch()
    (here / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\1\0\0mdat" + bytes(3000))
    (here / "gone.wav").symlink_to("nowhere.wav")
    (here / "locked.wav").write_bytes(good.read_bytes())
    (here / "locked.wav").chmod(0)
    caps = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    done = shared.run(here.name, "--json", "--format", "txt", before=caps)
    assert done.code == 1
    assert done.states == {
        "good.wav": "done", "empty.mp3": "failed", "cut.mp4": "failed", "gone.wav": "failed", "locked.wav": "failed",
    }  # fmt: skip
    said = {os.path.basename(one["path"]): one["message"] for one in done.data["recordings"]}
    assert said["locked.wav"] == "You may not read it."
    assert said["gone.wav"] == "It is a link to something that is gone."
    assert said["empty.mp3"]
    assert said["cut.mp4"]
    assert left_behind(here) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(shared: Desk, here: Path) -> None:
    shared.audio(f"{here.name}/in/a.wav", words=("zero",))
    (here / "in").chmod(0o555)
    caps = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
    done = shared.run(f"{here.name}/in", before=caps)
    assert done.code == 8
    assert "cannot be written: Permission denied. Choose another place with --output-dir." in done.error
    assert shared.run(f"{here.name}/in", "--output-dir", f"{here.name}/out", before=caps).code == 0
    (here / "in").chmod(0o755)


def test_a_full_disk_keeps_what_is_done_and_the_same_command_goes_on(shared: Desk, here: Path) -> None:
    shared.audio(f"{here.name}/a.wav", repeat=2)
    (here / "out").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", here / "out"], check=False, capture_output=True
    )
    if mounted.returncode:
        skip_loudly("a full disk: this machine does not let us mount a tmpfs")
    try:
        command = (f"{here.name}/a.wav", "--output-dir", f"{here.name}/out", *ALL)
        done = shared.run(*command)
        assert done.code == 8
        assert "No space left on device. Free some space; what is finished is kept" in done.error
        assert "stalled" in done.text
        assert transcripts(here / "out") == {}
        subprocess.run(["mount", "-o", "remount,size=2m", here / "out"], check=True)
        assert shared.run(*command).code == 0
        assert shared.run(f"{here.name}/a.wav", *ALL).code == 0
        assert transcripts(here / "out") == {
            name: text for name, text in transcripts(here).items() if "/" not in name
        }
        assert left_behind(here / "out") == []
    finally:
        subprocess.run(["umount", here / "out"], check=True)


def test_two_commands_at_once_share_the_work(shared: Desk, here: Path) -> None:
    for name in "abcd":
        shared.audio(f"{here.name}/{name}.wav", words=WORDS[:5])
    with shared.start(here.name, "--json", *ALL) as one, shared.start(here.name, "--json", *ALL) as other:
        reports = [json.loads(process.communicate(timeout=100)[0]) for process in (one, other)]
    states = [sorted(r["state"] for r in report["recordings"]) for report in reports]
    assert sum(each.count("done") for each in states) == 4, "each recording is transcribed once"
    assert {state for each in states for state in each} <= {"done", "skipped", "running"}
    messages = {r["message"] for report in reports for r in report["recordings"] if r["state"] == "running"}
    assert messages <= {"Another command is at it."}
    assert len(transcripts(here)) == 20
    assert len(set(transcripts(here).values())) == 5, "all four say the same"
    assert left_behind(here) == []


def test_the_same_from_python(shared: Desk, here: Path) -> None:
    source = shared.audio(f"{here.name}/a.wav", words=("zero", "one"))
    steps: list[Progress] = []
    report = api.transcribe(
        here, formats="txt", language="English", launcher=shared.launcher, show=steps.append
    )
    assert report.complete
    (result,) = report.results
    assert (result.path, result.state, result.language) == (str(source), "done", "en")
    assert result.outputs == (here / "a.txt",)
    assert steps[-1].recordings == 1
    assert report.kept


def test_what_the_server_would_refuse_for_all_is_said_once(shared: Desk, here: Path) -> None:
    for name in "ab":
        shared.audio(f"{here.name}/{name}.wav", words=("zero",))
    done = shared.run(here.name, "--language", "Klingon")
    assert done.code == 2
    assert done.error == (
        'launcher: Whisper knows no language "Klingon". Give a code such as de, or an English name.\n'
    )
    for wrong, said in (
        (("--session", "nobody"), 'There is no session "nobody"'),
        (("--session", "words", "--hours", "1"), "takes no --hours"),
        (("--session", "words", "--model", "tiny-chat"), "not"),
        (("--model", "simulated"), "does not transcribe"),
        (("--format", "docx"), "Choose some of"),
    ):
        done = shared.run(here.name, *wrong)
        assert done.code in (2, 4, 6), (wrong, done)
        assert said in done.error, (wrong, done.error)
        assert done.text == ""


def test_the_examples_of_the_page(shared: Desk, here: Path) -> None:
    """As they stand in docs/transcribing.md; the session is the real one, and the tiny model knows English only."""
    shared.audio(f"{here.name}/interviews/anna.wav", words=("yes",))
    convert(shared.audio(f"{here.name}/talk.wav", words=("no",)), here / "talk.mp4")
    (here / "talk.wav").unlink()
    (session,) = (session for session in shared.launcher.sessions() if not session.status().ended)
    page = ROOT / "docs" / "transcribing.md"
    (block,) = (block for block in blocks(page, "sh") if block.text.startswith("launcher transcribe"))
    lines = [line.replace("faster-whisper-3f9a2c1b", session.id) for line in block.text.splitlines()]
    for line in lines:
        words = shlex.split(line.replace("--language de", "--language en"), comments=True)
        assert words[:2] == ["launcher", "transcribe"], line
        done = shared.run(*words[2:], cwd=here)
        assert done.code == 0, (line, done)
    assert sorted(transcripts(here)) == [
        "interviews/anna.json", "interviews/anna.srt", "interviews/anna.txt", "talk.srt", "talk.vtt",
        "texts/anna.json", "texts/anna.srt", "texts/anna.txt",
    ]  # fmt: skip


def test_a_terminal_shows_bars(shared: Desk, here: Path) -> None:
    shared.audio(f"{here.name}/a.wav")
    read, write = os.openpty()
    seen = b""
    with shared.start(here.name, env={"COLUMNS": "80", "TERM": "xterm"}, terminal=write) as process:
        os.close(write)
        with (
            open(read, "rb", buffering=0) as terminal,
            contextlib.suppress(OSError),
        ):  # EIO: its last user has left
            while more := terminal.read(65536):
                seen += more
        process.communicate(timeout=60)
    assert process.returncode == 0
    shown = seen.decode()
    assert "a.wav" in shown
    assert "0 of 1 recordings" in shown
    assert "real time" in shown
    lines = [line for part in shown.split("\033[") for line in part.splitlines()]
    assert all(len(line) <= 81 for line in lines), "a line that wraps would not be drawn over"

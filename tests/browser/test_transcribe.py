"""The transcribe page with the real server and the shipped model: upload, path, microphone; hear, edit, download."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from launcher.ui.snippets import SOUND, audio_snippets
from launcher.whisper import formats
from launcher.whisper.segments import Segment
from tests.browser.chat import Address, notice, open_side
from tests.browser.conftest import FLAGS, Visitor
from tests.browser.listening import (
    KEY,
    Listening,
    by_path,
    choose,
    downloaded,
    enter,
    listening,
    row,
    said,
    state,
)
from tests.browser.test_keyboard import complaints
from tests.conftest import needs, skip_loudly
from tests.integration.test_ui_client import RUN
from tests.speech import needs_speech, say, speech
from tests.whisper.conftest import NAME as MODEL

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NAME = "words.wav"
HOSTILE = "<img src=x onerror=\"window.hacked=1\"> $(id) 'é' -- .wav"


@pytest.fixture(scope="module")
def session() -> Iterator[Listening]:
    """One session for all tests here."""
    needs_speech()
    with listening() as running:
        yield running


@pytest.fixture(scope="module")
def words(session: Listening) -> Path:
    """Three words, in the folder that the session may read."""
    return speech(["one", "two", "three"], session.server.folder / NAME, gap_s=2.0)


@pytest.mark.parametrize("way", ["direct", "node", "rnode-https"])
def test_upload_text_vtt(
    way: str, visitor: Visitor, address: Address, session: Listening, words: Path
) -> None:
    where = address(session, way)
    page = enter(visitor, where)
    choose(page, words)
    state(page, NAME, "done")
    assert said(page) == "one two three"
    expect(row(page, NAME)).to_contain_text(" · English · 3 words")
    name, text = downloaded(page, "VTT")
    assert name == "words.vtt"
    blocks = text.split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert [block.splitlines()[1] for block in blocks[1:] if block] == page.locator(
        "#lines .said"
    ).all_inner_texts()
    origin = urlsplit(where)
    strangers = {
        url for url in visitor.asked if urlsplit(url)[:2] != origin[:2] and url[:5] not in ("data:", "blob:")
    }
    assert not strangers


def test_a_queue_with_a_wrong_file_and_hostile_names(
    visitor: Visitor, address: Address, session: Listening, words: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.mp3"
    wrong.write_text("I am not audio at all.\n" * 20)
    hostile = say("yes", tmp_path / HOSTILE)
    page = enter(visitor, address(session, "direct"))
    choose(page, hostile, wrong, words)
    state(page, wrong.name, "failed")
    expect(row(page, wrong.name)).to_contain_text("not audio")  # the server's own sentence
    state(page, HOSTILE, "done")
    state(page, NAME, "done")
    assert said(page) == "yes"
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    row(page, NAME).get_by_role("button", name=NAME, exact=True).click()
    assert said(page) == "one two three"
    row(page, wrong.name).get_by_role("button", name="Remove").click()
    expect(row(page, wrong.name)).to_have_count(0)
    assert page.evaluate("window.hacked") is None


@pytest.fixture
def talking(chromium: Browser, tmp_path: Path) -> Iterator[Visitor]:
    """A browser whose microphone hears a spoken word, again and again."""
    heard = say("stop", tmp_path / "microphone.wav")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    program = needs("chromium", "chromium")
    with chromium.browser_type.launch(
        executable_path=program, args=[*FLAGS, *flags, f"--use-file-for-fake-audio-capture={heard}"]
    ) as browser:
        yield Visitor(browser.new_context(), [])


def test_cluster_path_heard_line_by_line(
    visitor: Visitor, address: Address, session: Listening, words: Path, tmp_path: Path
) -> None:
    """Blackfish 12: a recording on the cluster."""
    page = enter(visitor, address(session, "rnode"))
    by_path(page, str(words))
    state(page, NAME, "done")
    assert said(page) == "one two three"
    assert not [url for url in visitor.asked if "words" in url], (
        "a path in an address would be in the portal's log"
    )
    last = page.locator("#lines li").last
    last.locator(".said").click()
    page.wait_for_function("!sound.paused && sound.currentTime > 3")
    expect(last).to_have_attribute("aria-current", "true")
    page.keyboard.press("Space")
    assert page.evaluate("sound.paused")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_function("!sound.paused && sound.currentTime < 3")
    expect(page.locator("#lines li").first).to_have_attribute("aria-current", "true")

    elsewhere = say("yes", tmp_path / "elsewhere.wav")
    by_path(page, str(elsewhere))
    state(page, elsewhere.name, "failed")
    expect(row(page, elsewhere.name)).to_contain_text("in these folders only")


def test_edits_go_into_every_file_and_survive_a_reload(
    visitor: Visitor, address: Address, session: Listening, words: Path
) -> None:
    page = enter(visitor, address(session, "node"))
    open_side(page, "Settings")
    page.get_by_label("Times for each word").check()
    page.get_by_role("button", name="Close settings").click()
    choose(page, words)
    state(page, NAME, "done")
    lines = page.locator("#lines li")
    count = lines.count()
    lines.first.locator(".said").dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type('<b>Uno</b> --> & "ein"  ')
    page.keyboard.press("Enter")
    expect(lines.first).to_contain_text("edited")
    row_button = lines.first.get_by_role("button", name="Edit the line")
    row_button.click()
    page.keyboard.type("never mind")
    page.keyboard.press("Escape")
    assert lines.first.locator(".said").inner_text() == '<b>Uno</b> --> & "ein"'

    data = json.loads(downloaded(page, "JSON")[1])
    segments = [Segment.from_dict(part) for part in data["segments"]]
    assert len(segments) == count
    assert (data["language"], data["task"], data["usage"]) == (
        "english",
        "transcribe",
        {"type": "duration", "seconds": data["duration"]},
    )
    assert data["text"] == formats.text(segments)
    spoken = [word["word"] for word in data["words"]]
    assert spoken == " ".join(segment.text for segment in segments[1:]).split()
    for label, write in (
        ("Text", formats.txt),
        ("SRT", formats.srt),
        ("VTT", formats.vtt),
        ("TSV", formats.tsv),
    ):
        assert downloaded(page, label)[1] == write(segments), label

    page.reload()
    expect(page.locator("#lines li")).to_have_count(count)
    assert said(page).startswith('<b>Uno</b> --> & "ein"')
    expect(page.locator("#silent")).to_have_text("To hear it, choose the file again.")
    choose(page, words)
    expect(page.locator("#player")).to_be_visible()
    expect(page.locator("#queue li")).to_have_count(1)
    lines.first.get_by_role("button", name="edited").click()
    assert said(page) == "one two three"
    open_side(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_microphone(talking: Visitor, address: Address, session: Listening) -> None:
    page = enter(talking, address(session, "direct"))
    page.get_by_role("button", name="Record with the microphone").click()
    stop = page.get_by_role("button", name="Stop recording")
    expect(stop).to_contain_text("0:02")
    stop.click()
    recording = page.locator("#queue li")
    expect(recording).to_have_attribute("data-state", "done", timeout=40_000)
    assert "stop" in said(page).split()
    page.wait_for_function("sound.duration > 1 && sound.duration < 60")
    with page.expect_download() as download:
        recording.get_by_role("button", name="Save sound").click()
    assert download.value.path().read_bytes()[:4] == b"\x1a\x45\xdf\xa3"


def test_nothing_else_is_open(session: Listening) -> None:
    own = {"Authorization": f"Bearer {KEY}"}
    page = session.gateway.ask("GET", "/ui/", own)
    policy = page.header("Content-Security-Policy") or ""
    assert "media-src 'self' blob:;" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert KEY not in page.body.decode()
    for method, path in (
        ("POST", "/gradio_api/upload"),
        ("GET", "/sounds/../session.json"),
        ("GET", "/sounds/x"),
    ):
        assert session.gateway.ask(method, f"/ui{path}", own).status in (400, 404)
    assert session.gateway.ask("POST", "/ui/sounds", body="{}", key=False).status == 401


@pytest.mark.parametrize("label", RUN)
def test_audio_snippets_run_as_pasted(
    label: str, session: Listening, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, program, package = RUN[label]
    needs(program, package)
    if label == "R" and subprocess.run(["Rscript", "-e", "library(httr2)"], capture_output=True).returncode:
        skip_loudly("R package httr2: apt-get install r-cran-httr2")
    (tmp_path / SOUND).symlink_to(words)
    code = next(s.code for s in audio_snippets(f"{session.gateway.url}/v1", MODEL) if s.label == label)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    shown = subprocess.run(
        argv, input=code, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    spoken = [line for line in shown.stdout.split() if line in ("one", "two", "three")]
    assert spoken == ["one", "two", "three"], shown.stderr


def answering(page: Page, events: list[dict[str, Any]]) -> None:
    """Answer the next audio requests with events that the shipped model does not write."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    page.route(
        "**/v1/audio/*",
        lambda route: route.fulfill(content_type="text/event-stream; charset=utf-8", body=body),
    )


TRICKY = [
    (0.0, 1.0, " plain"),
    (1.0, 1.0, " no length"),
    (0.5, 1.004, " before --> the one before"),
    (1.2, 2.0, "  "),
    (2.0, 3.0, ' <img src=x onerror="window.hacked=1"> & <script>window.hacked=1</script>'),
    (3.0, 4.0, "你好"),
    (4.0, 5.0, "，世界 "),
    (3599.99, 3600.0, " ไทย\t\x85\u2028\ufeffend\0"),
    (3600.0, 36000.005, " -dash\nand \U00020000\x1cx"),
]


def test_long_hostile_transcripts(
    visitor: Visitor, address: Address, session: Listening, words: Path
) -> None:
    """Two thousand lines; what is there is not made again when one more comes or is changed."""
    page = enter(visitor, address(session, "direct"))
    texts = [*TRICKY, *((40000.0 + 5 * n, 40004.0 + 5 * n, f" Line {n}.") for n in range(2000))]
    segments = [
        {"type": "transcript.text.segment", "start": start, "end": end, "text": text, "marks": marks}
        for (start, end, text), marks in zip(
            texts, [[], ["repeated", "unsure"], *([[]] * len(texts))], strict=False
        )
    ]
    progress = {"type": "transcript.text.progress", "cursor": "1", "done_s": 50000.0, "duration_s": 50004.0}
    done = {"type": "transcript.text.done", "text": "", "duration": 50004.0, "language": "english"}
    answering(page, [*segments, {**progress, "language": "en", "language_probability": 0.98}, done])
    choose(page, words)
    state(page, NAME, "done")
    expect(page.locator("#lines li")).to_have_count(len(texts))
    made = [Segment.from_dict({**segment, "marks": segment["marks"]}) for segment in segments]
    for label, write in (
        ("Text", formats.txt),
        ("SRT", formats.srt),
        ("VTT", formats.vtt),
        ("TSV", formats.tsv),
    ):
        assert downloaded(page, label)[1] == write(made), label
    assert json.loads(downloaded(page, "JSON")[1])["text"] == formats.text(made)
    assert page.evaluate("window.hacked") is None

    page.evaluate("""
      window.made = 0;
      new MutationObserver((all) => all.forEach((one) => (window.made += one.addedNodes.length)))
        .observe(document.getElementById("lines"), { childList: true });
    """)
    page.get_by_role("button", name="1 to listen again").click()
    marked = page.locator("#lines li").nth(1)
    expect(marked.get_by_role("button", name="Hear from")).to_be_focused()
    marked.get_by_role("button", name="unsure").click()
    expect(page.get_by_role("button", name="to listen again")).to_be_hidden()
    # A line at the edge stays under the pointer for the second click. (The file's own sound is shorter than the text.)
    page.evaluate("page.hearNothing()")
    page.locator("#lines").evaluate("lines => (lines.scrollTop = 612)")
    edge = page.evaluate(
        "(() => { const box = lines.getBoundingClientRect(); return [box.left + 200, box.top + 12]; })()"
    )
    at = page.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('.line').innerText", edge)
    page.mouse.dblclick(*edge)
    assert page.locator("#lines .editing").inner_text() == at
    page.keyboard.press("Escape")
    find = page.get_by_label("Find in the text")
    find.fill("line 1999")
    find.press("Enter")
    expect(page.locator("#lines").get_by_text("Line 1999.")).to_be_in_viewport()
    page.get_by_label("Replace by").fill("<i>Zeile</i>")
    page.get_by_role("button", name="Replace all").click()
    expect(page.locator("#lines li").last).to_contain_text("<i>Zeile</i>.")
    assert page.evaluate("window.made") == 0
    page.reload()
    expect(page.locator("#lines li").last).to_contain_text("<i>Zeile</i>.")


def test_keys(visitor: Visitor, address: Address, session: Listening, words: Path) -> None:
    page = enter(visitor, address(session, "direct"))
    choose(page, words)
    state(page, NAME, "done")
    lines = page.locator("#lines li")
    page.get_by_label("Find in the text").focus()
    page.keyboard.press("Shift+Tab")
    page.locator("#lines .at").first.focus()
    page.keyboard.press("ArrowDown")
    expect(lines.nth(1).locator(".at")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("e")
    page.keyboard.type(", first")
    page.keyboard.press("Control+Enter")
    second = lines.nth(1).get_by_role("textbox")
    expect(second).to_be_focused()
    page.wait_for_function("!sound.paused")
    page.keyboard.press("Control+Space")
    page.wait_for_function("sound.paused")
    page.keyboard.press("Escape")
    expect(lines.nth(1).locator(".at")).to_be_focused()
    page.keyboard.press("Space")
    page.wait_for_function("!sound.paused")
    assert said(page) == "one, first two three"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing(
    colours: str, visitor: Visitor, address: Address, session: Listening, words: Path
) -> None:
    page = enter(visitor, address(session, "direct"))
    page.emulate_media(color_scheme="dark" if colours == "dark" else "light", reduced_motion="reduce")
    page.reload()
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()
    assert complaints(page) == ""
    segments = [
        {"type": "transcript.text.segment", "start": 1.0 * n, "end": n + 0.9, "text": " Yes.", "marks": marks}
        for n, marks in enumerate(([], ["unsure"], ["repeated"]))
    ]
    progress = {
        "type": "transcript.text.progress",
        "cursor": "1",
        "done_s": 3.0,
        "duration_s": 3.0,
        "language": "en",
    }
    done = {"type": "transcript.text.done", "text": "", "duration": 3.0, "language": "english"}
    answering(page, [*segments, {**progress, "language_probability": 0.5}, done])
    choose(page, words)
    state(page, NAME, "done")
    page.locator("#lines .said").first.dblclick()
    assert complaints(page) == ""
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    page.unroute("**/v1/audio/*")
    by_path(page, "/nowhere/x.wav")
    state(page, "x.wav", "failed")
    assert complaints(page) == ""
    for tab in ("Session", "Settings", "Code") if colours == "light" else ("Settings",):
        if page.locator("#side.open").count() == 0:
            open_side(page, tab)
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        assert complaints(page) == "", tab
    expect(notice(page)).to_be_hidden()

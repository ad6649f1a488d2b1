"""The transcribe page when things go wrong: a busy session, a lost connection, a reload in the middle, the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.cable import Cable
from tests.browser.chat import Address, notice
from tests.browser.conftest import Visitor
from tests.browser.listening import Listening, by_path, choose, downloaded, enter, listening, row, said, state
from tests.programs.front import wait_until
from tests.speech import needs_speech, say, speech
from tests.whisper.conftest import NAME as MODEL

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LONG = "long.wav"
WORDS = ("one", "two", "stop", "go")


@pytest.fixture(scope="module")
def session() -> Iterator[Listening]:
    """A session that listens to one file at once; the last test here ends it."""
    needs_speech()
    with listening("--max-requests", "1") as running:
        yield running


@pytest.fixture(scope="module")
def long(session: Listening) -> Path:
    """A minute, which takes some seconds."""
    return speech(WORDS, session.server.folder / LONG, gap_s=1.1, repeat=10)


@pytest.fixture(scope="module")
def whole(session: Listening, long: Path) -> str:
    """What an undisturbed request hears in it."""
    with long.open("rb") as file:
        heard = session.server.client.audio.transcriptions.create(file=file, model=MODEL)
    return heard.text


def halfway(page: Page) -> None:
    """Wait until some of the long file has been heard."""
    expect(page.locator("#lines li").nth(2)).to_be_visible(timeout=60_000)
    expect(row(page, LONG)).to_have_attribute("data-state", "listening")


def test_a_busy_session_is_asked_again_and_a_stopped_file_goes_on(
    visitor: Visitor, address: Address, session: Listening, whole: str, tmp_path: Path
) -> None:
    """Six minutes, so that the first file cannot be done before a slow browser has pressed Stop."""
    page = enter(visitor, address(session, "direct"))
    choose(page, speech(WORDS, tmp_path / LONG, gap_s=1.1, repeat=60))
    halfway(page)
    choose(page, say("yes", tmp_path / "yes.wav"))
    expect(row(page, "yes.wav")).to_contain_text("The session is busy: tries again in")
    row(page, LONG).get_by_role("button", name="Stop").click()
    state(page, LONG, "stopped")
    state(page, "yes.wav", "done")
    wait_until(session.server.rests)
    row(page, LONG).get_by_role("button", name=LONG, exact=True).click()
    heard = page.locator("#lines li").count()
    row(page, LONG).get_by_role("button", name="Go on").click()
    expect(page.locator("#lines li").nth(heard + 2)).to_be_visible(timeout=60_000)
    row(page, LONG).get_by_role("button", name="Stop").click()
    state(page, LONG, "stopped")
    shared = min(len(said(page)), len(whole) // 2)  # the end of `whole` may be heard otherwise than a middle
    assert said(page)[:shared] == whole[:shared]
    wait_until(session.server.rests)


def test_a_lost_connection_goes_on_where_it_was(
    visitor: Visitor, session: Listening, long: Path, whole: str
) -> None:
    with contextlib.closing(Cable(session.gateway.port)) as cable:
        page = enter(visitor, f"http://127.0.0.1:{cable.port}/")
        sent: list[Request] = []
        page.on("request", lambda request: sent.append(request))
        by_path(page, str(long))
        halfway(page)
        cable.pull()
        expect(row(page, LONG)).to_contain_text("Connection lost at 0:")
        wait_until(session.server.rests, 20)  # nobody listens for nobody
        cable.plug()
        row(page, LONG).get_by_role("button", name="Try now").click()
        state(page, LONG, "done")
    assert said(page) == whole
    asked = [request.post_data or "" for request in sent if "/audio/" in request.url]
    assert "resume_from" not in asked[0]
    assert "resume_from" in asked[-1]


def test_a_reload_in_the_middle(
    visitor: Visitor, address: Address, session: Listening, long: Path, whole: str
) -> None:
    page = enter(visitor, address(session, "node"))
    choose(page, long)
    halfway(page)
    page.reload()
    state(page, LONG, "cut")
    expect(row(page, LONG)).to_contain_text("Choose the file again to go on.")
    assert whole.startswith(said(page))
    choose(page, long)
    state(page, LONG, "done")
    assert said(page) == whole
    expect(page.locator("#queue li")).to_have_count(1)


def test_the_end_of_the_session(visitor: Visitor, address: Address, session: Listening, long: Path) -> None:
    page = enter(visitor, address(session, "node"))
    by_path(page, str(long))
    halfway(page)
    session.end()
    state(page, LONG, "cut")
    expect(row(page, LONG)).to_contain_text("The session has ended. Transcribed until 0:")
    expect(notice(page)).to_contain_text("you can still edit and download them")
    heard = downloaded(page, "Text")[1].splitlines()
    expect(page.locator("#lines .said")).to_have_text(heard)  # they are shown a moment after they were heard
    page.locator("#lines .said").first.dblclick()
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    assert downloaded(page, "Text")[1].splitlines() == [f"{heard[0]}!", *heard[1:]]

"""What the page says of its session: idle, ending, restarting, ended, out of reach; and what sending does then."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.cable import Cable
from tests.browser.chat import (
    QUESTION,
    Address,
    answers,
    ask,
    begin_anew,
    entry,
    finish,
    notice,
    open_side,
    questions,
)
from tests.browser.conftest import ANSWER, Visitor
from tests.browser.session import Session
from tests.programs.front import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def state(page: Page) -> str:
    return page.locator('[data-session="state"]').inner_text()


def renew(page: Page) -> Locator:
    return page.locator('[data-session="renew"]')


def idle(session: Session, left_s: float) -> dict[str, float]:
    now = time.time()
    return {"limit_s": 3600, "since": now - 3600 + left_s, "stops_at": now + left_s}


def test_the_panel(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "node"), quick.key)
    open_side(page)
    panel = page.get_by_role("region", name="Session")
    for text in ("quick", "0123456789abcdef", "cpu", "4711 on gpu01"):
        expect(panel).to_contain_text(text)
    expect(panel).to_contain_text(re.compile(r"Time left(\d h )?\d+ min\s+Stops when idlein \d+ min"))
    expect(notice(page)).to_be_hidden()


def test_keep_alive(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "rnode"), quick.key)
    quick.tell(idle=idle(quick, 230))
    try:
        page.reload()
        expect(notice(page)).to_contain_text("it stops in a few minutes")
        open_side(page)
        panel = page.get_by_role("region", name="Session")
        expect(panel).to_contain_text("in 3 min")
        before = quick.gateway.usage.last_activity
        page.get_by_role("button", name="Keep alive").first.click()
        expect(page.get_by_role("button", name="Kept alive").first).to_be_visible()
        expect(panel).to_contain_text("in 59 min")
        expect(notice(page)).to_be_hidden()
        expect(page.get_by_role("button", name="Keep alive")).to_have_count(1)
        assert quick.gateway.usage.last_activity > before
    finally:
        quick.tell(idle=idle(quick, 3600))


def test_keep_alive_that_does_not_work_is_told(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    page.route("**/keep-alive", lambda route: route.abort())
    open_side(page)
    page.get_by_role("button", name="Keep alive").click()
    expect(notice(page)).to_have_text("The idle countdown could not be reset.")


def test_no_idle_limit_no_button(visitor: Visitor, address: Address, quick: Session) -> None:
    kept = quick.status["idle"]
    quick.tell(idle=None)  # as just after a start: there is a limit, its countdown is not known yet
    try:
        page = visitor.log_in(address(quick, "direct"), quick.key)
        open_side(page)
        panel = page.get_by_role("region", name="Session")
        expect(panel).to_contain_text(re.compile(r"left\s*\d.*Stops when idle\s*–", re.DOTALL))
        facts = page.evaluate("fetch(new URL('session', document.baseURI)).then((answer) => answer.json())")
        page.route("**/session", lambda route: route.fulfill(json={**facts, "idle_limit_s": None}))
        expect(panel).to_contain_text("never")
        expect(page.get_by_role("button", name="Keep alive")).to_have_count(0)
    finally:
        quick.tell(idle=kept)


def test_the_time_limit_is_announced(visitor: Visitor, address: Address, quick: Session) -> None:
    ends_at = quick.status["ends_at"]
    quick.tell(ends_soon=True)
    try:
        page = visitor.log_in(address(quick, "direct"), quick.key)
        expect(notice(page)).to_contain_text("reaches its time limit soon")
        ask(page, QUESTION)
        finish(page)
        quick.tell(idle=idle(quick, 230))
        page.reload()
        expect(notice(page)).to_contain_text("it stops in a few minutes")
        expect(renew(page)).to_be_visible()
        quick.tell(ends_at=time.time() + 100)
        page.reload()
        expect(notice(page)).to_contain_text("reaches its time limit soon")
        expect(renew(page)).to_be_hidden()  # keeping it alive would not put off this end
    finally:
        quick.tell(ends_soon=False, ends_at=ends_at, idle=idle(quick, 3600))


def test_an_engine_that_is_started_again(visitor: Visitor, address: Address, quick: Session) -> None:
    """The gateway answers 503 to everything but /status and /health, as while the session starts."""
    page = visitor.log_in(address(quick, "node"), quick.key)
    ask(page, QUESTION)
    finish(page)
    message = "The engine stopped (CUDA error) and is being started again."
    quick.gateway.routes.ready = False
    quick.tell(state="UNHEALTHY", reason="engine-restart", phase="weights", message=message)
    try:
        ask(page, "not now")
        expect(notice(page)).to_have_text(f"Not sent. {message}")
        expect(entry(page)).to_have_value("not now")
        assert questions(page) == [QUESTION]
    finally:
        quick.gateway.routes.ready = True
        quick.tell(state="READY", reason=None, phase=None, message="Ready.")
    expect(notice(page)).to_be_hidden()
    entry(page).press("Enter")
    finish(page, 2)
    assert ANSWER in answers(page)[1]


def test_an_unhealthy_engine_can_still_be_asked(visitor: Visitor, address: Address, quick: Session) -> None:
    quick.tell(state="UNHEALTHY", reason="no-answer", message="The model does not answer: HTTP 500.")
    try:
        page = visitor.log_in(address(quick, "direct"), quick.key)
        expect(notice(page)).to_have_text("The model does not answer: HTTP 500.")
        ask(page, QUESTION)
        finish(page)
    finally:
        quick.tell(state="READY", reason=None, message="Ready.")


def test_the_end_in_the_sessions_own_words(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "rnode-https"), quick.key)
    quick.gateway.routes.ready = False
    quick.tell(state="SHUTDOWN", message="The session was stopped because nobody used it.")
    try:
        ask(page, QUESTION)
        expect(notice(page)).to_contain_text(
            "Not sent. This session has ended. The session was stopped because"
        )
        assert state(page) == "Ended"
    finally:
        quick.gateway.routes.ready = True
        quick.tell(state="READY", message="Ready.")


@pytest.mark.parametrize("way", ["direct", "node"])
def test_a_session_that_is_gone(way: str, visitor: Visitor, address: Address, mortal: Session) -> None:
    """The port answers nobody: the portal says 503, a direct visitor's browser nothing."""
    page = visitor.log_in(address(mortal, way), mortal.key)
    ask(page, QUESTION)
    finish(page)
    mortal.end()
    ask(page, "still there?")
    expect(notice(page)).to_contain_text("Not sent.")
    words = (
        "This session has ended."
        if way == "node"
        else "cannot be reached: it has ended, or the network is down."
    )
    expect(notice(page)).to_contain_text(words)
    expect(entry(page)).to_have_value("still there?")
    expect(page.get_by_text("Error", exact=True).locator("visible=true")).to_have_count(0)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert ANSWER in answers(page)[0]
    open_side(page)
    panel = page.get_by_role("region", name="Session")
    expect(panel).to_contain_text(re.compile(r"Time left\s*–\s*Stops when idle\s*–"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as Markdown").click()
    assert ANSWER in download.value.path().read_text(encoding="utf-8")
    begin_anew(page)
    expect(page.locator("#chat .user-row")).to_have_count(0)


def test_an_end_in_the_middle_of_an_answer(visitor: Visitor, address: Address, mortal: Session) -> None:
    page = visitor.log_in(address(mortal, "node"), mortal.key)
    ask(page, QUESTION)
    expect(page.locator("#chat .bot-row")).to_contain_text("The capital")
    mortal.end()
    expect(notice(page)).to_contain_text("This session has ended.")
    expect(page.get_by_text("Connection to the server was lost").locator("visible=true")).to_have_count(0)
    assert "The capital" in answers(page)[0]


def test_a_lost_connection_comes_back(visitor: Visitor, address: Address, quick: Session) -> None:
    """As after a laptop's sleep: Gradio gives up for good, so the page is loaded anew, with the conversation."""
    page = visitor.log_in(address(quick, "node"), quick.key)
    ask(page, QUESTION)
    finish(page)
    visitor.context.set_offline(True)
    ask(page, "into the void")
    expect(notice(page)).to_contain_text("cannot be reached")
    visitor.context.set_offline(False)
    expect(notice(page)).to_be_hidden()
    entry(page).press("Enter")
    finish(page, 2)
    assert questions(page) == [QUESTION, "into the void"]


def test_a_connection_lost_in_the_middle_of_an_answer(visitor: Visitor, endless: Session) -> None:
    with contextlib.closing(Cable(endless.gateway.port)) as cable:
        page = visitor.log_in(f"http://127.0.0.1:{cable.port}/", endless.key)
        ask(page, "Go on for ever")
        expect(page.locator("#chat .bot-row")).to_contain_text("word word word")
        cable.pull()
        expect(notice(page)).to_contain_text("cannot be reached")
        cable.plug()
        expect(page.locator("#chat .bot-row")).to_contain_text("The answer was cut off")
        assert "word word word" in answers(page)[0]
        wait_until(lambda: endless.engine.counts()["running"] == 0)
        expect(notice(page)).to_be_hidden()
        ask(page, "again")
        expect(page.locator("#chat .bot-row").nth(1)).to_contain_text("word word word")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#chat .bot-row").nth(1)).to_contain_text("stopped")


def test_a_question_that_cannot_be_sent(visitor: Visitor, address: Address, quick: Session) -> None:
    """A body beyond frame.py's limit, a page that fails: Gradio would cover the conversation with "Error"."""
    page = visitor.log_in(address(quick, "node"), quick.key)
    ask(page, QUESTION)
    finish(page)
    page.route("**/queue/join*", lambda route: route.fulfill(status=413, body="Too large"))
    ask(page, "very long")
    expect(notice(page)).to_contain_text("The question could not be sent.")
    expect(page.get_by_text("Error", exact=True).locator("visible=true")).to_have_count(0)
    expect(entry(page)).to_have_value("very long")
    page.unroute("**/queue/join*")
    entry(page).press("Enter")
    finish(page, 2)


def test_logged_out_elsewhere(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "node"), quick.key)
    other = visitor.open(address(quick, "node"))
    expect(entry(other)).to_be_visible()
    open_side(other)
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_label("API key")).to_be_visible()
    ask(page, QUESTION)
    expect(notice(page)).to_contain_text("Not sent. You are logged out of this session.")

"""What a researcher sees of the page: the answer growing, stop, reload, logins, beginnings and ends."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

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
from tests.browser.conftest import ANSWER, FOREIGN, WAYS, Visitor
from tests.browser.session import Session
from tests.programs.front import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# Remembers each text that the answer had on its way.
WATCH = """
    window.steps = new Set();
    const look = () => window.steps.add(document.querySelector("#chat .bot-row")?.innerText);
    new MutationObserver(look).observe(document.querySelector("#chat"), {
      subtree: true, childList: true, characterData: true,
    });
"""


@pytest.mark.parametrize("way", WAYS)
def test_login_answer_and_reload(way: str, visitor: Visitor, address: Address, quick: Session) -> None:
    """Blackfish 12, Blackfish 13: a session with a key, used from its page."""
    where = address(quick, way)
    page = visitor.log_in(where, quick.key)
    page.evaluate(WATCH)
    ask(page, QUESTION)
    finish(page)
    assert ANSWER in answers(page)[0]
    assert page.evaluate("window.steps.size") > 3, "the answer must grow before one's eyes"
    expect(page.locator('[data-session="state"]')).to_have_text(re.compile(r"^(\d h )?\d+ min left$"))

    # The page keeps the conversation a moment after the last change.
    page.wait_for_function("JSON.stringify({...sessionStorage}).includes('on the Seine')")
    page.reload()
    expect(page.locator("#chat .bot-row")).to_contain_text("Paris")
    assert questions(page) == [QUESTION]
    if urlsplit(page.url).path.endswith("/ui/"):
        page.goto(where)
        expect(page.get_by_label("Your message")).to_be_visible()
    origin = urlsplit(where)
    strangers = {
        url for url in visitor.asked if urlsplit(url)[:2] != origin[:2] and ":" in url and url[:5] != "data:"
    }
    assert not strangers


def test_stop_ends_the_engines_work(visitor: Visitor, address: Address, endless: Session) -> None:
    """Blackfish 12: the stop button."""
    page = visitor.log_in(address(endless, "node"), endless.key)
    before = endless.engine.counts()
    ask(page, "Go on for ever")
    expect(page.locator("#chat .bot-row")).to_contain_text("word word word")
    assert endless.engine.counts()["running"] == 1
    page.get_by_role("button", name="Stop").click()
    wait_until(lambda: endless.engine.counts()["running"] == 0)
    assert endless.engine.counts()["cancelled"] == before["cancelled"] + 1
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    # A stopped answer must be told from a finished one.
    expect(page.locator("#chat .bot-row")).to_contain_text("stopped")
    stopped = answers(page)
    page.wait_for_timeout(600)
    assert answers(page) == stopped
    assert "word word word" in stopped[0]
    assert not [url for url in visitor.asked if url.startswith(FOREIGN)], (
        "a model's picture must not be fetched"
    )


def test_leaving_ends_the_engines_work(visitor: Visitor, address: Address, endless: Session) -> None:
    page = visitor.log_in(address(endless, "direct"), endless.key)
    ask(page, "Go on for ever")
    expect(page.locator("#chat .bot-row")).to_contain_text("word")
    page.close()
    wait_until(lambda: endless.engine.counts()["running"] == 0)


def test_retry_undo_and_new_chat(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    ask(page, "one")
    finish(page)
    asked = quick.engine.counts()["started"]
    page.get_by_role("button", name="Retry").last.click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    wait_until(lambda: quick.engine.counts()["started"] == asked + 1)
    finish(page)
    assert len(answers(page)) == 1
    before = quick.engine.counts()["prompt_tokens"]
    ask(page, "two")
    finish(page, 2)
    said = f"one {ANSWER} two"
    assert quick.engine.counts()["prompt_tokens"] - before == len(said.split()), (
        "only what was said goes back"
    )
    page.get_by_role("button", name="Undo").last.click()
    expect(entry(page)).to_have_value("two")
    expect(entry(page)).to_be_focused()
    expect(page.locator("#chat .user-row")).to_have_count(1)
    assert questions(page) == ["one"]
    begin_anew(page, sure=False)
    expect(entry(page)).to_have_value("two")
    assert questions(page) == ["one"]
    begin_anew(page)
    expect(page.locator("#chat .user-row")).to_have_count(0)
    expect(entry(page)).to_have_value("")


def test_new_chat_while_an_answer_is_written(visitor: Visitor, address: Address, endless: Session) -> None:
    page = visitor.log_in(address(endless, "direct"), endless.key)
    ask(page, "Go on for ever")
    expect(page.locator("#chat .bot-row")).to_contain_text("word word word")
    begin_anew(page)
    expect(page.locator("#chat .user-row")).to_have_count(0)
    wait_until(lambda: endless.engine.counts()["running"] == 0)
    page.wait_for_timeout(600)
    assert answers(page) == [], "no late piece of the old answer comes back"


def test_edit_asks_anew(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    for number, text in enumerate(("one", "two"), start=1):
        ask(page, text)
        finish(page, number)
    before = quick.engine.counts()["prompt_tokens"]
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit your question").fill("four words this time")
    page.get_by_label("Edit your question").press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    wait_until(lambda: quick.engine.counts()["prompt_tokens"] > before)
    finish(page)
    assert questions(page) == ["four words this time"], "what came after is dropped"
    assert quick.engine.counts()["prompt_tokens"] == before + 4


def test_a_stopped_question_and_the_next(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    socket, quick.gateway.routes.engine = quick.gateway.routes.engine, quick.silent.socket
    try:
        ask(page, "never answered")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#chat .bot-row")).to_contain_text("stopped")
    finally:
        quick.gateway.routes.engine = socket
    ask(page, "one")
    finish(page, 2)
    assert questions(page) == ["never answered", "one"]


def test_reasoning_is_folded(visitor: Visitor, address: Address, thinker: Session) -> None:
    """Blackfish 12: what a model thinks is folded."""
    page = visitor.log_in(address(thinker, "direct"), thinker.key)
    ask(page, QUESTION)
    finish(page)
    reasoning = page.get_by_role("button", name="Reasoning")
    expect(reasoning).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_text("They ask for a city.")).to_have_count(0)
    reasoning.press(" ")
    expect(page.get_by_text("They ask for a city.")).to_be_visible()
    before = thinker.engine.counts()["prompt_tokens"]
    ask(page, "And Italy?")
    finish(page, 2)
    sent = len(f"{QUESTION} It is Paris. And Italy?".split())
    assert thinker.engine.counts()["prompt_tokens"] - before == sent, "reasoning is not sent back"


def test_a_draft_outlives_a_reload(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    open_side(page, "Settings")
    page.get_by_label("System prompt").fill("Be brief")
    page.get_by_label("Temperature").fill("0.5")
    entry(page).fill("half a question")
    page.reload()
    expect(entry(page)).to_have_value("half a question")
    open_side(page, "Settings")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief")
    expect(page.get_by_label("Temperature")).to_have_value("0.5")


def test_a_reload_in_the_middle_of_an_answer_is_told(
    visitor: Visitor, address: Address, endless: Session
) -> None:
    page = visitor.log_in(address(endless, "node"), endless.key)
    ask(page, "Go on for ever")
    expect(page.locator("#chat .bot-row")).to_contain_text("word word word")
    page.reload()
    expect(page.locator("#chat .bot-row")).to_contain_text("cut off")
    assert "word word word" in answers(page)[0]
    wait_until(lambda: endless.engine.counts()["running"] == 0)


def test_settings_reach_the_engine(visitor: Visitor, address: Address, quick: Session) -> None:
    """Blackfish 12: parameters."""
    page = visitor.log_in(address(quick, "direct"), quick.key)
    page.get_by_role("button", name="Settings, session and code").click()
    page.get_by_role("tab", name="Settings").click()
    page.get_by_label("System prompt").fill("Answer as a pirate would")  # five words
    page.get_by_label("Longest answer, in tokens").fill("3")
    before = quick.engine.counts()["prompt_tokens"]
    ask(page, "Where is Paris?")  # three
    finish(page)
    assert quick.engine.counts()["prompt_tokens"] == before + 8
    assert "3 tokens" in answers(page)[0]
    assert "ended at the token limit" in answers(page)[0]
    page.get_by_role("tab", name="Code").click()
    code = page.locator("#side .cm-content").nth(1)
    expect(code).to_contain_text("Answer as a pirate would")
    expect(code).to_contain_text(f"{quick.gateway.url}/v1")
    assert quick.key not in page.content()


def test_settings_beyond_their_ranges_are_told(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    open_side(page, "Settings")
    for label, value in (("Temperature", "9"), ("Top-p", "7"), ("Longest answer", "-3")):
        page.get_by_label(label).fill(value)
    started = quick.engine.counts()["started"]
    ask(page, QUESTION)
    expect(notice(page)).to_have_text(
        "Not sent. Temperature must be between 0 and 2. Top-p must be between 0.01 and 1. "
        "Longest answer must be at least 1."
    )
    expect(entry(page)).to_have_value(QUESTION)
    expect(page.get_by_text("Error", exact=True).locator("visible=true")).to_have_count(0)
    assert (questions(page), quick.engine.counts()["started"]) == ([], started)
    for label, value in (("Temperature", "2"), ("Top-p", "0.01"), ("Longest answer", "")):
        page.get_by_label(label).fill(value)
    entry(page).press("Enter")
    finish(page)
    expect(notice(page)).to_be_hidden()


def test_wrong_key_and_log_out(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.open(address(quick, "node"))
    page.get_by_label("API key").fill("sk-" + "0" * 64)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_contain_text("not this session's")
    page.get_by_label("API key").fill(quick.key)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_label("Your message")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Settings, session and code").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(address(quick, "node"))
    expect(page.get_by_label("API key")).to_be_visible()


def test_two_sessions_in_two_tabs(
    visitor: Visitor, address: Address, quick: Session, endless: Session
) -> None:
    first = visitor.log_in(address(quick, "node"), quick.key)
    ask(first, QUESTION)
    finish(first)
    second = visitor.open(address(endless, "node"))
    second.get_by_label("API key").fill(quick.key)
    second.get_by_role("button", name="Open").click()
    expect(second.get_by_role("alert")).to_contain_text("not this session's")
    second.close()
    second = visitor.log_in(address(endless, "node"), endless.key)
    assert questions(second) == []
    third = visitor.open(address(quick, "node"))
    expect(third.get_by_label("Your message")).to_be_visible(timeout=20_000)
    third.wait_for_timeout(500)
    assert questions(third) == [], "a second tab of the same session has its own chat"
    first.reload()
    expect(first.locator("#chat .bot-row")).to_contain_text("Paris")


def test_starting_page_becomes_the_chat(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "node"), quick.key)
    quick.gateway.routes.ready = False
    quick.tell(state="LAUNCHING", phase="weights", message="The model is being loaded.")
    try:
        page.reload()
        expect(page.get_by_role("status")).to_contain_text("The model is being loaded.")
    finally:
        quick.gateway.routes.ready = True
        quick.tell(state="READY", phase=None, message="Ready.")
    expect(page.get_by_label("Your message")).to_be_visible(timeout=25_000)


def test_trouble_is_told_in_words(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    socket, quick.gateway.routes.engine = quick.gateway.routes.engine, quick.root / "nobody.sock"
    try:
        ask(page, QUESTION)
        expect(page.locator("#chat .bot-row")).to_contain_text("The engine does not answer.")
    finally:
        quick.gateway.routes.engine = socket
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    finish(page)
    assert ANSWER in answers(page)[0]

"""The page by keyboard and for screen readers: order, names, what is read out, and axe-core's rules."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.chat import QUESTION, Address, ask, entry, finish, open_side, questions
from tests.browser.conftest import ANSWER, Visitor
from tests.browser.session import Session
from tests.browser.test_pictures import choose, image
from tests.programs.front import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# WCAG 2.2 A and AA, and axe's own good practice.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
NAME_IN_FOCUS = """() => {
  const element = document.activeElement;
  return element.ariaLabel || element.title || element.innerText?.trim() || element.tagName;
}"""
# Everything that the live region says.
LISTEN = """
    window.heard = [];
    new MutationObserver(() => window.heard.push(document.getElementById("spoken").textContent))
      .observe(document.getElementById("spoken"), { childList: true, characterData: true, subtree: true });
"""


def tabbed(page: Page, most: int) -> list[str]:
    """The names of what the Tab key comes to, from the top of the page."""
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    page.locator("h1").click()
    names: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        names.append(page.evaluate(NAME_IN_FOCUS))
    return names


def complaints(page: Page) -> str:
    results = Axe().run(page, options=RULES)
    return "\n".join(
        f"{found['id']} ({found['impact']}): {node['target']} {node['html'][:160]}"
        for found in results.response["violations"]
        for node in found["nodes"]
    )


def test_the_order_of_tab(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    expect(entry(page)).to_be_focused()
    ask(page, QUESTION)
    finish(page)
    names = tabbed(page, 12)
    expected = ["New chat", "Conversation", "Copy message", "Edit", "Copy message", "Retry", "Undo"]
    expected += ["Attach images", "Your message", "Send", "Settings, session and code"]
    assert names[: len(expected)] == expected
    visible = page.evaluate(
        "() => { const style = getComputedStyle(document.activeElement); return style.outlineStyle; }"
    )
    assert visible is not None
    page.get_by_role("button", name="New chat").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "2px"


def test_enter_and_shift_enter(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(entry(page)).to_have_value("one\ntwo")
    assert questions(page) == []
    page.keyboard.press("Enter")
    finish(page)
    assert questions(page) == ["one\ntwo"]
    page.keyboard.press("Enter")  # nothing written, nothing sent
    page.wait_for_timeout(300)
    assert len(questions(page)) == 1


def test_escape_stops_and_closes(visitor: Visitor, address: Address, endless: Session) -> None:
    page = visitor.log_in(address(endless, "node"), endless.key)
    ask(page, "Go on for ever")
    expect(page.locator("#chat .bot-row")).to_contain_text("word word")
    page.keyboard.press("Escape")
    wait_until(lambda: endless.engine.counts()["running"] == 0)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(entry(page)).to_be_focused()
    open_side(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings, session and code")).to_be_focused()
    page.get_by_role("button", name="Edit").press("Enter")
    page.get_by_label("Edit your question").press("Escape")
    expect(page.get_by_label("Edit your question")).to_have_count(0)
    assert questions(page) == ["Go on for ever"]


def test_enter_waits_for_the_answer(visitor: Visitor, address: Address, endless: Session) -> None:
    page = visitor.log_in(address(endless, "direct"), endless.key)
    ask(page, "Go on for ever")
    stop = page.get_by_role("button", name="Stop")
    expect(page.locator("#chat .bot-row")).to_contain_text("word word")
    for again in (False, True):
        if again:
            page.get_by_role("button", name="Retry").click()
        expect(stop).to_be_visible()
        ask(page, "next")
        page.wait_for_timeout(500)
        expect(stop).to_be_visible()
        expect(entry(page)).to_have_value("next")
        assert questions(page) == ["Go on for ever"]
        stop.click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_focus_stays_when_buttons_go(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    page.keyboard.type(QUESTION)
    page.get_by_role("button", name="Send").focus()
    page.keyboard.press("Enter")
    finish(page)
    expect(entry(page)).to_be_focused()


def test_an_answer_is_read_out_once(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    page.evaluate(LISTEN)
    ask(page, QUESTION)
    finish(page)
    page.wait_for_function("window.heard.length > 1")
    assert page.evaluate("window.heard") == ["The answer is being written.", f"Answer: {ANSWER}"]
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")


def test_names(visitor: Visitor, address: Address, quick: Session) -> None:
    page = visitor.log_in(address(quick, "direct"), quick.key)
    open_side(page)
    assert page.title() == "quick"
    for role, name in (
        ("heading", "quick"),
        ("log", "Conversation"),
        ("textbox", "Your message"),
        ("button", "Send"),
        ("button", "Attach images"),
        ("button", "New chat"),
        ("button", "Keep alive"),
        ("button", "Save as Markdown"),
        ("tab", "Session"),
        ("region", "Session"),
        ("region", "This conversation"),
    ):
        expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]  # a Literal


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing(colours: str, visitor: Visitor, address: Address, thinker: Session) -> None:
    page = visitor.log_in(address(thinker, "node"), thinker.key)
    page.emulate_media(color_scheme="dark" if colours == "dark" else "light", reduced_motion="reduce")
    page.reload()
    expect(entry(page)).to_be_visible()
    assert complaints(page) == ""
    choose(page, image("map.png"))
    expect(page.get_by_role("button", name="Remove map.png")).to_be_visible()
    assert complaints(page) == ""
    ask(page, QUESTION)
    finish(page)
    page.get_by_role("button", name="Reasoning").press("Enter")
    assert complaints(page) == ""
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Edit your question")).to_be_visible()
    assert complaints(page) == ""
    for tab in ("Session", "Settings", "Code"):
        if tab == "Session":
            open_side(page)
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        assert complaints(page) == "", tab

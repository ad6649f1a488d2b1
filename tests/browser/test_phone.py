"""The pages on a phone: nothing sticks out at the sides, everything can be tapped, the text has room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from launcher.fleet.page import Counted, render
from launcher.fleet.usage import Sum
from launcher.gateway.keys import Holder
from tests.browser.chat import Address, ask, finish, open_side
from tests.browser.conftest import Visitor
from tests.browser.listening import choose, enter, listening, row, state
from tests.browser.session import Session
from tests.speech import needs_speech, speech

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LONG = "An interview with a rather long name, of 22 November 2026 (final).wav"
# Parts that are wider than the window are not to be scrolled to: the page itself never scrolls. Gradio keeps a second,
# hidden row of tabs to measure them.
CUT_OFF = """
    () => [...document.querySelectorAll("button, a[href], input, select, textarea, audio, .message-content, .said")]
      .filter((part) => part.checkVisibility({ visibilityProperty: true }))
      .filter((part) => !part.closest("[inert], [aria-hidden='true']"))
      .filter((part) => {
        const { left, right, width } = part.getBoundingClientRect();
        return width > 1 && (left < -0.5 || right > document.documentElement.clientWidth + 0.5);
      })
      .map((part) => part.outerHTML.slice(0, 120))
"""


def cut_off(page: Page) -> list[str]:
    """What one can press, write in or read that sticks out of the window at a side."""
    found: list[str] = page.evaluate(CUT_OFF)
    return found


# The finger's own size is 24 px at least (WCAG 2.2, 2.5.8); a box to tick has its label beside it.
TOO_SMALL = """
    () => [...document.querySelectorAll("button, select, input:not([type=checkbox]), textarea")]
      .filter((part) => part.checkVisibility({ visibilityProperty: true }))
      .filter((part) => !part.closest("[inert], [aria-hidden='true']"))
      .filter((part) => {
        const { width, height } = part.getBoundingClientRect();
        return width > 1 && Math.min(width, height) < 24;
      })
      .map((part) => part.outerHTML.slice(0, 120))
"""
# iOS enlarges the page for a field with smaller letters, and leaves it so.
SMALL_LETTERS = """
    () => [...document.querySelectorAll("textarea, select, input:not([type=checkbox]):not([type=file])")]
      .filter((part) => parseFloat(getComputedStyle(part).fontSize) < 16).map((part) => part.outerHTML.slice(0, 120))
"""


@pytest.fixture(params=[(375, 667), (320, 568)], ids=["375", "320"])
def phone(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Visitor]:
    """Somebody with a phone of this size."""
    width, height = request.param
    with chromium.new_context(
        viewport={"width": width, "height": height}, has_touch=True, is_mobile=True
    ) as context:
        yield Visitor(context, [])


def fits(page: Page) -> None:
    assert not cut_off(page)
    assert page.evaluate(TOO_SMALL) == []
    assert page.evaluate(SMALL_LETTERS) == []


def test_chat(phone: Visitor, address: Address, quick: Session) -> None:
    page = phone.open(address(quick, "node"))
    fits(page)
    page = phone.log_in(address(quick, "node"), quick.key)
    ask(page, "x" * 300)
    finish(page)
    fits(page)
    open_side(page)
    for tab in ("Code", "Settings", "Session"):
        page.get_by_role("tab", name=tab, exact=True).tap()
        fits(page)


def test_transcribe(phone: Visitor, address: Address, tmp_path: Path) -> None:
    needs_speech()
    with listening() as session:
        page = enter(phone, address(session, "rnode"))
        fits(page)
        wrong = tmp_path / "notes.mp3"
        wrong.write_text("I am not audio at all.\n" * 20)
        choose(page, speech(["one", "two", "three"], tmp_path / LONG), wrong)
        state(page, wrong.name, "failed")
        state(page, LONG, "done")
        row(page, LONG).get_by_role("button", name=LONG, exact=True).tap()
        page.get_by_role("button", name="Options").tap()
        fits(page)
        last = page.locator("#lines li").last
        last.locator(".said").tap()
        expect(last).to_have_attribute("aria-current", "true")
        page.get_by_role("button", name="Edit the line").tap()
        expect(last.get_by_role("textbox")).to_be_focused()
        page.get_by_label("Find in the text").fill("one")
        fits(page)
        open_side(page)
        for tab in ("Code", "Settings", "Session"):
            page.get_by_role("tab", name=tab, exact=True).tap()
            fits(page)


# What is wider than the part that it scrolls in; the example in Python is, which is meant to.
SIDEWAYS = """
    () => [...document.querySelectorAll("html, .rows, td, td > *")]
      .filter((part) => part.scrollWidth > part.clientWidth + 1 && part.checkVisibility() && part.clientWidth)
      .map((part) => part.outerHTML.slice(0, 120))
"""


def test_models_of_an_endpoint(phone: Visitor) -> None:
    why = "It could not be started: sbatch: error: Requested_node_configuration_is_not_available_" + "x" * 200
    model = {
        "name": "org/" + "m" * 60, "state": "startable", "message": why, "estimate_s": 200, "replicas": [],
        "clusters": ["main", "della"], "in_flight": 1, "waiting": 3,
    }  # fmt: skip
    counted = Counted("owner", [Sum("alice", 123_456, 12, 12_345_678, 987_654, 3600.0, 0.31, 3.2)], at=1.0)
    url = f"http://login1.{'cluster.' * 8}example.edu:41873/v1"
    answer = render({"models": [model]}, Holder("own", True, None, None), counted, url, "/")
    page = phone.context.new_page()
    page.set_content(answer.body.decode())
    fits(page)
    assert page.evaluate(SIDEWAYS) == []
    expect(page.get_by_text("123,456")).to_be_visible()
    expect(page.get_by_text("About 3 min are left.")).to_be_in_viewport()

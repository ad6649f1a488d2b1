"""What a person does with the page: ask, wait for the end of an answer, read what stands there, open the side."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.browser.session import PageSession

Address = Callable[[PageSession, str], str]
QUESTION = "What is the capital of France?"


def entry(page: Page) -> Locator:
    return page.get_by_label("Your message")


def ask(page: Page, text: str) -> None:
    entry(page).fill(text)
    entry(page).press("Enter")


def answers(page: Page) -> list[str]:
    return page.locator("#chat .bot-row").all_inner_texts()


def questions(page: Page) -> list[str]:
    return page.locator("#chat .user-row").all_inner_texts()


def finish(page: Page, count: int = 1) -> None:
    """Wait until `count` answers are there, the last has its counts, and the entry takes the next question."""
    expect(page.locator("#chat .bot-row")).to_have_count(count)
    expect(page.locator("#chat .bot-row").last).to_contain_text("in the prompt")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def notice(page: Page) -> Locator:
    return page.locator('[data-session="notice"]')


def begin_anew(page: Page, *, sure: bool = True) -> None:
    """Press "New chat" with something to lose, and answer the browser's question."""
    with page.expect_event("dialog") as asked:
        page.once("dialog", lambda dialog: dialog.accept() if sure else dialog.dismiss())
        page.get_by_role("button", name="New chat").click()
    assert asked.value.type == "confirm"


def open_side(page: Page, tab: str = "Session") -> None:
    page.get_by_role("button", name="Settings, session and code").click()
    page.get_by_role("tab", name=tab, exact=True).click()

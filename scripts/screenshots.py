"""Take the pictures of the docs from a running session: `scripts/screenshots.py SESSION_DIR [docs/images]`.

Start one first, e.g. `launcher launch tiny-chat`; the directory is where its connection.json lies. Needs Debian's
chromium and the `dev` extra. Writes login.png, chat-light.png, chat-dark.png, code.png and phone.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, expect, sync_playwright

QUESTIONS = {"What is the capital of France?": "Paris", "What is the capital of Italy?": "Rome"}
WIDE, PHONE = (1200, 760), (390, 800)
SIDE = "Settings, session and code"


def visit(
    browser: Browser, url: str, size: tuple[int, int], colours: Literal["light", "dark"] = "light"
) -> Page:
    """The session's address in a new profile, at twice the pixels."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=2, color_scheme=colours
    )
    page = context.new_page()
    page.goto(url)
    return page


def chat(page: Page, key: str) -> None:
    """Log in and have the conversation."""
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()
    entry = page.get_by_role("textbox", name="Your message")
    for number, (question, answer) in enumerate(QUESTIONS.items(), start=1):
        entry.fill(question)
        entry.press("Enter")
        expect(page.locator("#chat .bot-row")).to_have_count(number)
        expect(page.locator("#chat .bot-row").last).to_contain_text("tokens")
        expect(page.locator("#chat .bot-row").last).to_contain_text(answer)  # no picture of nonsense
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(5, 400)
    page.wait_for_timeout(500)


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("session", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=Path("docs/images"))
    given = parser.parse_args()
    connection = json.loads((given.session / "connection.json").read_text(encoding="utf-8"))
    url, key = connection["page_url"], connection["key"]
    given.target.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = visit(browser, url, (1200, 520))
        page.screenshot(path=given.target / "login.png")
        for colours in ("light", "dark"):
            page = visit(browser, url, WIDE, colours)
            chat(page, key)
            page.screenshot(path=given.target / f"chat-{colours}.png")
        page.get_by_role("button", name=SIDE).click()
        page.get_by_role("tab", name="Code", exact=True).click()
        page.wait_for_timeout(800)
        page.screenshot(path=given.target / "code.png")
        page = visit(browser, url, PHONE)
        chat(page, key)
        page.screenshot(path=given.target / "phone.png")
        browser.close()
    for picture in sorted(given.target.glob("*.png")):
        print(picture)


if __name__ == "__main__":
    main()

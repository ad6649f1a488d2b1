"""The conversation as a file, made by the browser alone; the JSON can be asked again as it is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect

from tests.browser.chat import QUESTION, Address, ask, finish, notice, open_side
from tests.browser.conftest import Visitor
from tests.browser.session import Session
from tests.browser.test_pictures import choose, image

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def saved(page: Page, kind: str) -> tuple[str, str]:
    """The suggested name and the text of a file, saved by the keyboard."""
    button = page.get_by_role("button", name=f"Save as {kind}")
    button.focus()
    with page.expect_download() as download:
        button.press("Enter")
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")


def test_json(visitor: Visitor, address: Address, thinker: Session) -> None:
    page = visitor.log_in(address(thinker, "rnode-https"), thinker.key)
    open_side(page, "Settings")
    page.get_by_label("System prompt").fill("Be <brief> & kind")
    page.get_by_label("Temperature").fill("0.5")
    choose(page, image("map.png"))
    ask(page, QUESTION)
    finish(page)
    page.get_by_role("tab", name="Session", exact=True).click()
    asked = len(visitor.asked)
    name, text = saved(page, "JSON")
    assert re.fullmatch(r"thinker-\d{4}-\d\d-\d\dT\d\d-\d\d\.json", name)
    assert [
        url for url in visitor.asked[asked:] if not url.startswith("blob:") and "/session" not in url
    ] == []
    told: dict[str, Any] = json.loads(text)
    assert (told["model"], told["commit"], told["session"]) == (
        "thinker",
        "0123456789abcdef",
        "thinker-1234abcd",
    )
    assert told["settings"] == {"temperature": 0.5, "top_p": None, "max_tokens": None}
    system, question, answer = told["messages"]
    assert system == {"role": "system", "content": "Be <brief> & kind"}
    assert question["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert question["content"][1] == {"type": "text", "text": QUESTION}
    assert answer == {"role": "assistant", "content": "It is Paris."}
    (counts,) = told["answers"]
    assert (counts["message"], counts["reasoning"]) == (2, "They ask for a city.")
    assert (counts["completion_tokens"], counts["finish_reason"], counts["trouble"]) == (7, "stop", None)
    assert counts["prompt_tokens"] == 10

    client = OpenAI(base_url=f"{thinker.gateway.url}/v1", api_key=thinker.key)
    again = client.chat.completions.create(
        model="tiny", messages=[*told["messages"], {"role": "user", "content": "And Italy?"}]
    )
    assert "It is Paris." in (again.choices[0].message.content or "")
    assert again.usage is not None
    assert again.usage.prompt_tokens == 4 + 6 + 3 + 2


def test_markdown(visitor: Visitor, address: Address, thinker: Session) -> None:
    page = visitor.log_in(address(thinker, "node"), thinker.key)
    ask(page, QUESTION)
    finish(page)
    open_side(page)
    name, text = saved(page, "Markdown")
    assert name.endswith(".md")
    said = [line for line in text.splitlines() if line]
    assert said[0] == "# Conversation with thinker"
    assert "- Commit: 0123456789abcdef" in said
    at = said.index("## You")
    assert said[at + 1 : at + 5] == [
        QUESTION,
        "<details><summary>Reasoning</summary>",
        "They ask for a city.",
        "</details>",
    ]
    assert said[at + 5 : at + 7] == ["## thinker", "It is Paris."]
    assert re.fullmatch(r"\*7 tokens · .* · 6 in the prompt\*", said[-1])


def test_nothing_to_save(visitor: Visitor, address: Address, thinker: Session) -> None:
    page = visitor.log_in(address(thinker, "direct"), thinker.key)
    open_side(page)
    page.get_by_role("button", name="Save as JSON").click()
    expect(notice(page)).to_have_text("There is nothing to save yet.")

"""One pass with nothing simulated: the shipped model on real vLLM, a launched session, Apache's https, Chromium."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import expect

from launcher import Connection, Launcher
from launcher.settings.layers import load
from tests.browser.chat import answers, ask, finish
from tests.browser.conftest import Visitor
from tests.browser.test_page import WATCH
from tests.portal.apache import Portal
from tests.programs.front import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A session of the shipped model, launched as a user does."""
    monkeypatch.setenv("LAUNCHER_SITE", os.devnull)
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.setenv("LAUNCHER_NETWORK__BIND", "127.0.0.1")
    with Launcher(load()).launch("tiny-chat", hours=1) as session:
        yield session.wait(timeout_s=500)


def metric(connection: Connection, name: str) -> float:
    """One of vLLM's own figures, as the gateway's /metrics gives it."""
    with closing(http.client.HTTPConnection(connection.host, connection.port, timeout=20)) as link:
        link.request("GET", "/metrics", headers={"Authorization": f"Bearer {connection.key}"})
        text = link.getresponse().read().decode()
    return sum(
        float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    )


def test_paris_appears_step_by_step(visitor: Visitor, portal_https: Portal, connection: Connection) -> None:
    where = portal_https.node_url(connection.host, connection.port)
    page = visitor.context.new_page()
    page.goto(f"{where}health")  # the portal logs in on the way
    # The card's own form: a POST into a new page, as OOD's button does.
    page.set_content(
        f'<form action="{where}login" method="post"><input type="hidden" name="key" value="{connection.key}">'
        "<button>Connect</button></form>"
    )
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_label("Your message")).to_be_visible(timeout=60_000)
    page.evaluate(WATCH)
    ask(page, "What is the capital of France?")
    finish(page)
    assert "Paris" in answers(page)[0]
    assert page.evaluate("window.steps.size") > 2, "the answer must grow before one's eyes"
    wait_until(lambda: metric(connection, "vllm:num_requests_running") == 0)
    assert metric(connection, "launcher_gateway_completion_tokens_total") > 0

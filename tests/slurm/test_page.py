"""The transcribe page on a real Slurm, by the way that people take: form, job, card, *Connect*, through the portal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.app.cards import copy_app
from tests.app.ondemand import OnDemand, OnDemandSession
from tests.browser.conftest import somebody, started_chromium
from tests.browser.listening import choose, downloaded, said, state
from tests.conftest import needs_ruby
from tests.portal.apache import Portal
from tests.programs.front import wait_until
from tests.site import SETTINGS
from tests.slurm.cluster import Cluster
from tests.slurm.people import myself
from tests.speech import needs_speech, speech

pytestmark = [pytest.mark.slurm, pytest.mark.app, pytest.mark.browser, pytest.mark.timeout(240)]
NAME = "words.wav"


@pytest.fixture
def session(slurm: Cluster, tmp_path: Path) -> Iterator[OnDemandSession]:
    """A Whisper session of who runs the tests: others may not see their venv, which has the page's packages."""
    needs_ruby()
    needs_speech()
    site = tmp_path / "site.yml"
    here = {
        "session": {"hours": 1},
        "network": {"bind": "127.0.0.1", "host": "127.0.0.1"},
        "places": {"sessions": str(tmp_path / "sessions"), "cache": str(tmp_path / "cache")},
    }
    site.write_text(yaml.safe_dump({**SETTINGS, **here}))
    launcher = str(Path(sys.executable).with_name("launcher"))
    env = {"LAUNCHER": launcher, "LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": "/dev/null"}
    ood = OnDemand(copy_app(tmp_path / "app"), "4.2", env=env)
    person = myself()
    launched = ood.launch(slurm, person, ood.posted(person, model="tiny-whisper"))
    yield launched
    launched.cancel()
    launched.wait_for("Completed")
    # Slurm calls it over while the session still tidies up the node; the tests' Slurm would end it in the middle.
    pid = json.loads((launched.staged_root / "status.json").read_text())["pid"]
    wait_until(lambda: not Path("/proc", str(pid)).exists())


def connected(page: Page, portal: Portal, view_html: str) -> Page:
    """Press the button of the card, on a page of the portal; the tab that it opens."""
    page.context.add_cookies(
        [{"name": name, "value": value, "url": portal.url} for name, value in portal.cookies.items()]
    )
    cards = f"{portal.url}/pun/sys/dashboard/batch_connect/sessions"
    page.route(cards, lambda route: route.fulfill(content_type="text/html", body=view_html))
    page.goto(cards)
    with page.context.expect_page() as opened:
        page.get_by_role("button", name="Connect and transcribe").click()
    return opened.value


def test_upload_text_vtt(session: OnDemandSession, portal: Portal, tmp_path: Path) -> None:
    words = speech(["one", "two", "three"], tmp_path / NAME, gap_s=2.0)
    card = session.wait_for("Running", timeout_s=120)
    assert card.connection is not None
    host, port = card.connection["host"], card.connection["port"]
    with started_chromium() as chromium, somebody(chromium) as visitor:
        first = connected(visitor.context.new_page(), portal, card.view_html or "")
        second = visitor.enter(portal.rnode_url(host, port), card.connection["password"])
        for page, address in ((first, portal.node_url(host, port)), (second, portal.rnode_url(host, port))):
            # The page's process starts beside the engine, and takes its time on a busy node.
            expect(page.get_by_role("button", name="Choose files")).to_be_visible(timeout=60_000)
            assert page.url.startswith(address)
            choose(page, words)
            state(page, NAME, "done")
            assert said(page).split() == ["one", "two", "three"]
            name, text = downloaded(page, "VTT")
            assert name == "words.vtt"
            assert text.startswith("WEBVTT\n\n00:00:")
            assert [word for word in ("one", "two", "three") if word in text] == ["one", "two", "three"]

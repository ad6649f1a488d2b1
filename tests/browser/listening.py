"""A session that transcribes, for the browser: the real server with the shipped model behind gateway and page."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from launcher.sessions.plan import PlannedModel
from tests.browser.conftest import Visitor
from tests.browser.session import PageSession
from tests.engines.plans import vllm_plan
from tests.whisper.conftest import NAME, Running, whisper_server

KEY = "sk-" + "7e" * 32


class Listening(PageSession):
    """A running session of the shipped Whisper model; files in `server.folder` may be named by their path."""

    def __init__(self, server: Running) -> None:
        self.server = server
        plan = dataclasses.replace(
            vllm_plan(),
            id=f"{NAME}-1234abcd",
            name=NAME,
            engine="whisper",
            model=PlannedModel(NAME, NAME, "/nowhere", "0123456789abcdef"),
            audio_folders=(str(server.folder),),
        )
        super().__init__(KEY, plan)
        self.serve(server.socket)


@contextmanager
def listening(*options: str) -> Iterator[Listening]:
    """Such a session whose server has these options besides."""
    with (
        tempfile.TemporaryDirectory(prefix="iod") as folder,
        whisper_server(Path(folder), "--stretch-s", "2", *options) as server,
    ):
        session = Listening(server)
        try:
            session.wait()
            yield session
        finally:
            session.close()


def enter(visitor: Visitor, url: str) -> Page:
    """A new tab at `url`, through the login form to the transcribe page."""
    page = visitor.enter(url, KEY)
    expect(page.get_by_role("button", name="Choose files")).to_be_visible()
    return page


def choose(page: Page, *files: Path) -> None:
    """Choose files as in the browser's dialog."""
    page.locator("#files").set_input_files([str(file) for file in files])


def row(page: Page, name: str) -> Locator:
    """The queue's row of the file called `name`."""
    return page.locator("#queue li").filter(has=page.get_by_role("button", name=name, exact=True))


def state(page: Page, name: str, wanted: str) -> None:
    """Wait until that file is done, failed, stopped, cut, …"""
    expect(row(page, name)).to_have_attribute("data-state", wanted, timeout=90_000)


def said(page: Page) -> str:
    """The words of the transcript that is shown."""
    return " ".join(" ".join(page.locator("#lines .said").all_inner_texts()).split())


def by_path(page: Page, path: str) -> None:
    """Add a file of the cluster."""
    page.get_by_label("or a path on the cluster").fill(path)
    page.get_by_role("button", name="Add", exact=True).click()


def downloaded(page: Page, label: str) -> tuple[str, str]:
    """The suggested name and the text of the transcript's file."""
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download as {label}").click()
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")

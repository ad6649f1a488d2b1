"""The browser's fixtures: Chromium, two sessions that live as long as this folder's tests, the five ways to a page."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.browser.session import PageSession, Session
from tests.conftest import needs
from tests.portal.apache import Portal

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ANSWER = "The capital of France is Paris, and it lies on the Seine."
FOREIGN = "http://elsewhere.example/x.png"
# One begins to answer at once and takes two seconds; the other goes on for minutes.
SHORT = ("--start-delay-s", "0", "--token-rate", "6", "--answer", ANSWER)
QUICK = ("--start-delay-s", "0")
THOUGHTFUL = (
    *("--start-delay-s", "0", "--token-rate", "20"),
    *("--answer", "<think>They ask for a city.</think>It is Paris."),
)
LONG = ("--start-delay-s", "0", "--token-rate", "25", "--tokens", "5000", "--answer", f"word ![x]({FOREIGN})")


def _running(name: str, key: str, *engine_args: str) -> Iterator[Session]:
    session = Session(name, key, *engine_args)
    try:
        session.wait()
        yield session
    finally:
        session.close()


@pytest.fixture(scope="package")
def quick() -> Iterator[Session]:
    """A session whose model gives a short answer."""
    yield from _running("quick", "sk-" + "1a" * 32, *SHORT)


@pytest.fixture(scope="package")
def endless() -> Iterator[Session]:
    """A session whose model writes without end."""
    yield from _running("endless", "sk-" + "2b" * 32, *LONG)


@pytest.fixture(scope="module")
def thinker() -> Iterator[Session]:
    """A session whose model thinks aloud, in tags that no reasoning parser has taken out."""
    yield from _running("thinker", "sk-" + "3c" * 32, *THOUGHTFUL)


@pytest.fixture(scope="module")
def reader() -> Iterator[Session]:
    """A session whose model only reads text."""
    yield from _running("reader", "sk-" + "4d" * 32, *QUICK, "--no-images")


@pytest.fixture(scope="module")
def counting() -> Iterator[Session]:
    """A session whose model tells how many words and images it was given."""
    yield from _running("counting", "sk-" + "5e" * 32, *QUICK)


@pytest.fixture
def mortal() -> Iterator[Session]:
    """A session that its test may end."""
    yield from _running("mortal", "sk-" + "6f" * 32, *SHORT)


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright, which holds the thread's event loop."""
    program = needs("chromium", "chromium")
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A Chromium for this folder. Not for the whole run: elsewhere tests need the event loop."""
    with started_chromium() as browser:
        yield browser


@dataclass(frozen=True)
class Visitor:
    """A person's browser: `open` is a new tab; every address it asked for is in `asked`."""

    context: BrowserContext
    asked: list[str]

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.goto(url)
        return page

    def enter(self, url: str, key: str) -> Page:
        """A new tab at `url`, through the login form."""
        page = self.open(url)
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Open").click()
        return page

    def log_in(self, url: str, key: str) -> Page:
        """The same, until the chat is there."""
        page = self.enter(url, key)
        expect(page.get_by_label("Your message")).to_be_visible()
        return page


def _refused_by_policy(request: Request) -> bool:
    return request.failure == "csp"


@contextmanager
def somebody(chromium: Browser) -> Iterator[Visitor]:
    """Somebody with a fresh profile; what the page's policy refused was never sent and does not count as asked."""
    with chromium.new_context(ignore_https_errors=True) as context:
        asked: list[str] = []
        context.on("requestfinished", lambda request: asked.append(request.url))
        context.on(
            "requestfailed",
            lambda request: None if _refused_by_policy(request) else asked.append(request.url),
        )
        yield Visitor(context, asked)


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Somebody with a fresh profile."""
    with somebody(chromium) as found:
        yield found


WAYS = ("direct", "node", "rnode", "node-https", "rnode-https")


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Callable[[PageSession, str], str]:
    """The address of a session's page when it is reached in one of the five WAYS."""

    def find(session: PageSession, way: str) -> str:
        port = session.gateway.port
        if way == "direct":
            return f"http://127.0.0.1:{port}/"
        portal: Portal = request.getfixturevalue("portal_https" if way.endswith("https") else "portal")
        return (portal.rnode_url if way.startswith("rnode") else portal.node_url)("127.0.0.1", port)

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the page's process said."""
    report = yield
    if report.failed:
        for part in getattr(item, "funcargs", {}).values():
            if isinstance(part, PageSession):
                log = part.paths.page_log.read_text() if part.paths.page_log.exists() else "(no log)"
                report.sections.append((f"page of {part.status['id']}", log))
    return report

"""The cards in a real Chromium, with the HTML and the polls of both versions: copy, keyboard, phone, strict sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from launcher.sessions.status import Status
from tests.app import sites, states
from tests.app.cards import Cards
from tests.app.dashboard import BOOTSTRAP, FONT_AWESOME, PACKAGES, REDRAW, Shown, sessions, sessions_page
from tests.app.ondemand import Card, Version
from tests.conftest import needs, needs_ruby, skip_loudly
from tests.site import SETTINGS

pytestmark = [pytest.mark.app, pytest.mark.browser, pytest.mark.timeout(300)]
# Only https and this machine itself have a clipboard; many a portal inside an institute is on plain http.
SECURE, PLAIN = "https://portal.example/", "http://portal.example/"
STRICT = "default-src 'self'; img-src 'self' data:; font-src 'self' data:; script-src 'self'; style-src 'nonce-page'"
SPEECH = "Systran/faster-whisper-tiny"
LONG = "organisation-with-a-long-name/" + "a-model-with-many-words-in-its-name-" * 4


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = needs("chromium", "chromium")
    for path, package in (
        (BOOTSTRAP["3.1"], PACKAGES["3.1"]),
        (BOOTSTRAP["4.2"], PACKAGES["4.2"]),
        (FONT_AWESOME, "fonts-font-awesome"),
    ):
        if not path.exists():
            skip_loudly(f"{path}: apt-get install {package}")
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Portal:
    """Two sessions with one address, and the card of one of them in each state."""

    version: Version
    running: list[Shown]
    states: dict[str, Shown]


@pytest.fixture(scope="module", params=["3.1", "4.2"])
def portal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Portal:
    needs_ruby()
    version: Version = request.param
    folder = tmp_path_factory.mktemp("portal")
    first, second = (Cards(folder / name, version).launch(model="tiny-chat") for name in ("a", "b"))
    running = []
    for session, key in ((first, states.KEY), (second, "sk-" + "5e" * 32)):
        session.answers(states.ready(session.plan), states.connection(session.plan, key=key))
        running.append(Shown(session.card(), session.id))

    def shown(status: Status) -> Shown:
        (first.over if status.ended else first.runs)(status)
        return Shown(first.card(), first.id)

    plan = first.plan
    shots = {"running": running[0], "restart": shown(states.restarting(plan))}
    (first.root / "connection.yml").unlink()
    shots |= {"starting": shown(states.starting(plan)), "first": shown(states.first_start(plan))}
    shots["failed"] = shown(states.failed(plan))
    shots["speech"] = _speech(folder / "speech", version)
    return Portal(version, running, shots)


def _speech(folder: Path, version: Version) -> Shown:
    sites.write_whisper(folder / "models" / SPEECH, 75 * 2**20, hidden=384)
    settings = SETTINGS | {"models": {"folders": [str(folder / "models")]}}
    session = Cards(folder, version, settings).launch(model=SPEECH)
    session.answers(states.ready(session.plan), states.connection(session.plan))
    return Shown(session.card(), session.id)


@dataclass
class Person:
    """Somebody at a browser: a page that a poll draws anew, and what went wrong in it."""

    context: BrowserContext
    errors: list[str]
    page: Page

    def open(self, url: str, html: str) -> None:
        self.context.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
        self.page.goto(url)

    def copies(self, what: str, card: str) -> None:
        """Clicks the button of this card; its word stays, for the page's clock stands still."""
        buttons = self.page.locator(f"#id_{card}")
        buttons.get_by_role("button", name=f"Copy {what}").click()
        expect(buttons.get_by_role("button", name=f"Copied {what}")).to_be_visible()

    def pasted(self) -> str:
        """What Ctrl+V gives, in a field that is not the card's."""
        self.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<textarea id=paste></textarea>')")
        field = self.page.locator("#paste")
        field.focus()
        self.page.keyboard.press("Control+V")
        text = field.input_value()
        field.evaluate("field => field.remove()")
        return text


@pytest.fixture
def person(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Person]:
    size = getattr(request, "param", (1200, 900))
    with chromium.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        page, errors = context.new_page(), list[str]()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.clock.install(time=0)
        page.clock.pause_at(1000)
        yield Person(context, errors, page)
        assert errors == []


PHONE = pytest.mark.parametrize("person", [(390, 800)], indirect=True, ids=["phone"])


@pytest.mark.parametrize("clipboard", ["clipboard", "refused", "none"])
def test_each_button_copies_its_own(
    portal: Portal, person: Person, clipboard: Literal["clipboard", "refused", "none"]
) -> None:
    """Also where the browser has no clipboard for pages (plain http) or refuses it."""
    if clipboard == "clipboard":
        person.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=SECURE)
    if clipboard == "refused":
        person.context.add_init_script(
            "navigator.clipboard.writeText = () => Promise.reject(new Error('no'))"
        )
    person.open(PLAIN if clipboard == "none" else SECURE, sessions_page(portal.version, portal.running))
    assert person.page.evaluate("'clipboard' in navigator") == (clipboard != "none")
    first, second = portal.running
    assert first.card.connection is not None
    assert second.card.connection is not None
    for card in (first, second):
        assert card.card.connection is not None
        person.copies("the API key", card.id)
        assert person.pasted() == card.card.connection["password"]
    person.copies("the base URL", second.id)
    assert person.pasted() == "http://gpu07:41823/v1"
    person.page.locator(f"#id_{first.id}").get_by_text("From your laptop").click()
    person.copies("the ssh command", first.id)
    assert person.pasted() == "ssh -N -L 8000:gpu07:41823 login.example.edu"
    person.page.locator(f"#id_{first.id}").get_by_text("Code to paste").click()
    person.page.locator(f"#id_{first.id}").locator("summary", has_text="Python").click()
    person.copies("Python", first.id)
    assert person.pasted().startswith(
        "from openai import OpenAI\n\n# The key comes from OPENAI_API_KEY.\nclient ="
    )


def test_a_whisper_session_is_for_recordings(portal: Portal, person: Person) -> None:
    person.open(PLAIN, sessions_page(portal.version, [portal.states["speech"], portal.running[0]]))
    card = person.page.locator(f"#id_{portal.states['speech'].id}")
    expect(card.get_by_role("button", name="Connect and transcribe", exact=True)).to_be_visible()
    chat = person.page.locator(f"#id_{portal.running[0].id}")
    expect(chat.get_by_role("button", name="Connect", exact=True)).to_be_visible()
    card.get_by_text("Code to paste").click()
    files = "Whole files and folders, from a shell on the cluster"
    card.locator("summary", has_text=files).click()
    person.copies(files, portal.states["speech"].id)
    assert " transcribe --session faster-whisper-tiny-" in person.pasted()
    card.locator("summary", has_text="curl").click()
    person.copies("curl", portal.states["speech"].id)
    assert "http://gpu07:41823/v1/audio/transcriptions" in person.pasted()


def test_the_button_says_so_for_a_moment_to_everybody(portal: Portal, person: Person) -> None:
    person.open(PLAIN, sessions_page(portal.version, portal.running))
    card = person.page.locator(f"#id_{portal.running[0].id}")
    button = card.get_by_role("button", name="Copy the base URL")
    button.focus()
    person.page.keyboard.press("Enter")
    spoken = person.page.get_by_role("status")
    expect(spoken).to_have_text("Copied")
    expect(card.get_by_role("button", name="Copied the base URL")).to_be_focused()
    person.page.clock.run_for(3000)
    expect(button).to_be_focused()  # the word is back, and the keyboard is where it was
    expect(spoken).to_have_text("")


def test_a_poll_leaves_open_what_was_opened(portal: Portal, person: Person) -> None:
    """Every ten seconds 4.2 draws all cards anew, 3.1 those that changed."""
    person.open(PLAIN, sessions_page(portal.version, portal.running))
    first, second = (person.page.locator(f"#id_{card.id}") for card in portal.running)
    first.get_by_text("API key", exact=True).click()
    key = first.get_by_role("textbox", name="API key")
    expect(key).to_be_visible()
    button = first.get_by_role("button", name="Copy the API key")
    button.focus()
    for turn in ("b", "c"):
        again = [Shown(card.card, card.id, hash=turn) for card in portal.running]
        person.page.evaluate(REDRAW[portal.version], sessions(portal.version, again))
        expect(key).to_be_visible()
        expect(key).to_have_value(states.KEY)
        expect(button).to_be_visible()
        expect(second.get_by_role("textbox", name="API key")).to_be_hidden()
        if portal.version == "4.2":  # it puts the focus back to the same id; 3.1 does not try
            expect(button).to_be_focused()
    first.get_by_text("API key", exact=True).click()
    expect(key).to_be_hidden()
    again = [Shown(card.card, card.id, hash="d") for card in portal.running]
    person.page.evaluate(REDRAW[portal.version], sessions(portal.version, again))
    expect(key).to_be_hidden()
    person.copies("the API key", portal.running[0].id)  # once, and not once for each poll
    expect(person.page.get_by_role("status")).to_have_count(1)
    assert person.pasted() == states.KEY


def test_a_site_that_allows_no_scripts_loses_only_the_copy_buttons(portal: Portal, person: Person) -> None:
    """OOD's own policy, `csp_enabled`: no inline script, no style attribute."""
    cards = [portal.running[0], Shown(portal.states["starting"].card, "starting")]
    person.open(PLAIN, sessions_page(portal.version, cards, policy=STRICT))
    card = person.page.locator(f"#id_{cards[0].id}")
    expect(card.get_by_role("button", name="Copy the API key")).to_be_hidden()
    card.get_by_text("API key", exact=True).click()
    expect(card.get_by_role("textbox", name="API key")).to_have_value(states.KEY)
    expect(card.get_by_role("textbox", name="API key")).to_be_visible()
    expect(card.get_by_role("button", name="Connect")).to_be_visible()
    assert _share(person.page) == pytest.approx(0.54, abs=0.01)


def test_the_bar_is_as_long_as_it_says(portal: Portal, person: Person) -> None:
    person.open(PLAIN, sessions_page(portal.version, [portal.states["starting"]]))
    bar = person.page.get_by_role("progressbar", name="Start of the session")
    expect(bar).to_have_attribute(
        "aria-valuetext", "Compiling the model. 38 s so far, last time 71 s in all."
    )
    assert _share(person.page) == pytest.approx(0.54, abs=0.01)
    person.open(PLAIN, sessions_page(portal.version, [portal.states["first"]]))
    expect(person.page.get_by_role("progressbar")).not_to_have_attribute("aria-valuenow", "0")


@PHONE
def test_no_card_is_wider_than_a_phone(portal: Portal, person: Person, tmp_path: Path) -> None:
    for name, shown in portal.states.items():
        assert _overhang(person, portal.version, shown.card) == 0, name
    session = Cards(tmp_path / "a", portal.version).launch(model="simulated")
    text = (session.root / "session.json").read_text().replace('"id": "simulated"', f'"id": "{LONG}"')
    (session.root / "session.json").write_text(text)
    session.answers(
        states.ready(session.plan), states.connection(session.plan, host="n" * 60 + ".cluster.example.edu")
    )
    card = session.card()
    assert LONG in (card.info_html or "")
    assert _overhang(person, portal.version, card) == 0


def _overhang(person: Person, version: Version, card: Card) -> int:
    person.open(PLAIN, sessions_page(version, [Shown(card, "one")]))
    person.page.locator("details").evaluate_all("parts => parts.forEach(part => { part.open = true })")
    found: int = person.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return found


def _share(page: Page) -> float:
    outer, inner = page.locator(".progress").bounding_box(), page.locator(".progress-bar").bounding_box()
    assert outer is not None
    assert inner is not None
    return inner["width"] / outer["width"]

"""Take the pictures of the docs from running parts: `make screenshots`; ARGS='--only cards' takes some of them.

Starts and stops all of it: Debian's Ruby renders the app's files as the dashboard does, a real Slurm runs a session of
the shipped model on real vLLM, the shipped Whisper hears spoken words, Chromium shows form, cards and pages. Takes some
minutes. What differs by chance (ids,
host, port) is replaced by what the docs call it, so that two runs differ in their times alone.
Needs what tests/slurm and tests/app need, Debian's libjs-bootstrap5 and fonts-font-awesome, and the `dev` extra.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app.cards import copy_app
from tests.app.dashboard import BOOTSTRAP, FONT_AWESOME, Shown, form_page, sessions_page
from tests.app.ondemand import Card, OnDemand, OnDemandSession
from tests.browser.listening import choose, listening, state
from tests.programs.endpoint import Endpoint, Load
from tests.programs.front import wait_until
from tests.slurm import people
from tests.slurm.cluster import Cluster
from tests.speech import speech
from tests.unit.fit_models import snapshot

ROOT = Path(__file__).resolve().parents[1]
WIDE, PHONE = (1200, 760), (390, 800)
QUESTIONS = {"What is the capital of France?": "Paris", "What is the capital of Italy?": "Rome"}
# What the shipped Whisper is told, and one of its lines as it is corrected: single words are all it knows.
SAID = ["hello", "one", "two", "three", "yes", "no", "left", "right", "stop", "go", "goodbye"]
CORRECTED = (4, "to the left")
# As README.md and docs/user.md call them.
CARD, HOST, PORT = "aa6b2cbe-7e3c-4e5f-9f7e-0e1d2c3b4a59", "gpu07", 41823
CLUSTER = {"scheduler": "slurm", "login_host": "login.example.edu"}
SETTINGS = {
    "clusters": {"test": CLUSTER},
    "profiles": {"small": {"cluster": "test", "partition": "cpu", "cpus": 2, "memory_gb": 8, "hours_max": 1}},
    "network": {"bind": "127.0.0.1", "host": "127.0.0.1"},
}  # fmt: skip
FORM_SETTINGS = {
    "clusters": {"test": CLUSTER},
    "profiles": {
        "gpu-small": {
            "cluster": "test", "description": "One A100", "partition": "gpu", "gpus": 1, "gpu_type": "a100",
            "gpu_memory_gb": 80, "cpus": 8, "memory_gb": 64, "hours": 4, "hours_max": 24,
        },
        "gpu-large": {
            "cluster": "test", "description": "H100s of one node", "partition": "gpu", "gpus": 1, "gpus_max": 4,
            "gpu_type": "h100", "gpu_memory_gb": 80, "cpus": 16, "memory_gb": 256, "hours": 4, "hours_max": 24,
        },
    },
    "catalog": {"tiny-chat": None, "simulated": None},
    "form": {"live": False},
}  # fmt: skip
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-8b", "meta-llama/Llama-3.3-70B-Instruct": "llama-70b",
}  # fmt: skip

# The endpoint as docs/endpoint.md calls it, and whose requests it answers: simulated ones, in a few seconds.
ENDPOINT_URL = "http://login1:41873/v1"
ENDPOINT_SETTINGS: dict[str, Any] = {
    "clusters": {"main": {"scheduler": "local"}, "della": {"scheduler": "local"}},
    "profiles": {"gpu-small": {"cluster": "main"}, "della-gpu": {"cluster": "della"}},
    "catalog": {
        "quick": {"engine": "simulated",
            "engine_args": ["--start-delay-s", "0.1", "--token-rate", "90", "--tokens", "150"]
        },
        "slow": {"engine": "simulated",
            "engine_args": ["--start-delay-s", "0.1", "--token-rate", "40", "--tokens", "200"]
        },
        "large": {"engine": "simulated",
            "engine_args": ["--start-delay-s", "600"]
        },
    },
    "session": {"page": False},
}  # fmt: skip
OFFERS = {
    "chat": {"model": "quick", "profiles": ["gpu-small", "della-gpu"], "minimum": 2, "maximum": 3},
    "coder": {"model": "slow", "profiles": ["della-gpu"]},
    "llama-70b": {"model": "large", "profiles": ["gpu-small"]},
    "embed": {"model": "quick", "profiles": ["gpu-small"]},
}
ASKED = (("alice", "chat", 6), ("bob", "chat", 3), ("chemistry", "coder", 4))


@dataclass(frozen=True)
class Studio:
    """A browser, and the folder the pictures go to."""

    browser: Browser
    target: Path

    def page(self, size: tuple[int, int], colours: Literal["light", "dark"] = "light") -> Page:
        """A new person's window, at twice the pixels."""
        width, height = size
        return self.browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=2, color_scheme=colours
        ).new_page()

    def keep(self, name: str, page: Page, part: str | None = None) -> None:
        """The picture of the window, or of one element; fewer colours where Debian's pngquant is."""
        path = self.target / f"{name}.png"
        (page.locator(part) if part else page).screenshot(path=path, animations="disabled")
        if quant := shutil.which("pngquant"):
            subprocess.run(
                [quant, "--force", "--strip", "--speed", "1", "--ext", ".png", str(path)], check=False
            )
        print(f"{path} {path.stat().st_size // 1024} kB", flush=True)

    def shoot(self, name: str, html: str, size: tuple[int, int], part: str) -> None:
        """The picture of an element of a page that no server has."""
        page = self.page(size)
        page.set_content(html)
        self.keep(name, page, part)
        page.context.close()


def form(studio: Studio) -> None:
    """The form as 4.x shows it where the site has `bc_dynamic_js`, and all of it where it has not."""
    with tempfile.TemporaryDirectory(prefix="launcher-models-") as models:
        for name, config in MODELS.items():
            snapshot(Path(models, name), config)
        with dashboard({**FORM_SETTINGS, "models": {"folders": [models], "cache": f"{models}/none"}}) as ood:
            shown, script = ood.form(), (ood.app_dir / "form.js").read_text(encoding="utf-8")
            for name, dynamic in (("form", True), ("form-more", False)):
                page = form_page("4.2", shown, dynamic=dynamic, script=script)
                studio.shoot(name, page, (760, 700), "main")


def cards(studio: Studio, *, page_too: bool) -> None:
    """The session's card while it starts, when it answers and at its end; in between the page behind Connect."""
    user = people.myself()
    with Cluster() as slurm, dashboard(SETTINGS) as ood:
        values = ood.posted() | {"model": "tiny-chat"}
        try:
            say("A first start, so that the next one knows how long it takes.")
            ended(ood.launch(slurm, user, values))
            say("The start that is pictured.")
            began = time.time()
            session = ood.launch(slurm, user, values)
            studio.shoot("card-starting", sheet(halfway(session), began), WIDE, ".session-panel")
            running = session.wait_for("Running", timeout_s=600)
            studio.shoot("card-running", sheet(running, began), WIDE, ".session-panel")
            studio.shoot("card-phone", sheet(running, began), PHONE, "body")
            if page_too:
                page_pictures(studio, session)
            ended(session)
            studio.shoot("card-ended", sheet(session.card(), began), WIDE, ".session-panel")
        finally:
            slurm.run_as(user, ["scancel", "--user", user.name])


def page_pictures(studio: Studio, session: OnDemandSession) -> None:
    """Login, chat in both colours and on a phone."""
    connection = json.loads((session.staged_root / "connection.json").read_text(encoding="utf-8"))
    url, key = connection["page_url"], connection["key"]
    page = studio.page((1200, 520))
    page.goto(url)
    studio.keep("login", page)
    for name, size, colours in (
        ("chat-light", WIDE, "light"),
        ("phone", PHONE, "light"),
        ("chat-dark", WIDE, "dark"),
    ):
        page = studio.page(size, "dark" if colours == "dark" else "light")
        page.goto(url)
        chat(page, key)
        studio.keep(name, page)


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


def transcripts(studio: Studio) -> None:
    """The transcribe page before and after it has heard files, in both colours and on a phone."""
    with listening("--stretch-s", "3") as session:
        files = recordings(session.server.folder)
        for name, size, colours in (
            ("transcribe-light", WIDE, "light"),
            ("transcribe-phone", PHONE, "light"),
            ("transcribe-dark", WIDE, "dark"),
        ):
            page = studio.page(size, "dark" if colours == "dark" else "light")
            page.goto(session.gateway.url)
            page.get_by_label("API key").fill(session.key)
            page.get_by_role("button", name="Open").click()
            expect(page.get_by_role("button", name="Choose files")).to_be_visible()
            if name == "transcribe-light":
                page.wait_for_timeout(500)
                studio.keep("transcribe-empty", page)
            choose(page, *files)
            for file in files:
                state(page, file.name, "failed" if file.suffix == ".txt" else "done")
            correct(page, *CORRECTED)
            page.locator("#lines .said").nth(5).click()
            page.locator("#lines .line").nth(5).evaluate("line => line.scrollIntoView({ block: 'nearest' })")
            page.keyboard.press("Space")
            page.mouse.move(5, 400)
            page.wait_for_timeout(500)
            studio.keep(name, page)
            page.context.close()


def endpoint(studio: Studio) -> None:
    """The endpoint's status page: two models that are used, one that starts, one that nobody asked for lately."""
    with (
        tempfile.TemporaryDirectory(prefix="launcher-endpoint-") as folder,
        Endpoint(Path(folder), OFFERS, **ENDPOINT_SETTINGS) as running,
    ):
        keys = {who: running.new_key(who, owner=who) for who in {who for who, _, _ in ASKED}}
        for who, model, times in ASKED:
            for _ in range(times):
                running.chat(model, "word " * 300, key=keys[who], hold_s=60)
        mine = running.new_key("staff", own=True, lifetime_s=47.5 * 3600)
        with (
            Load(running, "chat", threads=5, key=keys["alice"]) as alice,
            Load(running, "coder", threads=2, key=keys["chemistry"]),
            Load(running, "llama-70b", threads=3, key=keys["bob"], hold_s=25),
        ):
            wait_until(lambda: "STARTING" in str(running.ask("GET", "/status")[1]).upper())
            alice.more(40)  # tokens of a while, and answers to count
            page = studio.page((1200, 700))
            page.goto(running.url.removesuffix("/v1"))
            page.get_by_label("API key").fill(mine)
            page.get_by_role("button", name="Open").click()
            expect(page.get_by_role("row", name="alice")).to_be_visible()
            page.evaluate(
                "names => { for (const code of document.querySelectorAll('code'))"
                " code.textContent = code.textContent.replace(...names) }",
                [running.url, ENDPOINT_URL],
            )
            studio.keep("endpoint", page)


def correct(page: Page, line: int, text: str) -> None:
    """Write `text` instead of what was heard."""
    page.locator("#lines .said").nth(line).dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def recordings(folder: Path) -> list[Path]:
    """Two files of speech, and one that is none."""
    notes = folder / "consent form.txt"
    notes.write_text("I agree to be recorded.\n")
    return [
        speech(SAID, folder / "interview 07.wav", gap_s=2.2),
        speech(SAID[:5], folder / "interview 08 – Zoë.wav", gap_s=2.2),
        notes,
    ]


@contextmanager
def dashboard(settings: dict[str, object]) -> Iterator[OnDemand]:
    """The dashboard with the app of this checkout, at a site with these settings and no past."""
    with tempfile.TemporaryDirectory(prefix="launcher-pictures-") as name:
        folder = Path(name)
        site = folder / "site.yml"
        places = {"sessions": str(folder / "sessions"), "cache": str(folder / "cache")}
        site.write_text(yaml.safe_dump({**settings, "places": places}))
        env = {
            "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
            "LAUNCHER_SITE": str(site),
            "LAUNCHER_CONFIG": "/dev/null",
        }
        yield OnDemand(copy_app(folder / "app"), "4.2", env=env)


def halfway(session: OnDemandSession) -> Card:
    """The card when some of the phases are over."""
    return until(session.card, lambda card: "fa-check" in (card.info_html or ""))


def ended(session: OnDemandSession) -> None:
    """Wait until it answers, then press Cancel."""
    session.wait_for("Running", timeout_s=600)
    session.cancel()
    session.wait_for("Completed", timeout_s=120)


def until(look: Callable[[], Card], good: Callable[[Card], bool]) -> Card:
    deadline = time.monotonic() + 600
    while not good(card := look()):
        if card.state == "Completed" or time.monotonic() > deadline:
            raise SystemExit(f"The session is {card.state}: {card.completed_html or card.info_html}")
        time.sleep(0.3)
    return card


def sheet(card: Card, began: float) -> str:
    """The dashboard's page with this card, its ids and addresses those of the docs."""
    connection = card.connection or {}
    names = {f"{connection.get('host')}:{connection.get('port')}": f"{HOST}:{PORT}"}

    def named(html: str | None) -> str | None:
        for old, new in names.items():
            html = html.replace(old, new) if html else html
        return html

    shown = replace(
        card,
        connection={**connection, "host": HOST} if connection else None,
        view_html=named(card.view_html),
        info_html=named(card.info_html),
    )
    created = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began))
    span = "Time Requested: 1 hour" if card.state == "Completed" else "Time Remaining: 58 minutes"
    return sessions_page("4.2", [Shown(shown, CARD, created=created, time=span)])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Take them all, or one kind."""
    parser = argparse.ArgumentParser(prog="make screenshots", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", choices=["form", "cards", "transcribe", "endpoint"], help="cards: without the page"
    )
    parser.add_argument("--target", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    given = parser.parse_args()
    given.target.mkdir(parents=True, exist_ok=True)
    for path, package in ((BOOTSTRAP["4.2"], "libjs-bootstrap5"), (FONT_AWESOME, "fonts-font-awesome")):
        if not path.exists():
            sys.exit(f"{path} is missing: apt-get install {package}")
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        studio = Studio(browser, given.target)
        if given.only in (None, "form"):
            form(studio)
        if given.only in (None, "cards"):
            cards(studio, page_too=given.only is None)
        if given.only in (None, "transcribe"):
            transcripts(studio)
        if given.only in (None, "endpoint"):
            endpoint(studio)
        browser.close()


if __name__ == "__main__":
    main()

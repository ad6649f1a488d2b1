"""The form in a real Chromium: which fields are seen for a chat model and for a Whisper model, and what is posted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.app import sites
from tests.app.cards import copy_app
from tests.app.dashboard import BOOTSTRAP, FONT_AWESOME, PACKAGES, form_page
from tests.app.ondemand import Form, OnDemand, Version
from tests.conftest import needs, needs_ruby, skip_loudly
from tests.site import SETTINGS

pytestmark = [pytest.mark.app, pytest.mark.browser, pytest.mark.timeout(120)]
SCRIPT = (Path(__file__).resolve().parents[2] / "form.js").read_text(encoding="utf-8")
SPEECH, CHAT = "Systran/faster-whisper-small", "meta/Llama-8B"
FOR_CHAT = ("gpus", "context_length", "trust_remote_code")
FOR_ALL = ("custom_model", "revision", "account", "idle_minutes", "engine_args", "try_anyway")
PREFIX = "batch_connect_session_context"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = needs("chromium", "chromium")
    for version in get_args(Version):
        if not BOOTSTRAP[version].exists():
            skip_loudly(f"{BOOTSTRAP[version]}: apt-get install {PACKAGES[version]}")
    if not FONT_AWESOME.exists():
        skip_loudly(f"{FONT_AWESOME}: apt-get install fonts-font-awesome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=get_args(Version))
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Form]:
    """The form of a site with a model for chat and one for speech."""
    needs_ruby()
    folder = tmp_path_factory.mktemp("site")
    sites.write_model(folder / "models" / CHAT, sites.LLAMA, sites.GB)
    sites.write_whisper(folder / "models" / SPEECH, sites.GB // 2)
    profiles = {"gpu": {"cluster": "test", "gpus": 1, "gpus_max": 4}, "cpu": {"cluster": "test"}}
    settings = SETTINGS | {
        "profiles": profiles,
        "allow": {"trust_remote_code": True},
        "models": {"folders": [str(folder / "models")]},
        "form": {"live": False},
    }
    (folder / "site.yml").write_text(yaml.safe_dump(settings))
    env = {
        "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
        "LAUNCHER_SITE": str(folder / "site.yml"),
        "HOME": str(folder),
    }
    version: Version = request.param
    return version, OnDemand(copy_app(folder / "app"), version, env=env).form()


class Filled:
    """The form at a researcher's hands."""

    def __init__(
        self, page: Page, shown: tuple[Version, Form], *, dynamic: bool, script: str = SCRIPT
    ) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_content(form_page(*shown, dynamic=dynamic, script=script))

    def field(self, name: str) -> Locator:
        return self.page.locator(f"#{PREFIX}_{name}")

    def choose(self, model: str) -> None:
        self.field("model").select_option(model)

    def seen(self) -> set[str]:
        assert not self.errors
        return {name for name in (*FOR_CHAT, *FOR_ALL) if self.field(name).is_visible()}

    def posted(self) -> set[str]:
        names = self.page.evaluate("[...new FormData(document.forms[0]).keys()]")
        return {name.removeprefix(f"{PREFIX}[").removesuffix("]") for name in names}


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        yield page


def test_a_speech_model_has_only_the_fields_it_can_use(page: Page, shown: tuple[Version, Form]) -> None:
    """Whatever comes first, More options or the model: where one hides a field, it is hidden."""
    form = Filled(page, shown, dynamic=True)
    form.choose(SPEECH)
    assert form.seen() == set()
    form.field("advanced").check()
    assert form.seen() == set(FOR_ALL)
    form.choose(CHAT)
    assert form.seen() == {*FOR_CHAT, *FOR_ALL}
    form.choose(SPEECH)
    assert form.seen() == set(FOR_ALL)
    form.field("advanced").uncheck()
    form.choose(CHAT)
    assert form.seen() == set()


def test_where_the_site_has_no_dynamic_forms_too(page: Page, shown: tuple[Version, Form]) -> None:
    form = Filled(page, shown, dynamic=False)
    form.choose(SPEECH)
    assert form.seen() == set(FOR_ALL)
    form.choose(CHAT)
    assert form.seen() == {*FOR_CHAT, *FOR_ALL}


def test_what_is_hidden_neither_blocks_launch_nor_is_posted(page: Page, shown: tuple[Version, Form]) -> None:
    """A browser refuses a number beyond its limit, and cannot say where when the field is hidden."""
    form = Filled(page, shown, dynamic=True)
    form.choose(CHAT)
    form.field("advanced").check()
    form.field("gpus").fill("99")
    assert not page.evaluate("document.forms[0].checkValidity()")
    form.choose(SPEECH)
    assert page.evaluate("document.forms[0].checkValidity()")
    assert not {"gpus", "context_length", "trust_remote_code"} & form.posted()
    assert {"model", "profile", "bc_num_hours", "engine_args"} <= form.posted()


def test_a_model_named_by_hand_may_be_of_any_kind(page: Page, shown: tuple[Version, Form]) -> None:
    form = Filled(page, shown, dynamic=True)
    form.choose(SPEECH)
    form.field("advanced").check()
    form.field("custom_model").fill("org/other")
    assert form.seen() == {*FOR_CHAT, *FOR_ALL}
    form.field("custom_model").fill(" ")
    assert form.seen() == set(FOR_ALL)


def test_a_form_without_a_list_of_models_is_left_alone(page: Page, shown: tuple[Version, Form]) -> None:
    """A sub-app of the site may fix the model, or have a field of its own by that name."""
    version, form = shown
    others = {name: field for name, field in form.fields.items() if name != "model"}
    typed = {"model": replace(form.fields["custom_model"], id="model")}
    for fields in (others, others | typed):
        filled = Filled(page, (version, replace(form, fields=fields)), dynamic=False)
        assert filled.seen() == {*FOR_CHAT, *FOR_ALL}

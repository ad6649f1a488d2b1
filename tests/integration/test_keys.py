"""Further keys over HTTP, in real sessions: made, limited, expired and revoked while the session runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from launcher import Connection, Launcher, Session
from tests.programs.front import Answer, chat, events

pytestmark = pytest.mark.timeout(180)
CHAT = "/v1/chat/completions"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def until(found: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(http.client.RemoteDisconnected):  # a request whose key ends meanwhile is cut
            if found():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def ask(
    connection: Connection, key: str | None, path: str = "/v1/models", body: str | None = None, **headers: str
) -> Answer:
    """One request with `key`, POST where there is a body."""
    link = http.client.HTTPConnection(connection.host, connection.port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    link.request("GET" if body is None else "POST", path, body, sent)
    with link.getresponse() as response:
        answer = Answer(response.status, response.getheaders(), response.read())
    link.close()
    return answer


def made(session: Session, connection: Connection, name: str, **limits: Any) -> str:
    """A new key that the gateway knows by now."""
    _, secret = session.keys.new(name, **limits)
    until(lambda: ask(connection, secret, "/status").status == 200)
    return secret


def login(connection: Connection, key: str) -> tuple[int, str]:
    """The status of a login with `key`, and the cookie it gave."""
    answer = ask(connection, None, "/login", urlencode({"key": key}), **FORM)
    return answer.status, (answer.header("Set-Cookie") or "").partition(";")[0]


def test_a_key_opens_a_running_session_until_it_is_revoked(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        alice, bob = made(session, connection, "alice"), made(session, connection, "bob")
        assert ask(connection, alice, CHAT, chat(model=connection.model)).json()["choices"]
        assert ask(connection, alice[:-1] + "x", CHAT, chat(model=connection.model)).status == 401
        session.keys.revoke("alice")
        until(lambda: ask(connection, alice).status == 401)
        assert ask(connection, alice).json()["error"]["code"] == "invalid_api_key"
        assert ask(connection, bob).status == 200
        assert ask(connection, connection.key).status == 200
        log = session.paths.gateway_log.read_text()
        assert alice not in log
        assert bob not in log
        record, again = session.connection, connection
    assert record == again, "all of it without a restart"


def test_a_key_ends_by_itself(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        _, brief = session.keys.new("brief", expires="0.1m")
        _, longer = session.keys.new("longer", expires="3d")
        until(lambda: ask(connection, brief).status == 200, 5)
        until(lambda: ask(connection, brief).status == 401)
        assert ask(connection, longer).status == 200
        assert [(key.name, key.expired) for key in session.keys] == [("brief", True), ("longer", False)]


def test_a_login_with_a_further_key_ends_with_it(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        alice = made(session, connection, "alice")
        status, cookie = login(connection, alice)
        assert status == 303
        own = login(connection, connection.key)[1]
        assert ask(connection, None, Cookie=cookie).status == 200
        session.keys.revoke("alice")
        until(lambda: ask(connection, None, Cookie=cookie).status == 401)
        assert ask(connection, None, Cookie=own).status == 200
        course = made(session, connection, "course", requests_per_minute=1000)
        assert login(connection, course) == (401, "")
        assert ask(connection, course).status == 200


def test_requests_per_minute(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        _, secret = session.keys.new("course", requests_per_minute=30)
        until(lambda: ask(connection, secret).status == 200)
        passed = 1
        while (answer := ask(connection, secret)).status == 200:
            passed += 1
            assert passed < 1000
        assert passed >= 30
        assert answer.status == 429
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        wait_s = int(answer.header("Retry-After") or "")
        assert 1 <= wait_s <= 2, "a request every two seconds"
        assert ask(connection, connection.key).status == 200
        time.sleep(wait_s)
        assert ask(connection, secret).status == 200
        with openai.OpenAI(base_url=connection.base_url, api_key=secret, max_retries=5) as client:
            for _ in range(2):  # the client waits as long as it is told
                assert client.models.list().data


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_per_minute(stream: bool, launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        secret = made(session, connection, "course", tokens_per_minute=60)
        first = ask(connection, secret, CHAT, chat("word " * 80, model=connection.model, stream=stream))
        assert first.status == 200
        if stream:
            assert events(first.body)[-1] == "[DONE]"
        answer = ask(connection, secret, CHAT, chat(model=connection.model, stream=stream))
        assert answer.status == 429
        wait_s = int(answer.header("Retry-After") or "")
        assert 1 <= wait_s < 60
        long = chat("word " * 5000, model=connection.model)
        # What is refused costs nothing: else who comes again would wait for longer each time.
        for _ in range(3):
            assert 1 <= int(ask(connection, secret, CHAT, long).header("Retry-After") or "") <= wait_s
        with (
            openai.OpenAI(base_url=connection.base_url, api_key=secret, max_retries=0) as client,
            pytest.raises(openai.RateLimitError),
        ):
            client.models.list()
        assert ask(connection, connection.key, CHAT, chat(model=connection.model)).status == 200


def test_what_was_used_is_told_by_key(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        alice = made(session, connection, "alice")
        answers = [
            ask(connection, alice, CHAT, chat("one two three", model=connection.model)).json()
            for _ in range(2)
        ]
        ask(connection, connection.key, CHAT, "{")
        used = ask(connection, connection.key, "/status").json()["usage"]
        assert used["keys"]["alice"]["requests"] == 2
        assert used["keys"]["alice"]["errors"] == 0
        tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
        assert used["keys"]["alice"]["completion_tokens"] == tokens > 0
        assert used["keys"]["session"]["errors"] == 1
        text = ask(connection, connection.key, "/metrics").body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        ended = {
            (sample.labels["key"], sample.labels["route"], sample.labels["status"]): sample.value
            for sample in samples
            if sample.name == "launcher_gateway_requests_total"
        }
        assert ended["alice", CHAT, "200"] == 2
        assert ended["session", CHAT, "400"] == 1
        counted = {
            (sample.name, sample.labels.get("route")): sample.value
            for sample in samples
            if sample.labels.get("key") == "alice"
        }
        assert counted["launcher_gateway_request_seconds_count", CHAT] == 2
        assert counted["launcher_gateway_first_byte_seconds_count", CHAT] == 2
        assert counted["launcher_gateway_completion_tokens_total", None] == tokens
        assert any(sample.name == "launcher_session_ready" and sample.value == 1 for sample in samples)
        assert "one two three" not in text


def test_a_file_that_others_can_write_closes_the_door_to_all_but_the_owner(launcher: Launcher) -> None:
    with launcher.launch("simulated") as session:
        connection = session.wait()
        alice = made(session, connection, "alice")
        session.paths.further_keys.chmod(0o666)
        until(lambda: ask(connection, alice).status == 401)
        assert ask(connection, connection.key).status == 200
        session.paths.further_keys.chmod(0o600)
        until(lambda: ask(connection, alice).status == 200)
        assert session.paths.gateway_log.read_text().count("is not believed") == 1


def test_further_keys_outlive_a_restart_of_the_job(launcher: Launcher) -> None:
    session = launcher.launch("simulated")
    first = session.wait()
    alice = made(session, first, "alice")
    session.stop()
    assert alice not in json.dumps([key.digest for key in session.keys])
    with subprocess.Popen([session.paths.job_script], start_new_session=True) as process:
        try:
            until(lambda: session.status().state == "READY")
            second = session.connection
            assert second is not None
            assert ask(second, alice).status == 200
            assert ask(second, first.key).status == 401
        finally:
            process.terminate()
            process.wait(60)


def test_a_running_answer_ends_with_its_key(launcher: Launcher) -> None:
    with launcher.launch("simulated", engine_args=("--tokens", "3000", "--token-rate", "20")) as session:
        connection = session.wait()
        secret = made(session, connection, "alice")
        client = openai.OpenAI(base_url=connection.base_url, api_key=secret, max_retries=0)
        messages: list[Any] = [{"role": "user", "content": "Go on."}]
        answer = client.chat.completions.create(model=connection.model, messages=messages, stream=True)
        words = iter(answer)
        next(words)
        session.keys.revoke("alice")
        with pytest.raises((openai.APIError, httpx2.TransportError)):
            for _ in words:
                pass
        until(lambda: ask(connection, connection.key, "/status").json()["usage"]["in_flight"] == 0)

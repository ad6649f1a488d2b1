"""The endpoint from a shell and from Python: keys, the own key that renews itself, usage, chat, the lists."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import select

from launcher import openai_client
from launcher.cli import main
from launcher.errors import LauncherError
from launcher.fleet import issued, tables
from launcher.fleet.store import Store
from launcher.fleet.ticket import held, token
from launcher.gateway.place import Place
from launcher.settings.layers import load
from tests.hostile import HOSTILE
from tests.programs import replicas
from tests.programs.endpoint import Endpoint
from tests.programs.front import KEY, ROOT, wait_until
from tests.programs.recorder import Recorder

OFFERS = {
    "sim": {"model": "simulated", "tokens_per_minute": 100_000},
    "secret": {"model": "simulated", "groups": ["course"], "tokens_per_minute": 5},
}
GROUPS = {"course": {"owners": ["bob"]}}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    with Endpoint(folder, OFFERS, groups=GROUPS) as running:
        yield running


@pytest.fixture
def quiet(tmp_path: Path) -> Endpoint:
    """Settings and state of an endpoint that does not run."""
    return Endpoint(tmp_path, OFFERS, groups=GROUPS)


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    stdout: str
    stderr: str


def launcher(endpoint: Endpoint, *arguments: str, stdin: str = "", code: int = 0) -> Said:
    """Run one command as that user: in this process, since its loading would be the longest part of it."""
    out, error = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with (
        patch.dict(os.environ, endpoint.env, clear=True),
        patch.object(sys, "stdin", given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        found = main(arguments)
    said = Said(out.getvalue(), error.getvalue())
    assert found == code, said
    return said


def data(endpoint: Endpoint, *arguments: str) -> Any:
    return json.loads(launcher(endpoint, *arguments, "--json").stdout)


def test_a_key_is_made_shown_once_listed_with_the_time_left_rotated_and_revoked(endpoint: Endpoint) -> None:
    """FIRST 10: create, show time left, rotate, revoke; 48 hours unless it is said."""
    new = launcher(
        endpoint, "keys", "new", "--endpoint", "--name", "alice", "--model", "sim", "--owner", "al"
    )
    key = new.stdout.strip()
    assert key.startswith("sk-")
    assert '"alice" of al is valid until' in new.stderr
    assert endpoint.ask("GET", "/whoami", key=key)[1]["username"] == "al"
    assert [m["id"] for m in endpoint.ask("GET", "/v1/models", key=key)[1]["data"]] == ["sim"]
    (row,) = [one for one in data(endpoint, "keys", "ls", "--endpoint")["keys"] if one["name"] == "alice"]
    assert 47.9 < row["expires_in_s"] / 3600 <= 48
    assert (row["owner"], row["models"], row["used_at"]) == ("al", ["sim"], None)
    listed = launcher(endpoint, "keys", "ls", "--endpoint").stdout
    assert re.search(r"47 h 59 min|48 h 0 min", listed)
    assert key not in listed
    rotated = launcher(endpoint, "keys", "rotate", "--endpoint", "alice")
    second = rotated.stdout.strip()
    wait_until(lambda: endpoint.ask("GET", "/whoami", key=second)[0] == 200)
    assert endpoint.ask("GET", "/whoami", key=key)[0] == 401
    launcher(endpoint, "keys", "revoke", "--endpoint", "alice")
    wait_until(lambda: endpoint.ask("GET", "/whoami", key=second)[0] == 401)


def test_a_key_in_use_is_revoked_only_with_force(quiet: Endpoint) -> None:
    launcher(quiet, "keys", "new", "--endpoint", "--name", "alice")
    store = Store(quiet.state)
    with store.writing() as connection:
        connection.execute(tables.keys.update().values(used_at=time.time() - 300))
    store.close()
    refused = launcher(quiet, "keys", "revoke", "--endpoint", "alice", code=2)
    assert "was used 5 min ago. Take it away all the same: launcher keys revoke --endpoint --force alice" in (
        refused.stderr
    )
    assert "is revoked" in launcher(quiet, "keys", "revoke", "--endpoint", "--force", "alice").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "--name", "a"], "Whose keys? Name a session, or write --endpoint."),
        (["new", "tiny-1", "--endpoint", "--name", "a"], "--endpoint stands for a session"),
        (["new", "tiny-1", "--name", "a", "--group", "g"], "--group is for keys of the endpoint"),
        (["new", "--endpoint", "--name", "a", "--model", "sin"], 'no model "sin". Did you mean sim?'),
        (["new", "--endpoint", "--name", "a", "--group", "curse"], 'no group "curse". Did you mean course?'),
        (["new", "--endpoint", "--name", "a", "--expires", "soon"], '"soon" is not a span of time'),
        (["rotate", "--endpoint", "nobody"], 'The endpoint has no key "nobody"'),
        (["revoke", "alice"], "Whose keys?"),
        (["rotate", "alice"], "--endpoint"),
    ],
)
def test_a_slip_is_told_in_a_sentence(quiet: Endpoint, arguments: list[str], said: str) -> None:
    assert said in launcher(quiet, "keys", *arguments, code=2).stderr


def test_a_wrong_address_is_told_before_a_key_is_asked_for(quiet: Endpoint) -> None:
    for url in ("nonsense", "ftp://x", "http://", *(text for text in HOSTILE if "\0" not in text)):
        said = launcher(quiet, "auth", "login", f"--url={url}", code=2)
        assert "is not the address of an endpoint" in said.stderr, url


def test_hostile_texts_make_no_key(quiet: Endpoint) -> None:
    for text in ("a\nb", "$(touch /tmp/launcher-was-here)", "-leading", "naïve ☃"):
        assert text in HOSTILE
        for option in ("--name", "--owner", "--group"):
            words = ["--name=k"] if option != "--name" else []
            launcher(quiet, "keys", "new", "--endpoint", *words, f"{option}={text}", code=2)
    launcher(quiet, "keys", "new", "--endpoint", "--name=k", "--model=a\nb", code=2)
    assert data(quiet, "keys", "ls", "--endpoint") == {"keys": []}


def test_a_key_may_name_a_session_that_nobody_offers(quiet: Endpoint) -> None:
    made = launcher(quiet, "keys", "new", "--endpoint", "--name=k", "--model=org/$(id) ☃")
    assert 'No offer is called "org/$(id) ☃"' in made.stderr
    assert made.stdout.startswith("sk-")
    assert data(quiet, "keys", "ls", "--endpoint")["keys"][0]["models"] == ["org/$(id) ☃"]


def test_the_access_token_alone_is_printed_and_stays_the_same_until_it_is_renewed(quiet: Endpoint) -> None:
    """FIRST 10: scripts keep working with a command that prints only the token."""
    settings = load(quiet.env)
    first = launcher(quiet, "keys", "get-access-token").stdout
    assert first.startswith("sk-")
    assert first.count("\n") == 1
    assert launcher(quiet, "auth", "get-access-token").stdout == first
    path = quiet.folder / ".local/state/launcher/access.json"
    path = path if path.exists() else next(quiet.folder.rglob("access.json"))
    assert path.stat().st_mode & 0o777 == 0o600
    ticket = held(settings)
    assert ticket is not None
    # Three quarters of its time are over: a new one, and what runs with the old one goes on until that ends.
    told = json.loads(path.read_text())
    path.write_text(
        json.dumps({**told, "made_at": told["made_at"] - 40 * 3600, "expires_at": time.time() + 8 * 3600})
    )
    second = token(settings).key
    assert second != first.strip()
    store = Store(quiet.state)
    (row,) = issued.listed(store)
    assert row.own
    assert row.former_until is not None
    # It was revoked: another is made without a question.
    issued.revoke(store, row.name)
    store.close()
    assert launcher(quiet, "keys", "get-access-token").stdout.strip() not in (first.strip(), second)
    assert "forgotten" in launcher(quiet, "auth", "logout").stdout
    assert data(quiet, "keys", "ls", "--endpoint") == {"keys": []}


def test_four_at_once_get_one_and_the_same_token(quiet: Endpoint) -> None:
    argv = [sys.executable, "-m", "launcher", "keys", "get-access-token"]
    all_ = [
        subprocess.Popen(argv, cwd=ROOT, env=quiet.env, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert len({process.communicate(timeout=60)[0] for process in all_}) == 1


@pytest.mark.parametrize(
    ("content", "mode"), [("{}", 0o600), ("no json", 0o600), ('{"key": 1}', 0o600), (None, 0o644)]
)
def test_a_file_of_the_key_that_cannot_be_believed_is_told(
    quiet: Endpoint, content: str | None, mode: int
) -> None:
    token(load(quiet.env))
    path = next(quiet.folder.rglob("access.json"))
    if content is not None:
        path.write_text(content)
    path.chmod(mode)
    said = launcher(quiet, "auth", "get-access-token", code=8).stderr
    assert str(path) in said
    assert "launcher auth login" in said
    launcher(quiet, "auth", "login", "--force")
    launcher(quiet, "auth", "get-access-token")


def test_another_persons_endpoint_is_used_with_the_key_that_they_gave(
    endpoint: Endpoint, quiet: Endpoint
) -> None:
    """FIRST 14: auth login with a key from standard input; the lists and chat know it from then on."""
    key = endpoint.new_key("carol", owner="carol")
    login = ["auth", "login", "--url", endpoint.url]
    assert "does not take this key" in launcher(quiet, *login, stdin="sk-wrong\n", code=2).stderr
    assert "not a key" in launcher(quiet, *login, stdin="two words\n", code=2).stderr
    launcher(quiet, *login, stdin=f"{key}\n")
    assert launcher(quiet, "keys", "get-access-token").stdout == f"{key}\n"
    listed = launcher(quiet, "ls-endpoints").stdout
    assert "sim" in listed
    assert "secret" not in listed
    refused = launcher(quiet, "chat", "--model", "secret", "Hello?", code=2)
    assert "See: launcher ls-endpoints" in refused.stderr


def test_chat_waits_for_a_cold_model_says_so_and_streams(endpoint: Endpoint) -> None:
    """FIRST 14: chat --model --stream --temp --max-tokens, ls-endpoints, ls-jobs."""
    cold = launcher(endpoint, "chat", "--model", "sim", "--no-wait", "Hello?", code=6)
    assert "Ask again in" in cold.stderr
    more = ("--stream", "--temp", "0.5", "--max-tokens", "40")
    answer = launcher(endpoint, "chat", "--model", "sim", *more, stdin="What is $(id)?\n").stdout
    assert answer.strip()
    whole = data(endpoint, "chat", "--model", "sim", "Hello?")
    assert (whole["model"], bool(whole["answer"])) == ("sim", True)
    assert "ready" in launcher(endpoint, "ls-endpoints").stdout
    assert [
        one["name"] for one in endpoint.ask("GET", "/status")[1]["models"] if one["state"] == "ready"
    ] == ["sim"]
    (job,) = data(endpoint, "ls-jobs")["running"]
    assert job["Models"] == "sim"
    assert "sim" in launcher(endpoint, "ls-jobs", job["Cluster"]).stdout
    launcher(endpoint, "ls-jobs", "no such/cluster", code=2)


def test_chat_asks_what_was_typed(quiet: Endpoint, sockets: Path) -> None:
    """FIRST 14: --stream, --temp and --max-tokens reach the model, whatever the question is."""
    said = b'data: {"choices": [{"delta": {"content": "Well. \\u001b[2J"}}]}\n\ndata: [DONE]\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(said)
    upstream = Recorder(sockets, lambda seen: iter([head + said]), secret=KEY)
    with replicas.endpoint() as front:
        front.fleet.add("m", Place(upstream.socket, replicas.REPLICA_KEY), served="m")
        launcher(quiet, "auth", "login", "--url", front.url, stdin=f"{KEY}\n")
        more = ("--stream", "--temp", "0.5", "--max-tokens", "40", "--system", "Be short.")
        questions = [text for text in HOSTILE if text.strip()]
        for question in questions:
            assert launcher(quiet, "chat", "--model=m", *more, stdin=question).stdout == "Well. \x1b[2J\n"
    for question, seen in zip(questions, upstream.requests, strict=True):
        asked = json.loads(seen.body)
        assert (asked["temperature"], asked["max_tokens"], asked["stream"]) == (0.5, 40, True)
        assert asked["messages"] == [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": question},
        ]
    upstream.close()


def test_a_key_above_its_limit_is_told_when_to_come_again(endpoint: Endpoint) -> None:
    """FIRST 11: 429 with Retry-After, for the key; another key goes on."""
    limits = ("--requests-per-minute", "1", "--tokens-per-minute", "100000")
    key = launcher(endpoint, "keys", "new", "--endpoint", "--name", "slow", *limits).stdout.strip()
    statuses = [endpoint.chat("sim", key=key, hold_s=60) for _ in range(2)]
    assert [status for status, _, _ in statuses] == [200, 429]
    _, body, headers = statuses[1]
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 60
    assert endpoint.chat("sim", hold_s=60)[0] == 200


def test_tokens_a_minute_are_limited_for_a_key_and_for_a_model(endpoint: Endpoint) -> None:
    """FIRST 11: as the key says, and as the offer in the settings; FIRST 13: 403 for who may not use the model."""
    words = ("keys", "new", "--endpoint", "--name", "thrifty", "--tokens-per-minute", "5")
    key = launcher(endpoint, *words).stdout.strip()
    course = endpoint.new_key("bob", owner="bob")
    refused, told, _ = endpoint.chat("secret", key=key)
    assert (refused, told["error"]["code"]) == (403, "model_not_allowed")
    for model, asking in (("sim", key), ("secret", course)):
        first, answer, _ = endpoint.chat(model, key=asking, hold_s=60)
        assert first == 200, (model, answer)
        assert answer["usage"]["total_tokens"] > 5
        second, told, headers = endpoint.chat(model, key=asking, hold_s=60)
        assert (second, told["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(headers["retry-after"]) <= 60
    assert endpoint.chat("sim", key=course, hold_s=60)[0] == 200
    assert endpoint.chat("secret", hold_s=60)[0] == 429  # it is the model's, whoever asks


def test_python_gets_a_ready_client(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIRST 14: a helper returns a ready openai.OpenAI; its key renews itself, and no proxy sees it."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr("launcher.fleet.client._KEPT_S", 0.0)
    client = openai_client(load(endpoint.env), max_retries=50)
    with client:
        assert {model.id for model in client.models.list().data} == {"sim", "secret"}
        answer = client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": "Hello?"}],
            extra_headers={"X-Launcher-Hold": "60"},
        )
        assert answer.choices[0].message.content
        # Its key ends while the script runs: the next request goes with another one.
        old = token(load(endpoint.env)).key
        with contextlib.closing(Store(endpoint.state)) as store:
            for key in issued.listed(store):
                if key.own and key.name != "tests":
                    issued.revoke(store, key.name, force=True)
        wait_until(lambda: endpoint.ask("GET", "/whoami", key=old)[0] == 401)
        assert client.models.list().data


def test_usage_is_a_table_of_the_month(endpoint: Endpoint) -> None:
    """FIRST 12: launcher usage: user, model, tokens in and out, latency; no prompt."""
    key = endpoint.new_key("dave", owner="dave")
    for _ in range(3):
        assert endpoint.chat("sim", "a very secret question", key=key, hold_s=60)[0] == 200

    def row() -> Any:
        found = data(endpoint, "usage")["usage"]
        return next((one for one in found if one["name"] == "dave"), None)

    wait_until(lambda: (row() or {"requests": 0})["requests"] == 3)
    mine = row()
    assert mine["errors"] == 0
    assert mine["prompt_tokens"] > 0
    assert mine["completion_tokens"] > 0
    assert mine["first_byte_s"] > 0
    shown = launcher(endpoint, "usage", "--by", "model").stdout
    assert "sim" in shown
    assert "total" in shown
    assert launcher(endpoint, "usage", "--month", "2001-01").stdout == "Nothing was used in 2001-01.\n"
    assert "2026-11" in launcher(endpoint, "usage", "--month", "soon", code=2).stderr
    for path in endpoint.folder.rglob("*"):
        if path.is_file() and "endpoint" in path.parts[-2]:
            assert b"very secret" not in path.read_bytes(), path


def test_who_leaves_in_the_middle_of_an_answer_is_counted_once_and_as_no_error(endpoint: Endpoint) -> None:
    """FIRST 12: the status of each request stands in the log, 499 where the client left."""
    key = endpoint.new_key("left", owner="left")
    assert endpoint.chat("sim", key=key, hold_s=60)[0] == 200
    body = {
        "model": "sim",
        "stream": True,
        "max_tokens": 4000,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {key}"}
        )
        with connection.getresponse() as answer:
            assert answer.readline().startswith(b"data:")
            # The gateway notices when the connection is closed.
    store = Store(endpoint.state)

    def statuses() -> list[int]:
        with store.reading() as found:
            rows = select(tables.uses.c.status).where(tables.uses.c.key == "left")
            return sorted(found.execute(rows).scalars())

    with contextlib.closing(store):
        wait_until(lambda: len(statuses()) == 2)
        assert statuses() == [200, 499]
    (row,) = [one for one in data(endpoint, "usage")["usage"] if one["name"] == "left"]
    assert (row["requests"], row["errors"]) == (2, 0)


def test_without_a_gateway_it_says_how_to_start_one(quiet: Endpoint) -> None:
    assert "Start one: launcher gateway" in launcher(quiet, "ls-endpoints", code=6).stderr
    assert launcher(quiet, "usage").stdout.startswith("Nothing was used in 2")
    with pytest.raises(LauncherError, match="No gateway"):
        openai_client(load(quiet.env))

"""Who gets in: every route, the key, the cookie, the login page, other sites' pages, and guessing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest

from tests.programs.front import BEARER, KEY, Answer, RunningGateway, Upstream, chat

StartGateway = Callable[..., RunningGateway]
StartUpstream = Callable[..., Upstream]
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
HTML = {"Accept": "text/html,application/xhtml+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# Every route of vLLM 0.32 (the list of facts: most are open in vLLM itself), Gradio's, and our own.
ROUTES = [
    *(
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
    ),
    *(
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/realtime",
        "/v1/score",
        "/v1/rerank",
        "/v2/rerank",
    ),
    *(
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/invocations",
        "/inference/v1/generate",
        "/tokenize",
    ),
    *(
        "/detokenize",
        "/generative_scoring",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/metrics",
        "/load",
    ),
    *("/version", "/ping", "/docs", "/redoc", "/openapi.json", "/pooling", "/classify", "/score", "/rerank"),
    *(
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/server_info",
        "/pause",
    ),
    *("/start_profile", "/stop_profile", "/cohere/v2/embed", "/tokenizer_info", "/health_generate"),
    *(
        "/",
        "/ui",
        "/ui/",
        "/ui/config",
        "/ui/gradio_api/queue/join",
        "/ui/gradio_api/file=/etc/passwd",
        "/ui/info",
    ),
    *("/config", "/queue/join", "/gradio_api/info", "/manifest.json", "/favicon.ico", "/theme.css"),
    *("/status", "/logout", "/health/", "/healthz", "/health/x", "/login/", "/login/x", "/Health", "/LOGIN"),
    *("/%68ealth", "/health%2f", "/health;x", "/node/n1/1/v1/models", "/node/n1/1", "/rnode/n1/1/health"),
    *("/node/n1/1/node/n1/1/health", "/simulated/requests", "/?key=x", "/v1/models?api_key=x"),
]


def login(front: RunningGateway, path: str = "/login", key: str = KEY, **headers: str) -> Answer:
    return front.ask("POST", path, {**FORM, **headers}, f"key={key}", key=False)


def cookie_of(answer: Answer) -> str:
    return (answer.header("Set-Cookie") or "").split(";")[0]


@pytest.fixture
def guarded(start_upstream: StartUpstream, start_gateway: StartGateway) -> tuple[RunningGateway, list[bytes]]:
    """A gateway, and what its upstream (engine and page at once) received."""
    upstream = start_upstream(OK)
    return start_gateway(engine=upstream.socket, page=upstream.socket), upstream.received


def test_no_route_answers_without_the_key(guarded: tuple[RunningGateway, list[bytes]]) -> None:
    front, received = guarded
    for path in ROUTES:
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for headers in ({}, HTML):
                answer = front.ask(method, path, headers, key=False)
                if (
                    answer.status == 303
                ):  # a browser is sent to the same place with its last slash, and asked there
                    assert (path, answer.header("Location"), answer.body) == ("/node/n1/1", "1/", b"")
                    assert headers
                    assert method in ("GET", "HEAD")
                else:
                    assert answer.status == 401, f"{method} {path}"
    assert received == []


def test_only_health_and_login_are_open_and_say_nothing(guarded: tuple[RunningGateway, list[bytes]]) -> None:
    front, received = guarded
    for prefix in ("", "/node/n1/1"):
        assert front.ask("GET", f"{prefix}/health", key=False).json() == {"status": "up"}
        page = front.ask("GET", f"{prefix}/login", key=False)
        assert page.status == 200
        assert b'type="password"' in page.body
    assert front.ask("POST", "/health", key=False).status == 401
    assert received == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"X-Api-Key": KEY},
        {"Authorization": "Basic abc", "X-Api-Key": KEY},
    ],
)
def test_the_key_opens_in_either_header(headers: dict[str, str], guarded: tuple[RunningGateway, Any]) -> None:
    assert guarded[0].ask("GET", "/v1/models", headers, key=False).status == 200


def test_a_refusal_has_openais_shape(guarded: tuple[RunningGateway, list[bytes]]) -> None:
    front, received = guarded
    for headers in (
        {},
        {"Authorization": "Bearer sk-wrong"},
        {"Authorization": "Bearer "},
        {"X-Api-Key": "ä"},
    ):
        latin = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        answer = front.ask("POST", "/v1/chat/completions", latin, chat(), key=False)
        assert answer.status == 401
        assert answer.header("WWW-Authenticate") == "Bearer"
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "code", "param"}
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert received == []


def test_a_browser_gets_a_login_page_that_needs_no_other_file(guarded: tuple[RunningGateway, Any]) -> None:
    front = guarded[0]
    for path, action in (
        ("/", "./login"),
        ("/ui/a/b", "../../login"),
        ("/node/n1/1/", "./login"),
        ("/x", "./login"),
    ):
        page = front.ask("GET", path, HTML, key=False)
        assert page.status == 401
        assert f'action="{action}"' in page.body.decode()
        assert b"://" not in page.body
        assert b"<script" not in page.body
        assert "default-src 'none'" in (page.header("Content-Security-Policy") or "")
        assert page.header("Cache-Control") == "no-store"


@pytest.mark.parametrize(
    ("path", "headers", "at", "secure"),
    [
        ("/login", {}, "/", False),
        ("/node/n1/5000/login", {}, "/node/n1/5000", False),
        ("/node/n1/5000/login", {"X-Forwarded-Proto": "https"}, "/node/n1/5000", True),
    ],
)
def test_login_gives_a_cookie_that_is_not_the_key(
    path: str, headers: dict[str, str], at: str, secure: bool, guarded: tuple[RunningGateway, Any]
) -> None:
    front = guarded[0]
    answer = login(front, path, **headers)
    assert (answer.status, answer.header("Location")) == (303, "./")
    morsel = SimpleCookie(answer.header("Set-Cookie"))["launcher_tiny_1"]
    assert len(morsel.value) >= 43
    assert KEY not in (answer.header("Set-Cookie") or "")
    assert morsel["path"] == at
    assert morsel["httponly"] is True
    assert morsel["samesite"] == "Lax"
    assert bool(morsel["secure"]) is secure
    assert morsel.value != SimpleCookie(login(front).header("Set-Cookie"))["launcher_tiny_1"].value
    sent = {"Cookie": f"theme=dark; launcher_tiny_1=stale; {cookie_of(answer)}"}
    assert front.ask("GET", "/v1/models", sent, key=False).status == 200
    assert front.ask("GET", "/login", sent, key=False).status == 303


@pytest.mark.parametrize(
    "value", ["launcher_tiny_1=old", "launcher_other=x", "launcher_tiny_1=", "launcher_tiny_1"]
)
def test_a_stale_cookie_leads_to_the_login_page(value: str, guarded: tuple[RunningGateway, Any]) -> None:
    front = guarded[0]
    assert front.ask("GET", "/", {**HTML, "Cookie": value}, key=False).status == 401
    assert front.ask("GET", "/v1/models", {"Cookie": f"launcher_tiny_1={KEY}"}, key=False).status == 401


def test_another_sessions_cookie_does_not_open_this_one(
    guarded: tuple[RunningGateway, Any], start_gateway: StartGateway
) -> None:
    other = start_gateway(engine=guarded[0].routes.engine)
    assert other.ask("GET", "/v1/models", {"Cookie": cookie_of(login(guarded[0]))}, key=False).status == 401


def test_logging_out_ends_the_cookie(guarded: tuple[RunningGateway, Any]) -> None:
    front = guarded[0]
    sent = {"Cookie": cookie_of(login(front))}
    assert front.ask("GET", "/logout", sent, key=False).status == 405
    answer = front.ask("POST", "/logout", sent, key=False)
    assert (answer.status, answer.header("Location")) == (303, "./login")
    assert front.ask("GET", "/v1/models", sent, key=False).status == 401


@pytest.mark.parametrize(
    ("origin", "host", "forwarded", "status"),
    [
        (None, "n1:5000", None, 200),
        ("http://n1:5000", "n1:5000", None, 200),
        ("https://ood.example", "n1:5000", "ood.example", 200),
        ("https://ood.example", "n1:5000", "ood.example:443", 200),
        ("https://ood.example", "n1:5000", "evil.example, ood.example", 200),
        ("https://evil.example", "n1:5000", "evil.example, ood.example", 403),
        ("https://evil.example", "n1:5000", None, 403),
        ("http://n1:5001", "n1:5000", None, 403),
        ("null", "n1:5000", None, 403),
        ("", "n1:5000", None, 403),
    ],
)
def test_another_sites_page_cannot_use_the_cookie(
    origin: str | None, host: str, forwarded: str | None, status: int, guarded: tuple[RunningGateway, Any]
) -> None:
    front = guarded[0]
    sent = {"Cookie": cookie_of(login(front)), "Host": host}
    if origin is not None:
        sent["Origin"] = origin
    if forwarded is not None:
        sent["X-Forwarded-Host"] = forwarded
    assert front.ask("POST", "/v1/chat/completions", sent, chat(), key=False).status == status
    assert front.ask("GET", "/v1/models", sent, key=False).status == 200
    assert front.ask("POST", "/v1/chat/completions", {**sent, **BEARER}, chat()).status == 200
    upgrade = {**sent, "Upgrade": "websocket", "Connection": "Upgrade"}
    assert (front.ask("GET", "/v1/realtime", upgrade, key=False).status == 403) is (status == 403)


def test_wrong_keys_are_slow_and_the_right_one_is_not(guarded: tuple[RunningGateway, Any]) -> None:
    front = guarded[0]
    times: list[float] = []
    answers: list[int] = []

    def guess() -> None:
        begun = time.monotonic()
        answers.append(login(front, key="wrong").status)
        times.append(time.monotonic() - begun)

    begun = time.monotonic()
    guesses = [threading.Thread(target=guess) for _ in range(40)]
    for thread in guesses:
        thread.start()
    time.sleep(0.3)
    right = time.monotonic()
    assert login(front).status == 303
    assert front.ask("GET", "/v1/models").status == 200
    assert time.monotonic() - right < 4.0  # the guesses take longer
    for thread in guesses:
        thread.join(20)
    assert time.monotonic() - begun > 4.5
    assert answers.count(429) >= 40 - 32
    assert set(answers) == {401, 429}


@pytest.mark.parametrize(
    ("body", "status"),
    [("", 401), ("key=", 401), ("x=1", 401), ("key=" + "a" * 9000, 400), ("&".join(["a=1"] * 50), 400)],
)
def test_odd_login_forms(body: str, status: int, guarded: tuple[RunningGateway, Any]) -> None:
    assert guarded[0].ask("POST", "/login", FORM, body, key=False).status == status


def test_a_pasted_key_may_have_white_space_around_it(guarded: tuple[RunningGateway, Any]) -> None:
    assert login(guarded[0], key=f"%20{KEY}%0A").status == 303

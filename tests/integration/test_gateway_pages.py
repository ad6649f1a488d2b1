"""What the gateway says for itself: not ready, ended, endpoint; and what it tells the chat page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs.front import KEY, RunningGateway, Upstream, chat

StartGateway = Callable[..., RunningGateway]
StartUpstream = Callable[..., Upstream]
CHAT = "/v1/chat/completions"
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


def test_until_ready_every_api_request_gets_a_503_to_retry(front: RunningGateway) -> None:
    front.routes.ready = False
    front.report.update(state="LAUNCHING", phase="weights", message="Loading weights.")
    answer = front.ask("POST", CHAT, body=chat())
    assert answer.status == 503
    assert 2 <= int(answer.header("Retry-After") or 0) <= 10
    assert "weights" in answer.json()["error"]["message"]
    assert front.ask("GET", "/health", key=False).json() == {"status": "down"}
    probe = {"X-Launcher-Probe": front.routes.probe_nonce}
    assert front.ask("POST", CHAT, probe, chat()).status == 200
    assert front.ask("POST", CHAT, {"X-Launcher-Probe": "guess"}, chat()).status == 503
    assert front.ask("POST", CHAT, probe, chat(), key=False).status == 401
    assert front.usage.requests == 0, "the probe is nobody's activity"


def test_the_starting_page_shows_the_phase_and_the_ended_page_why(front: RunningGateway) -> None:
    front.routes.ready = False
    front.report.update(state="LAUNCHING", phase="compile", message="Compiling <b>.", since=time.time() - 5)
    html = front.ask("GET", "/", {"Accept": "text/html"})
    assert html.status == 503
    assert 'http-equiv="refresh"' in html.body.decode()
    assert "<li aria-current=step>compile</li>" in html.body.decode()
    assert "Compiling &lt;b&gt;." in html.body.decode()
    front.report.update(state="FAILED", message="vLLM ran out of memory.", hint="Take a bigger profile.")
    html = front.ask("GET", "/", {"Accept": "text/html"})
    assert "refresh" not in html.body.decode()
    assert "Take a bigger profile." in html.body.decode()
    answer = front.ask("GET", "/v1/models")
    assert (answer.status, answer.header("Retry-After")) == (503, None)
    assert answer.json()["error"]["code"] == "session_ended"


def test_the_root_without_a_page_tells_how_to_use_the_endpoint(front: RunningGateway) -> None:
    html = front.ask("GET", "/", {"Accept": "text/html"})
    assert html.status == 200
    assert f"{front.url}/v1" in html.body.decode()
    assert KEY not in html.body.decode()
    assert front.ask("GET", "/").status == 404


PORTAL = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "ood.example",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-User": "alice",
    "X-Gradio-Server": "http://evil.example",
    "X-Forwarded-Escaped-Uri": "%2fx",
}


@pytest.mark.parametrize(
    ("path", "headers", "at", "server"),
    [
        ("/", {"Host": "n1:5000"}, "/", "http://n1:5000/ui"),
        ("/ui/gradio_api/call?x=1", {"Host": "n1:5000"}, "/gradio_api/call?x=1", "http://n1:5000/ui"),
        ("/node/n1/5000/ui/a", PORTAL, "/a", "https://ood.example/node/n1/5000/ui"),
        ("/node/n1/5000/", PORTAL, "/", "https://ood.example/node/n1/5000/ui"),
        (
            "/ui/a",
            {**PORTAL, "Referer": "https://ood.example/rnode/n1/5000/x"},
            "/a",
            "https://ood.example/rnode/n1/5000/ui",
        ),
        ("/ui/a", {**PORTAL, "Host": "n1:5000"}, "/a", "https://ood.example/rnode/n1/5000/ui"),
        ("/ui", {**PORTAL, "Host": "n1:5000", "Referer": "https://evil.example/rnode/x/1"}, "/", None),
    ],
)
def test_the_page_learns_its_public_address(
    path: str,
    headers: dict[str, str],
    at: str,
    server: str | None,
    start_upstream: StartUpstream,
    start_gateway: StartGateway,
) -> None:
    page = start_upstream(OK, name="page.sock")
    front = start_gateway(page=page.socket)
    assert front.ask("GET", path, headers).status == 200
    got = page.received[0].decode()
    assert got.split(" ")[1] == at
    assert "x-forwarded" not in got.lower()
    assert "evil" not in got.replace("Referer: https://evil.example", "")
    assert got.count("X-Gradio-Server:") == 1
    if server is not None:
        assert f"X-Gradio-Server: {server}\r\n" in got
    assert front.usage.requests == 0, "looking at the page is no use of the engine"


def test_a_page_that_is_gone_says_so(front: RunningGateway, sockets: Path) -> None:
    front.routes.page = sockets / "nobody.sock"
    html = front.ask("GET", "/", {"Accept": "text/html"})
    assert html.status == 502
    assert b"The page does not answer" in html.body
    assert front.ask("GET", "/v1/models").status == 200

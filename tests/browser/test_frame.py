"""What the page's process answers at all: a chat's routes, and nothing of what else Gradio brings."""

from __future__ import annotations

import socket
import stat

import pytest

from tests.browser.session import Session
from tests.programs.front import Answer, ask_socket

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CLOSED = [
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/proxy=https://example.org/"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/run-history/buckets"),
    ("GET", "/gradio_api/deep_link"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/gradio_api/mcp/"),
    ("GET", "/gradio_api/upload_progress"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/login"),
    ("GET", "/docs"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/call/ask"),
    ("POST", "/gradio_api/api/ask"),
    ("POST", "/gradio_api/run/ask"),
    ("POST", "/gradio_api/stream/x"),
    ("DELETE", "/"),
    # The transcribe page's.
    ("GET", "/sounds/x"),
    ("POST", "/sounds"),
    ("GET", "/transcribe.js"),
]


def through_gateway(session: Session, method: str, path: str) -> Answer:
    return session.gateway.ask(
        method, f"/ui{path}", {"Authorization": f"Bearer {session.key}"}, b"{}" if method == "POST" else None
    )


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_closed(method: str, path: str, quick: Session) -> None:
    assert through_gateway(quick, method, path).status == 404


def test_no_file_outside_the_page(quick: Session) -> None:
    for path in ("/assets/..%2f..%2f..%2fpackage.json", "/static//etc/passwd", "/svelte/%2e%2e/%2e%2e/x"):
        assert through_gateway(quick, "GET", path).status in (400, 403, 404)


def test_the_page_names_no_other_host_and_no_key(quick: Session) -> None:
    page = through_gateway(quick, "GET", "/")
    text = page.body.decode()
    assert "gradio.app" not in text
    assert "githubusercontent" not in text
    assert quick.key not in text
    policy = page.header("Content-Security-Policy") or ""
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert "default-src 'none'" in policy
    assert page.header("Cache-Control") == "no-store"


def test_each_page_has_its_own_nonce(quick: Session) -> None:
    policies = {through_gateway(quick, "GET", "/").header("Content-Security-Policy") for _ in range(3)}
    assert len(policies) == 3


def test_the_api_schema_offers_nothing(quick: Session) -> None:
    schema = through_gateway(quick, "GET", "/gradio_api/info").json()
    assert schema == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_a_huge_body_is_refused(quick: Session) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(quick.page_socket))
        connection.sendall(
            b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_socket_and_log_are_private(quick: Session) -> None:
    assert stat.S_IMODE(quick.page_socket.stat().st_mode) & 0o077 == 0
    assert quick.key not in quick.paths.page_log.read_text()


def test_panel(quick: Session) -> None:
    told = ask_socket(quick.page_socket, "/session").json()
    assert told["state"] == "READY"
    assert told["commit"] == "0123456789abcdef"
    assert 6000 < told["ends_in_s"] < 7300
    assert 3000 < told["idle_in_s"] <= 3600


def test_looking_at_the_page_is_not_activity(quick: Session) -> None:
    before = quick.gateway.usage.last_activity
    through_gateway(quick, "GET", "/")
    through_gateway(quick, "GET", "/session")
    assert quick.gateway.usage.last_activity == before

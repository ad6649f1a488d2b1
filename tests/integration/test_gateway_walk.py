"""A walk over every route behind the gateway, and over odd spellings of each: without the key nothing opens.

The routes come from the applications themselves (tests/programs/route_tables.py). What the upstreams receive is
counted there, not inferred from the answers.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from launcher.sessions.paths import SessionPaths, write_private
from tests.engines.plans import vllm_plan
from tests.programs.front import KEY, ROOT, RunningGateway
from tests.programs.recorder import Recorder

pytestmark = pytest.mark.timeout(300)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OWN = [
    "/",
    "/ui",
    "/ui/",
    "/health",
    "/login",
    "/logout",
    "/status",
    "/metrics",
    "/keep-alive",
    "/favicon.ico",
]
OWN += ["/ui/session", "/ui/page.css", "/ui/page.js", "/simulated/requests", "/v1", "/v1/", "/nothing"]
# What is open, and to whom: the health and the login form, to be read.
OPEN = re.compile(r"(GET|HEAD) (/node/[^/]+/\d+)?/(health|login)(\?.*)?")
# A refusal of ours; 303 (to the page), 404 (there is no such thing) and 502 (asked for it) would already say too much.
REFUSED = {400, 401, 403, 405, 429, 501}
STRANGERS = {
    "nothing": "",
    "a browser": "Accept: text/html\r\n",
    "an unknown cookie": f"Cookie: launcher_tiny_1={'A' * 43}; launcher_tiny_1={KEY}\r\n",
    "the key where it does not count": f"X-Key: {KEY}\r\nProxy-Authorization: Bearer {KEY}\r\nCookie: key={KEY}\r\n",
    "another scheme": f"Authorization: Basic {KEY}\r\n",
    "a forged portal": "X-Forwarded-User: root\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: localhost\r\n",
    "an upgrade": "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: realtime\r\n",
}
# Each of these is another way to write a path that some server, somewhere, takes for the path itself.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "under the portal": lambda path: f"/node/n1.example/5000{path}",
    "under the portal twice": lambda path: f"/node/n1/1/node/n1/1{path}",
    "under the other prefix": lambda path: f"/rnode/n1/1{path}",
    "an empty host": lambda path: f"/node//1{path}",
    "two slashes": lambda path: f"/{path}",
    "two slashes inside": lambda path: path.replace("/", "//"),
    "slash at the end": lambda path: f"{path}/",
    "encoded letters": lambda path: "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:]),
    "encoded slash": lambda path: "/" + path[1:].replace("/", "%2f") + "%2F",
    "dot": lambda path: f"/.{path}",
    "encoded dot": lambda path: f"/%2e{path}",
    "up from an open one": lambda path: f"/health/..{path}",
    "up, encoded": lambda path: f"/login/%2e%2e{path}",
    "up, encoded twice": lambda path: f"/health/%252e%252e{path}",
    "up with a parameter": lambda path: f"/health/..;{path}",
    "parameter": lambda path: f"{path};x=/health",
    "query": lambda path: f"{path}?/health",
    "key in the query": lambda path: f"{path}?key={KEY}&api_key={KEY}&token={KEY}",
    "NUL": lambda path: f"{path}%00/health",
    "line end": lambda path: f"{path}%0d%0aX-Api-Key:%20{KEY}",
    "upper case": lambda path: path.upper(),
    "backslash": lambda path: path.replace("/", "\\"),
    "backslash after a slash": lambda path: f"/{path.replace('/', chr(92))}",
    "absolute": lambda path: f"http://127.0.0.1{path}",
    "absolute, another host": lambda path: f"http://elsewhere.example:80{path}",
    "absolute to health": lambda path: f"http://health/login{path}",
    "with a user": lambda path: f"http://a:{KEY}@127.0.0.1{path}",
    "no slash": lambda path: path[1:] or "x",
    "fragment": lambda path: f"/health#{path}",
    "overlong": lambda path: "/%c0%af" + path[1:].replace("/", "%c0%af"),
}


# Answered in words; what is no path at all may be hung up on.
PLAIN = re.compile(r"/[\w./=-]*")


class Line:
    """A connection that is opened again when the gateway closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def status(self, method: str, target: str, headers: str = "") -> int:
        """The answer's status; 0 when the gateway closed instead of answering."""
        sent = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}".encode("latin-1")
        body = b"Content-Length: 2\r\n\r\n{}" if method in ("POST", "PUT", "PATCH") else b"\r\n"
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        try:
            self._socket.sendall(sent + body)
            answer = HTTPResponse(self._socket, method=method)
            answer.begin()
            answer.read()
        except (HTTPException, ConnectionError):
            self.close()
            return 0
        if answer.will_close:
            self.close()
        return answer.status

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@pytest.fixture(scope="module")
def page_routes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The routes of the page's Gradio, before our own frame closes most of them."""
    folder = tmp_path_factory.mktemp("page")
    write_private(SessionPaths(folder).plan, vllm_plan().to_json())
    argv = [sys.executable, "-m", "tests.programs.route_tables", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    routes: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [f"/ui{path}" for path in routes] + routes


@pytest.fixture
def upstream(sockets: Path) -> Iterator[Recorder]:
    recorder = Recorder(sockets)
    yield recorder
    recorder.close()


@pytest.fixture
def guarded(upstream: Recorder, start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    return start_gateway(engine=upstream.socket, page=upstream.socket)


def walk(front: RunningGateway, tries: Iterable[tuple[str, str, str]]) -> list[str]:
    """Ask for (method, target, headers) one after the other; those that got in, or got an odd answer."""
    line, wrong = Line(front.port), []
    for method, target, headers in tries:
        if method == "POST" and OPEN.fullmatch(f"GET {target}") and "/login" in target:
            continue  # a guess at the key, slow on purpose; the login has tests of its own
        status = line.status(method, target, headers)
        if OPEN.fullmatch(f"{method} {target}"):
            # An upgrade of an open route may be refused, but never granted.
            if status not in {200, *REFUSED} or (status != 200 and "Upgrade" not in headers):
                wrong.append(f"{status} {method} {target} should be open")
        elif status not in REFUSED and (status or PLAIN.fullmatch(target)):
            wrong.append(f"{status} {method} {target} {headers[:40]!r}")
    line.close()
    return wrong


def every(paths: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    return itertools.product(METHODS, paths, STRANGERS.values())


def spelled(paths: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    targets = (spell(path) for path in paths for spell in SPELLINGS.values())
    return itertools.product(("GET", "POST"), targets, ("", STRANGERS["a browser"]))


def expect_closed(front: RunningGateway, upstream: Recorder, tries: Iterable[tuple[str, str, str]]) -> None:
    assert walk(front, tries) == []
    assert upstream.targets == []
    assert upstream.connections == 0, "the gateway opened a connection for somebody it does not know"
    # The walk would prove nothing if the upstream could not be reached at all.
    assert front.ask("GET", "/v1/models").json()["target"] == "/v1/models"


def test_our_own_routes_are_closed(guarded: RunningGateway, upstream: Recorder) -> None:
    expect_closed(guarded, upstream, itertools.chain(every(OWN), spelled(OWN)))


def test_the_pages_routes_are_closed(
    guarded: RunningGateway, upstream: Recorder, page_routes: list[str]
) -> None:
    assert len(page_routes) > 100
    expect_closed(guarded, upstream, every(page_routes))


def test_odd_spellings_of_the_pages_routes_are_closed(
    guarded: RunningGateway, upstream: Recorder, page_routes: list[str]
) -> None:
    expect_closed(guarded, upstream, spelled(path for path in page_routes if path.startswith("/ui")))


@pytest.mark.vllm
def test_the_engines_routes_are_closed(
    guarded: RunningGateway, upstream: Recorder, vllm_said: dict[str, Any]
) -> None:
    """Those of vLLM with everything switched on."""
    routes: list[str] = vllm_said["routes"]
    assert {"/v1/chat/completions", "/invocations", "/collective_rpc", "/rerank"} <= set(routes)
    expect_closed(guarded, upstream, itertools.chain(every(routes), spelled(routes)))


def test_a_session_that_is_not_ready_is_as_closed(
    guarded: RunningGateway, upstream: Recorder, page_routes: list[str]
) -> None:
    guarded.routes.ready = False
    guarded.report.update(state="LAUNCHING", phase="weights", message="Loading.")
    line = Line(guarded.port)
    for method, path in itertools.product(METHODS, [*OWN, *page_routes]):
        if not OPEN.fullmatch(f"{method} {path}") and (method, path) != ("POST", "/login"):
            assert line.status(method, path) in REFUSED, f"{method} {path}"
    line.close()
    assert upstream.connections == 0


def test_a_wrong_key_opens_nothing(
    guarded: RunningGateway, upstream: Recorder, page_routes: list[str]
) -> None:
    """della 8, Blackfish 13: no route, with any wrong key.

    Guesses wait for each other, so this goes side by side: most are told at once that there are too many.
    """
    wrong = [f"Authorization: Bearer {KEY[:-1]}\r\n", f"X-Api-Key: {KEY}x\r\n", "Authorization: Bearer\r\n"]
    paths = [*OWN, *page_routes]
    tries = list(zip(itertools.cycle(METHODS), paths, itertools.cycle(wrong), strict=False))
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda part: walk(guarded, part), [tries[start::64] for start in range(64)]))
    assert [line for part in found for line in part] == []
    assert upstream.connections == 0

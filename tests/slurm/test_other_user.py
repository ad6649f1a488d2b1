"""Another user of the same node: finds the key nowhere, and gets in nowhere. Sessions do not see each other."""

from __future__ import annotations

import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People
from tests.slurm.test_sessions import ask

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

# Everything an ordinary user may read of processes, sockets, logs and the scheduler.
_SEARCH = r"""
import os, subprocess, sys, time
needle = sys.stdin.read().strip().encode()
hits = []
def look(path):
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 22)
    except OSError:
        return
    if needle in data:
        hits.append(path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ", "maps", "status", "stack"):
        look(f"/proc/{pid}/{name}")
    try:
        if os.stat(f"/proc/{pid}").st_uid == os.getuid():
            continue  # Bob's own, whose pipes would be read for ever
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            look(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        pass
look("/proc/net/unix")
for top in sys.argv[1:]:
    for folder, _, files in os.walk(top):
        for file in files:
            path = os.path.join(folder, file)
            try:
                recent = os.path.getmtime(path) > time.time() - 300  # older than the key: cannot hold it
            except OSError:
                continue
            if recent:
                look(path)
for command in (["ps", "auxeww"], ["squeue", "-o", "%all"], ["scontrol", "show", "job"]):
    done = subprocess.run(command, capture_output=True)
    if needle in done.stdout + done.stderr:
        hits.append(" ".join(command))
print("\n".join(hits))
"""


@pytest.fixture
def ready(site: Site, users: People) -> Iterator[dict[str, Any]]:
    session = site.launch(users.alice, "simulated", "--profile", "cpu", "--", "--token-rate", "200")
    yield site.until(users.alice, session, "READY")
    site.run(users.alice, "stop", session, "--no-wait")


def test_the_key_is_nowhere_for_bob(site: Site, slurm: Cluster, users: People, ready: dict[str, Any]) -> None:
    key = site.key(ready)
    ask(site, ready)  # a client that sent the key has been there
    places = ["/tmp", "/dev/shm", "/var/tmp", str(slurm.folder), str(users.alice.home), str(site.folder)]
    found = slurm.run_as(users.bob, ["/usr/bin/python3", "-c", _SEARCH, *places], stdin=key)
    assert found.stdout.strip() == "", found
    # The search itself works: her own key file is found by Alice.
    hers = slurm.run_as(users.alice, ["/usr/bin/python3", "-c", _SEARCH, ready["directory"]], stdin=key)
    assert {Path(hit).name for hit in hers.stdout.split()} == {"api_key", "connection.json"}


def test_the_key_is_in_no_log_script_or_record(site: Site, users: People, ready: dict[str, Any]) -> None:
    key = site.key(ready)
    prompt = "a very private question 4711"
    body = json.dumps({"model": "simulated", "messages": [{"role": "user", "content": prompt}]}).encode()
    request = urllib.request.Request(
        f"{ready['base_url']}/chat/completions",
        body,
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).read()
    site.run(users.alice, "stop", ready["id"])
    directory = Path(ready["directory"])
    assert directory.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in directory.iterdir()}
    assert {"engine.log", "gateway.log", "job.log", "record.json", "session.json", "job.sh"} <= names
    for path in directory.iterdir():
        text = path.read_text(errors="replace")
        assert key not in text, path
        assert "private question" not in text, path
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.stat().st_uid == users.alice.uid


def test_every_route_is_closed_without_the_key(site: Site, users: People, ready: dict[str, Any]) -> None:
    """Blackfish 13: there is no session without a key."""
    origin = ready["base_url"].removesuffix("/v1")
    routes = [
        "/", "/v1/models", "/v1/chat/completions", "/metrics", "/tokenize", "/invocations", "/docs", "/openapi.json",
        "/status", "/ui/", "/ui/config", "/ui/gradio_api/info", "/version", "/load", "//v1/models", "/v1/../metrics",
        "/health/../v1/models", "/login/../v1/models", "/%2e%2e/v1/models", "/node/x/1/v1/models",
        "/node/x/1/node/x/1/metrics", "/health;x", "/healthx",
    ]  # fmt: skip
    headers: list[dict[str, str]] = [{}, {"X-Forwarded-User": "iod_alice"}, {"Cookie": "launcher=1"}]
    for route in routes:
        for method in ("GET", "POST", "DELETE", "OPTIONS", "HEAD"):
            for given in headers:
                code = _code(origin + route, method, given)
                if "//" in route or "/.." in route or "%" in route:
                    assert code in (400, 401), (method, route, given, code)
                elif "/login" in route or "/health" in route:
                    assert code in (400, 401, 403, 404, 405), (method, route, given, code)
                else:
                    assert code == 401, (method, route, given, code)
    for wrong in ("sk-" + "0" * 64, "", site.key(ready)[:-1]):  # few: guessing is slowed down
        assert _code(origin + "/v1/models", "GET", {"Authorization": f"Bearer {wrong}"}) == 401
    assert _code(origin + "/health", "GET", {}) == 200


def test_bob_cannot_reach_engine_or_files(
    site: Site, slurm: Cluster, users: People, ready: dict[str, Any]
) -> None:
    sockets = [
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "engine.sock" in line
    ]
    assert sockets
    for socket in sockets:
        tried = slurm.run_as(
            users.bob, ["curl", "-sS", "--max-time", "5", "--unix-socket", socket, "http://engine/v1/models"]
        )
        assert tried.returncode == 7, tried  # could not connect
    for name in ("api_key", "connection.json", "session.json", "engine.log"):
        tried = slurm.run_as(users.bob, ["cat", f"{ready['directory']}/{name}"])
        assert "Permission denied" in tried.stderr
    listening = _listening_ports(ready["directory"])
    assert listening == {int(ready["base_url"].rsplit(":", 1)[1].split("/")[0])}


def test_bob_cannot_steer_alices_session(site: Site, users: People, ready: dict[str, Any]) -> None:
    refused = site.run(users.bob, "stop", ready["id"])
    assert refused.code == 6
    by_path = site.run(users.bob, "stop", ready["directory"] + "/")
    assert by_path.code in (6, 8)
    assert site.status(users.alice, ready["id"])["state"] == "READY"


def test_sessions_of_one_and_of_two_users_do_not_see_each_other(site: Site, users: People) -> None:
    """della 7: several sessions on one node, each with its port and key."""
    started = [
        (p, site.launch(p, "simulated", "--profile", "cpu")) for p in (users.alice, users.alice, users.bob)
    ]
    ready = [site.until(person, session, "READY") for person, session in started]
    keys = [site.key(status) for status in ready]
    assert len(set(keys)) == 3
    assert len({status["base_url"] for status in ready}) == 3
    for i, status in enumerate(ready):
        for j, key in enumerate(keys):
            code = _code(status["base_url"] + "/models", "GET", {"Authorization": f"Bearer {key}"})
            assert code == (200 if i == j else 401)
    listed = site.run(users.bob, "status", "--json").data["sessions"]
    assert ready[2]["id"] in {session["id"] for session in listed}
    assert not {ready[0]["id"], ready[1]["id"]} & {session["id"] for session in listed}
    stopped = site.run(users.alice, "stop", ready[0]["id"], "--json").data
    assert stopped["reason"] == "user"
    assert [site.status(p, s)["state"] for p, s in started[1:]] == ["READY", "READY"]


def _code(url: str, method: str, headers: dict[str, str]) -> int:
    # http.client sends the path as it is; a friendlier client would tidy it up.
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, url.removeprefix(f"http://{parts.netloc}"), headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _listening_ports(session: str) -> set[int]:
    """The ports on which the processes of the session in this directory listen; other sessions run beside it."""
    found = psutil.process_iter(["cmdline"])  # None of a process that ends meanwhile
    serving = next(p for p in found if (p.info["cmdline"] or [])[-2:] == ["serve", session])
    family = [serving, *serving.children(recursive=True)]
    return {
        one.laddr.port
        for process in family
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }

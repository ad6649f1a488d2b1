"""Gateways under load that are killed, or whose database is: no key is lost, every answered request is counted once."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.fleet.store import Store
from launcher.fleet.usage import sums
from tests.programs.endpoint import Endpoint
from tests.programs.front import wait_until
from tests.programs.postgres import Postgres

OFFERS = {"sim": {"model": "simulated", "idle_minutes": 60}}


class Client:
    """Asks one gateway after another's end, one request at a time; `answered` are those whose last byte came."""

    def __init__(self, endpoint: Endpoint, key: str, *, stream: bool) -> None:
        self.answered = self.broken = 0
        self._endpoint, self._key, self._stream = endpoint, key, stream
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.over.is_set():
            begun = False
            connection = http.client.HTTPConnection("127.0.0.1", self._endpoint.port, timeout=30)
            try:
                with contextlib.closing(connection):
                    connection.connect()
                    begun = True
                    self._ask(connection)
            except (OSError, http.client.HTTPException):
                self.broken += begun  # it may have been counted: its last byte was only not seen
                time.sleep(0.02)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        body: dict[str, Any] = {
            "model": "sim",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8,
        }
        headers = {"Authorization": f"Bearer {self._key}", "X-Launcher-Hold": "60"}
        connection.request(
            "POST", "/v1/chat/completions", json.dumps({**body, "stream": self._stream}), headers
        )
        answer = connection.getresponse()
        if answer.status != 200:
            assert answer.status in (503, 502), answer.read()
            return
        if not self._stream:
            json.loads(answer.read())
            self.answered += 1
            return
        while line := answer.readline():
            if line.strip() == b"data: [DONE]":
                self.answered += 1
                return
        self.broken += 1


def more(clients: Sequence[Client], count: int) -> None:
    """Wait until each was answered so many times more."""
    goal = [client.answered + count for client in clients]
    wait_until(lambda: all(one.answered >= n for one, n in zip(clients, goal, strict=True)), 60)


def over(clients: Sequence[Client]) -> tuple[int, int]:
    """End them; how many requests were answered, and how many broke off."""
    for client in clients:
        client.over.set()
    for client in clients:
        client.thread.join(60)
    return sum(client.answered for client in clients), sum(client.broken for client in clients)


def counted(store: Store) -> int:
    found = sums(store, "key", 0.0, time.time() + 60)
    return next((one.requests - one.errors for one in found if one.name == "load"), 0)


def test_two_gateways_on_one_postgresql_killed_under_load_lose_and_double_nothing(
    postgres: Postgres, tmp_path: Path
) -> None:
    """FIRST 12: two gateways, kill -9 in turn: no key lost, no use of an answered request lost or counted twice."""
    state = postgres.database()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Endpoint(tmp_path, OFFERS, state=state, port=0))
        second = Endpoint(tmp_path, OFFERS, state=state, port=0)
        second.key = first.key
        second.start()
        stack.callback(second.kill)
        assert first.chat("sim", hold_s=60)[0] == 200
        key = first.new_key("load", owner="load")
        clients = [Client(one, key, stream=stream) for one in (first, second) for stream in (False, True)]
        made: list[str] = []
        for victim in (first, second):
            more(clients, 6)
            made.append(first.new_key(f"made-{len(made)}"))
            victim.kill()
            victim.start()
        more(clients, 3)
        answered, broken = over(clients)
        for key in made:
            assert first.ask("GET", "/whoami", key=key)[0] == 200
            assert second.ask("GET", "/whoami", key=key)[0] == 200
        assert len(first.sessions()) == 1
        store = stack.enter_context(contextlib.closing(Store(state)))

        # What the killed ones left came in with their next start.
        wait_until(lambda: counted(store) >= answered)
        assert counted(store) <= answered + broken


def test_while_the_database_is_away_known_keys_go_on_and_what_they_use_is_counted_when_it_is_back(
    postgres: Postgres, tmp_path: Path
) -> None:
    """FIRST 12: a database that stops under load costs no answer of a running model and no use of one."""
    state = postgres.database()
    with contextlib.ExitStack() as stack:
        offers = {**OFFERS, "cold": {"model": "simulated"}}
        gateway = stack.enter_context(Endpoint(tmp_path, offers, state=state))
        assert gateway.chat("sim", hold_s=60)[0] == 200
        key = gateway.new_key("load", owner="load")
        clients = [Client(gateway, key, stream=stream) for stream in (False, True)]
        more(clients, 3)
        postgres.kill()
        try:
            more(clients, 10)
            wait_until(lambda: "database does not answer" in gateway.chat("cold")[1]["error"]["message"])
            status, answer, headers = gateway.chat("sim", key="sk-made-meanwhile")
            assert (status, answer["error"]["code"]) == (503, "keys_unavailable")
            assert int(headers["retry-after"]) > 0
            made = keys_new(gateway)
            assert made.returncode != 0
            assert "Is it running?" in made.stderr
            assert gateway.ask("GET", "/status")[0] == 200
            more(clients, 5)
        finally:
            postgres.start()
        status, answer, _ = gateway.chat("cold", hold_s=90)
        assert status == 200, answer
        assert "the state answers again" in gateway.log.read_text(), "the log says also that it is over"
        secret = keys_new(gateway).stdout.strip()
        assert gateway.chat("sim", key=secret)[0] == 200
        more(clients, 3)
        answered, broken = over(clients)
        assert broken == 0, "a known key's request to a running model failed"
        with contextlib.closing(Store(state)) as store:
            wait_until(lambda: counted(store) == answered, 60)
        assert len(gateway.all_sessions()) == 2


def keys_new(gateway: Endpoint) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "launcher", "keys", "new", "--endpoint", "--name", "made-meanwhile"]
    return subprocess.run(argv, env=gateway.env, capture_output=True, text=True, timeout=90, check=False)

"""`launcher chat` where no answer can come: a model that cannot start, no gateway, somebody else at its address."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.errors import SessionError
from launcher.fleet import tables
from launcher.fleet.store import Store
from launcher.fleet.ticket import address, token
from launcher.settings.layers import load
from tests.programs.endpoint import Endpoint
from tests.programs.front import ROOT, wait_until

CHAT = (sys.executable, "-m", "launcher", "chat", "--model", "gone")


def test_a_model_that_cannot_be_started_is_told_with_its_cause_and_not_waited_for(tmp_path: Path) -> None:
    with Endpoint(tmp_path, {"gone": {"model": "org/not-there"}}) as own:
        for _ in range(2):
            done = subprocess.run(
                [*CHAT, "Hello?"], cwd=ROOT, env=own.env, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stdout) == (6, "")
            last = done.stderr.splitlines()[-1]
            assert "could not be started" in last
            assert '"org/not-there" was not found' in last
            assert last.endswith("how it is: launcher ls-endpoints")
        too_long = b"a" * (16 * 2**20 + 1)
        cut = subprocess.run(CHAT, cwd=ROOT, env=own.env, input=too_long, capture_output=True, timeout=60)
        assert (cut.returncode, cut.stdout) == (2, b"")
        assert b"longer than 16 MB" in cut.stderr
        closed = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *CHAT], cwd=ROOT, env=own.env, capture_output=True, timeout=60
        )
        assert (closed.returncode, closed.stdout) == (2, b"")
        assert b"There is no question" in closed.stderr


def test_a_gateway_that_was_killed_here_is_known_to_be_gone_at_once(tmp_path: Path) -> None:
    with Endpoint(tmp_path, {"gone": {"model": "org/not-there"}}) as own:
        settings = load(own.env)
        ticket = token(settings)

        def found() -> str:
            try:
                return address(settings, ticket)
            except SessionError as error:
                return error.message

        for _ in range(2):
            wait_until(lambda: found() == own.url)  # it says so a moment after it takes requests
            own.kill()
            assert found() == "No gateway of yours runs."
            own.start()


def test_who_leaves_before_a_model_is_there_is_told_what_goes_on(tmp_path: Path) -> None:
    with Endpoint(
        tmp_path, {"slow": {"model": "simulated", "launch": {"engine_args": ["--start-delay-s", "60"]}}}
    ) as own:
        argv = [sys.executable, "-m", "launcher", "chat", "--model", "slow", "Hello?"]
        env = {**own.env, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().strip()  # what it waits for
            wait_until(lambda: own.ask("GET", "/status")[1]["models"][0]["waiting"] == 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            said = process.stderr.read().splitlines()
        assert said[-1] == "The model goes on starting; it ends when nobody uses it."
        wait_until(lambda: own.ask("GET", "/status")[1]["models"][0]["waiting"] == 0)


def test_a_key_is_not_sent_to_whoever_listens_here_at_another_hosts_loopback(tmp_path: Path) -> None:
    quiet = Endpoint(tmp_path, {"sim": {"model": "simulated"}})
    settings = load(quiet.env)
    ticket = token(settings)
    row = {"host": "elsewhere", "pid": 1, "started_at": 1.0, "until": time.time() + 600}
    with contextlib.closing(Store(quiet.state)) as store:

        def runs(url: str) -> None:
            with store.writing() as connection:
                connection.execute(tables.gateways.insert().values(id=url, url=url, **row))

        for host in ("127.0.0.1", "localhost", "[::1]"):
            runs(f"http://{host}:4711/v1")
        with pytest.raises(SessionError, match="answers on elsewhere alone"):
            address(settings, ticket)
        runs("http://elsewhere:4711/v1")
        assert address(settings, ticket) == "http://elsewhere:4711/v1"

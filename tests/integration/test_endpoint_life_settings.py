"""A gateway that is started again with other settings, was killed or hangs: what becomes of it and of its sessions."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.programs.endpoint import Endpoint
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(180)


def test_what_is_no_longer_offered_is_shown_as_leaving_answers_what_it_has_and_ends(tmp_path: Path) -> None:
    slow = {"model": "simulated", "launch": {"engine_args": ["--token-rate", "4", "--answer", "la " * 24]}}
    with Endpoint(tmp_path, {"former": slow, "stays": {"model": "simulated"}}) as endpoint:
        with ThreadPoolExecutor(2) as threads:
            firsts = [
                threads.submit(endpoint.chat, name, hold_s=60, max_tokens=1) for name in ("former", "stays")
            ]
            assert [one.result()[0] for one in firsts] == [200, 200]
        mine = {session.id.partition("-")[0]: session for session in endpoint.sessions()}
        completions = mine["former"].openai().chat.completions
        stream = completions.create(
            model=mine["former"].ready().model, messages=[{"role": "user", "content": "Hello."}], stream=True
        )
        next(stream)
        endpoint.terminate()
        endpoint.settle({"stays": {"model": "simulated"}})
        endpoint.start()
        wait_until(lambda: states(endpoint) == ["leaving", "ready"])
        assert endpoint.chat("former")[0] == 404
        assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "stop"
        wait_until(lambda: mine["former"].status().ended, 60)
        over = mine["former"].status()
        assert (over.reason, over.message) == (
            "endpoint",
            "Its endpoint has ended it: the settings no longer offer it.",
        )
        wait_until(lambda: [row.model for row in endpoint.rows()] == ["stays"])
        assert endpoint.chat("stays")[0] == 200
        assert not mine["stays"].status().ended


def test_a_gateway_that_was_killed_or_hangs_is_told_from_one_that_runs(tmp_path: Path) -> None:
    with Endpoint(tmp_path, {"sim": {"model": "simulated"}}) as endpoint:
        endpoint.kill()
        assert said(endpoint, "status").stdout == "No gateway runs. Start one: launcher gateway\n"
        endpoint.start()
        assert endpoint.process is not None
        pid = endpoint.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            hangs = said(endpoint, "stop", code=1)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert hangs.stdout == ""
        assert f"(PID {pid}) goes on. End it: kill -9 {pid}" in hangs.stderr
        assert endpoint.process.wait(60) == 0, "it was told to end"
        assert said(endpoint, "stop").stdout == "No gateway runs.\n"


def test_on_all_addresses_it_is_called_as_the_settings_say(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path, {})
    there = {"state": endpoint.state, "host": "0.0.0.0", "shown_host": "{node}.example.edu"}
    endpoint.settle({}, endpoint=there)
    with endpoint:
        node = socket.gethostname().partition(".")[0]
        assert endpoint.url == f"http://{node}.example.edu:{endpoint.port}/v1"
        assert endpoint.ask("GET", "/v1/models")[0] == 200


# A gateway that hangs is waited for a minute otherwise.
COMMAND = """
import sys
from launcher.cli import gateway, main
gateway._STOP_S = 1.0
sys.exit(main(["gateway", *sys.argv[1:]]))
"""


def said(endpoint: Endpoint, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(argv, env=endpoint.env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == code, done
    return done


def states(endpoint: Endpoint) -> list[str]:
    """Of the sessions, as `launcher gateway status` shows them."""
    return [one["state"] for one in json.loads(said(endpoint, "status", "--json").stdout)["sessions"]]

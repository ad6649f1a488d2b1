"""`launcher chat` where no answer can come: a model that cannot be started, no question, one too long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import SessionError
from launcher.fleet.ticket import address, token
from launcher.settings.layers import load
from tests.programs.endpoint import Endpoint
from tests.programs.front import ROOT

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
        assert address(settings, token(settings)) == own.url
        own.kill()
        with pytest.raises(SessionError, match="No gateway of yours runs"):
            address(settings, token(settings))
        own.start()
        assert address(settings, token(settings)) == own.url

"""`launcher keys` and `Session.keys`: what they print, refuse and leave on disk. Over HTTP: test_keys.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher, Session
from launcher.api import write_session
from launcher.errors import RequestError, SessionError
from launcher.sessions import registry
from launcher.sessions.job import write_job_id
from launcher.sessions.status import READY, Status
from tests.hostile import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"sk-[0-9a-f]{64}\n")
DAY = r"20\d\d-\d\d-\d\d \d\d:\d\d \S+"


@pytest.fixture
def session(launcher: Launcher) -> Session:
    """A session that is planned and whose job has not begun: keys can be made for it already."""
    plan = launcher.plan("simulated")
    paths = registry.make(Path(plan.places.sessions), plan.id)
    write_session(plan, paths)
    return launcher.session(plan.id)


def keys(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `launcher keys …` as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "launcher", "keys", *arguments],
        cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def data(*arguments: str) -> Any:
    done = keys(*arguments, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_new_key_is_alone_on_standard_output(session: Session) -> None:
    done = keys("new", session.id, "--name", "alice", "--expires", "3d")
    assert done.returncode == 0, done.stderr
    assert SECRET.fullmatch(done.stdout)
    assert "sk-" not in done.stderr
    valid = rf'"alice" of session {session.id} is valid until {DAY}, or until the session ends\.'
    assert re.search(valid, done.stderr)
    (key,) = session.keys
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == 3 * 86400
    assert done.stdout.strip() not in session.paths.further_keys.read_text()
    assert session.paths.further_keys.stat().st_mode & 0o777 == 0o600


def test_the_list_says_everything_but_the_keys(session: Session) -> None:
    assert keys("ls", session.id).stdout == f"Session {session.id} has only its own key.\n"
    secrets = [
        keys("new", session.id, "--name", "alice").stdout,
        keys("new", session.id, "--name=course", "--expires=12h", "--requests-per-minute=60").stdout,
        keys(
            "new", session.id, "--name", "old", "--expires", "0.0001m", "--tokens-per-minute", "5000"
        ).stdout,
    ]
    shown = keys("ls", session.id, env={"TZ": "UTC", "PYTHONIOENCODING": "utf-8"}).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert rows[0] == ["Name", "Created", "Expires", "Requests/min", "Tokens/min"]
    day = r"20\d\d-\d\d-\d\d \d\d:\d\d UTC"
    for row, (name, expires, requests, tokens) in zip(
        rows[1:],
        [("alice", "with the session", "", ""), ("course", day, "60", ""), ("old", "expired", "", "5000")],
        strict=True,
    ):
        assert row[0] == name
        assert re.fullmatch(day, row[1])
        assert re.fullmatch(expires, row[2])
        assert row[3:] == [requests, tokens]
    listed = data("ls", session.id)
    assert listed["id"] == session.id
    assert [(key["name"], key["expired"]) for key in listed["keys"]] == [
        ("alice", False), ("course", False), ("old", True),
    ]  # fmt: skip
    for secret in secrets:
        assert SECRET.fullmatch(secret)
        assert secret.strip() not in shown + json.dumps(listed)


def test_json_of_a_new_key_holds_it_this_once(session: Session) -> None:
    made = data("new", session.id, "--name", "alice", "--tokens-per-minute", "100")
    assert SECRET.fullmatch(made.pop("key") + "\n")
    assert made == {**data("ls", session.id)["keys"][0], "id": session.id}
    assert made["tokens_per_minute"] == 100


def test_revoking_takes_one_away_and_a_slip_takes_none(session: Session) -> None:
    for name in ("alice", "bob"):
        keys("new", session.id, "--name", name)
    slip = keys("revoke", session.id, "alcie")
    assert slip.returncode == 2
    assert 'There is no key "alcie". Its keys: alice.' in slip.stderr
    done = keys("revoke", session.id, "alice")
    assert (done.returncode, done.stdout) == (0, f'The key "alice" of session {session.id} is revoked.\n')
    assert [key.name for key in session.keys] == ["bob"]
    assert data("revoke", session.id, "bob")["name"] == "bob"
    assert list(session.keys) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--name", "alice"), 2, 'There is a key "alice" already.'),
        (("--name", "session"), 2, "the session's own key"),
        (("--name", "two words"), 2, "Use letters, digits, dots, dashes and underscores"),
        (("--name", "b", "--expires", "tomorrow"), 2, '"tomorrow" is not a span of time. Write 90m, 12h, 3d or 2w'),
        (("--name", "b", "--expires", "0d"), 2, "is not a span of time"),
        (("--name", "b", "--requests-per-minute", "0"), 2, "--requests-per-minute) must be a whole number from 1"),
        (("--name", "b", "--tokens-per-minute", "many"), 2, '--tokens-per-minute must be a whole number, not "many".'),
        ((), 2, "--name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(
    arguments: tuple[str, ...], code: int, says: str, session: Session
) -> None:
    session.keys.new("alice")
    done = keys("new", session.id, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert [key.name for key in session.keys] == ["alice"]


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\0" not in text])
def test_hostile_texts(text: str, session: Session) -> None:
    for done in (
        keys("new", session.id, f"--name={text}"),
        keys("new", session.id, "--name=a", f"--expires={text}"),
        keys("revoke", session.id, "--", text),
        keys("ls", "--", text),
    ):
        assert done.returncode in (2, 6), done
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert len(done.stderr) < 600
    assert not session.paths.further_keys.exists() or list(session.keys) == []
    assert not Path("/tmp/launcher-was-here").exists()


def test_a_broken_file_is_told_and_left_alone(session: Session) -> None:
    session.paths.further_keys.write_text("{")
    session.paths.further_keys.chmod(0o600)
    for command in (("ls",), ("new",), ("revoke",)):
        rest = {"new": ("--name", "alice"), "revoke": ("alice",)}.get(command[0], ())
        done = keys(*command, session.id, *rest)
        assert done.returncode == 8
        assert "keys.json is not believed: it is broken. Remove it" in done.stderr
    assert session.paths.further_keys.read_text() == "{"


def test_python_has_the_same(session: Session) -> None:
    key, secret = session.keys.new("alice", expires="2w", requests_per_minute=60, tokens_per_minute=1000)
    assert SECRET.fullmatch(secret + "\n")
    assert list(session.keys) == [key]
    assert (key.requests_per_minute, key.tokens_per_minute) == (60, 1000)
    with pytest.raises(RequestError, match="already"):
        session.keys.new("alice")
    with pytest.raises(RequestError, match="span of time"):
        session.keys.new("bob", expires="soon")
    with pytest.raises(RequestError, match=r'\(--requests-per-minute\) must be .*, not "60"\.'):
        session.keys.new("bob", requests_per_minute="60")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(RequestError, match="own key cannot be revoked"):
        session.keys.revoke("session")
    assert session.keys.revoke("alice") == key
    assert list(session.keys) == []


def test_a_session_that_is_over_gets_no_keys_but_those_it_had_can_be_seen_and_revoked(
    session: Session,
) -> None:
    session.keys.new("alice")
    host = os.uname().nodename
    write_job_id(session.paths.job, f"{host}:4194303.1")  # a process that is not there
    assert session.status().ended
    with pytest.raises(SessionError, match="is over"):
        session.keys.new("bob")
    done = keys("new", session.id, "--name", "bob")
    assert done.returncode == 6
    assert f"Session {session.id} is over." in done.stderr
    assert [key["name"] for key in data("ls", session.id)["keys"]] == ["alice"]
    shown = keys("ls", session.id).stdout
    assert "the session is over" in shown
    assert "never" not in shown
    assert keys("revoke", session.id, "alice").returncode == 0


def test_a_key_that_outlives_its_session_says_when_that_ends(session: Session) -> None:
    now = time.time()
    Status(session.id, READY, now, "The model answers.", ends_at=now + 3600).write(session.paths.status)
    long = keys("new", session.id, "--name", "long", "--expires", "3d").stderr
    assert re.search(rf"until {DAY}, or until the session ends \({DAY}\)", long)
    short = keys("new", session.id, "--name", "short", "--expires", "5m").stderr
    assert re.search(rf"until {DAY}\. It is shown", short)


def test_a_session_that_is_not_there(launcher: Launcher) -> None:
    for arguments in (("new", "nothing", "--name", "a"), ("ls", "nothing"), ("revoke", "nothing", "a")):
        done = keys(*arguments)
        assert done.returncode == 6
        assert 'There is no session "nothing".' in done.stderr
    assert keys().returncode == 2

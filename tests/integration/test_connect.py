"""`launcher connect`: what a user types, sees and pastes; real ssh to a real sshd, and one session behind it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher import Launcher, Session
from launcher.api.tunnel.background import kept
from launcher.api.tunnel.tunnel import Tunnel, connect
from launcher.errors import RequestError, SchedulerError, SessionError
from tests.hostile import HOSTILE
from tests.integration.connecting import (
    ASK,
    LAUNCHER,
    PATIENT,
    keys_in_environments,
    on_a_terminal,
    read_until,
    run,
    status_of,
)
from tests.programs.front import wait_until
from tests.programs.loopback import Host, Loopback

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_is_left")]


def test_a_program_finds_address_and_key_and_its_exit_code_is_ours(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """della 5: from a login node, where the node can be reached, no ssh is needed; a proxy is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    done = run("connect", running.id, "--", sys.executable, "-c", ASK, running.plan.model.served_name)
    assert (done.returncode, done.stderr.count("Traceback")) == (7, 0), done.stderr
    assert done.stdout.startswith("Simulated answer")


def test_ctrl_c_ends_the_connection_and_not_the_session(running: Session, login: Host) -> None:
    """della 5: killed cleanly on Ctrl-C; della 1: what is printed for curl and Python works as it is pasted."""
    process, terminal = on_a_terminal("connect", running.id, "--via", "login")
    text = read_until(terminal, "Ctrl-C ends").replace("\r", "")
    exports = "\n".join(line for line in text.splitlines() if line.startswith("export "))
    shown = subprocess.run(
        ["bash", "-c", f'{exports}\necho "$OPENAI_BASE_URL $OPENAI_API_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert status_of(*shown) == 200
    pasted = text[text.index("# curl") : text.index("# Python")]
    said = subprocess.run(["bash", "-c", f"{exports}\n{pasted}"], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["choices"]
    pasted = text[text.index("# Python") : text.index("Ctrl-C ends")]
    script = f"{exports}\n{sys.executable} - <<'END'\n{pasted}\nEND"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("Simulated answer")
    os.write(terminal, b"\x03")
    assert "The session goes on" in read_until(terminal, "launcher stop")
    assert process.wait(60) == 130
    os.close(terminal)
    assert running.status().state == "READY"


@pytest.mark.parametrize("export", [False, True])
def test_what_ssh_asks_is_asked_once_on_the_terminal(
    running: Session, hosts: Loopback, login: Host, export: bool
) -> None:
    """A code, a password, or as here a passphrase: typed once for all that goes over the connection."""
    locked = hosts.folder / "locked"
    shutil.copy(hosts.folder / "key", locked)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(locked)], check=True)
    login.identity = locked
    hosts.configure()
    before = login.logins
    rest = ["--export"] if export else ["--", sys.executable, "-c", ASK, running.plan.model.served_name]
    process, terminal = on_a_terminal("connect", running.id, "--via", "login", *rest)
    try:
        text = read_until(terminal, "passphrase")
        os.write(terminal, b"open sesame\n")
        text += read_until(terminal, "--close" if export else "Simulated answer")
        assert process.wait(60) == (0 if export else 7)
        assert run("connect", "--close", running.id).returncode == 0
    finally:
        os.close(terminal)
        login.identity = hosts.folder / "key"
        hosts.configure()
    assert text.count("passphrase") == 1
    assert login.logins == before + 1


def test_ctrl_c_is_for_the_program_that_runs(running: Session) -> None:
    """We wait for what it makes of it, and take its key back afterwards."""
    process, terminal = on_a_terminal("connect", running.id, "--", sys.executable, "-c", PATIENT)
    read_until(terminal, "begun")
    os.write(terminal, b"\x03")
    assert process.wait(60) == 9
    os.close(terminal)
    assert list(running.keys) == []


def test_the_key_is_neither_shown_to_a_file_nor_to_other_users(running: Session, login: Host) -> None:
    """Who else can look sees command lines and sockets, and no key among them."""
    argv = [*LAUNCHER, "connect", running.id, "--via", "login", "--", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_until(lambda: keys_in_environments(process.pid))
        (key,) = set(keys_in_environments(process.pid))
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line, name = (entry / "cmdline").read_bytes(), (entry / "comm").read_text()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            assert key not in line
            assert key not in environment or name == "cat\n"
        process.communicate(timeout=60)
    assert process.returncode == 0
    argv = [*LAUNCHER, "connect", running.id]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as printing:
        assert printing.stdout is not None
        text = ""
        while "Ctrl-C ends" not in text:
            text += printing.stdout.readline()
        printing.terminate()
    assert printing.returncode == 128 + signal.SIGTERM
    assert "sk-" not in text
    assert list(running.keys) == []


def test_export_stays_in_the_background_until_it_is_told(running: Session, login: Host) -> None:
    launcher = " ".join(LAUNCHER)
    script = f"""
        eval "$({launcher} connect {running.id} --via login --export)"
        echo "$OPENAI_BASE_URL $OPENAI_API_KEY"
        {launcher} connect {running.id} --export
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    first, *again = done.stdout.splitlines()
    url, key = first.split()
    assert again == [f"export OPENAI_BASE_URL={url}", f"export OPENAI_API_KEY={key}"]  # the same one
    assert status_of(url, key) == 200
    listed = run("connect", "--list", "--json")
    assert [(one["id"], one["base_url"]) for one in json.loads(listed.stdout)["connections"]] == [
        (running.id, url)
    ]
    assert key not in run("connect", "--list").stdout
    assert run("connect", "--close", running.id).stdout == f"Closed: {running.id}\n"
    with pytest.raises(OSError, match="refused"):
        status_of(url, key)
    assert "no connection" in run("connect", "--close").stderr


def test_the_key_of_a_connection_that_was_killed_ends_by_itself(running: Session, hosts: Loopback) -> None:
    """Nobody is left to take it back; until then it is one of at most 256, and opens the session."""
    done = run("connect", running.id, "--export", "--json")
    key = json.loads(done.stdout)["key"]
    (path,) = (hosts.folder / "run").glob("launcher-ssh/*.connection")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        keeper, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: kept() == [] and not path.exists())
    (left,) = running.keys
    assert left.digest == hashlib.sha256(key.encode()).hexdigest()
    assert time.time() < (left.expires_at or 0) <= time.time() + 3600
    running.keys.revoke(left.name)


def test_the_key_of_a_connection_that_lives_is_renewed(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.api.tunnel.tunnel._RENEW_S", 0.5)
    told: list[str] = []
    with running.connect(tell=told.append) as tunnel:
        (key,) = running.keys
        wait_until(lambda: [one.expires_at for one in running.keys] > [key.expires_at])
        assert status_of(tunnel.base_url, tunnel.key) == 200
        running.keys.revoke(key.name)
        wait_until(lambda: told)
        assert "The key of this connection cannot be renewed" in told[0]
        assert list(running.keys) == []  # what was taken away is not made anew


def test_a_host_that_nobody_knows(running: Session) -> None:
    done = run("connect", running.id, "--via", "login.invalid")
    assert done.returncode == SchedulerError.exit_code
    assert "login.invalid is a name that cannot be found" in done.stderr


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "\0"])
def test_a_hostile_host_is_refused_or_not_found(running: Session, text: str) -> None:
    with pytest.raises((RequestError, SchedulerError)) as caught:
        running.connect(via=text, ask=False)
    assert len(str(caught.value)) < 600
    assert not Path("/tmp/launcher-was-here").exists()


def test_an_outside_host_only_where_the_site_allows_it(
    running: Session, login: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """della 10: a reverse tunnel is an opt-in, off by default, on a port that is chosen anew."""
    done = run("connect", running.id, "--publish", "login", "--", "true")
    assert done.returncode == RequestError.exit_code
    assert "allow.publish" in done.stderr
    site = tmp_path / "site.yml"
    site.write_text("allow: {publish: true}\n")
    monkeypatch.setenv("LAUNCHER_SITE", str(site))
    with running.connect() as tunnel:
        port = tunnel.publish("login")
        outside = f"http://127.0.0.1:{port}/v1"
        assert port != tunnel.port
        assert status_of(outside, tunnel.key) == 200
        assert status_of(outside, None) == 401
        login.drop()
        wait_until(lambda: status_at_the_outside(tunnel) == 200)
    with pytest.raises(OSError, match="refused"):
        status_of(f"http://127.0.0.1:{tunnel.published['login']}/v1", None)


def status_at_the_outside(tunnel: Tunnel) -> int:
    try:
        return status_of(f"http://127.0.0.1:{tunnel.published['login']}/v1", tunnel.key)
    except OSError:
        return 0


def test_a_session_that_ends_while_one_is_connected(own_launcher: Launcher, running: Session) -> None:
    """The client is told not to try again, and the command ends by itself; another session knows nothing of it.

    della 7: two connections have two ports, and the key of one does not open the other.
    """
    with own_launcher.launch("simulated") as session:
        with connect(session) as tunnel, running.connect() as other:
            assert (tunnel.port, tunnel.key) != (other.port, other.key)
            assert status_of(other.base_url, tunnel.key) == 401
            session.stop()
            assert tunnel.wait(20)
            assert tunnel.over is not None
            assert tunnel.over.reason == "user"
            assert status_of(tunnel.base_url, tunnel.key) == 503
            assert status_of(other.base_url, other.key) == 200
        with pytest.raises(SessionError, match="is over"):
            connect(session)


def test_the_key_is_never_printed_to_a_terminal_by_the_clusters_side(running: Session) -> None:
    process, terminal = on_a_terminal("connection", running.id)
    assert "not for a terminal" in read_until(terminal, "launcher connect")
    assert process.wait(60) == RequestError.exit_code
    os.close(terminal)

"""The hosts on the way to a session: what breaks, what they refuse, and how one gets there all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import httpx
import openai
import pytest

from launcher import Launcher, Session
from launcher.api.tunnel.whereabouts import Far
from launcher.errors import LauncherError, SchedulerError
from launcher.schedulers.ssh import control, master_runs, open_master, ssh_argv
from tests.conftest import needs
from tests.hostile import HOSTILE
from tests.integration.connecting import (
    LAUNCHER,
    asks,
    run,
    settings,
    status_of,
)
from tests.programs.front import wait_until
from tests.programs.loopback import Host, Loopback

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_is_left")]


def test_through_a_login_host_with_one_login(running: Session, login: Host) -> None:
    """della 5: from a laptop, through the login host; a code would be typed once."""
    before = login.logins
    with running.connect(via="login") as tunnel:
        assert tunnel.base_url.startswith("http://127.0.0.1:")
        assert tunnel.way == "over ssh to login"
        assert asks(tunnel).startswith("Simulated answer")
        assert status_of(tunnel.base_url, None) == 401
        key, url = tunnel.key, running.connection
    assert login.logins == before + 1
    assert url is not None
    assert key != url.key
    wait_until(lambda: status_of(url.base_url, key) == 401, 10)  # it was the connection's own
    assert running.status().state == "READY"


def test_a_broken_ssh_is_made_again_behind_the_same_address(
    running: Session, login: Host, hosts: Loopback
) -> None:
    told: list[str] = []
    with running.connect(via="login", tell=told.append) as tunnel:
        url, key = tunnel.base_url, tunnel.key
        (master, *_) = hosts.programs()
        os.kill(master, signal.SIGKILL)
        assert asks(tunnel).startswith("Simulated answer")  # the client tries again by itself
        login.drop()
        wait_until(lambda: sum("Connected again" in sentence for sentence in told) == 2)
        assert asks(tunnel).startswith("Simulated answer")
        assert (tunnel.base_url, tunnel.key) == (url, key)
    assert any("was lost" in sentence for sentence in told)


def test_an_answer_in_the_middle_of_which_ssh_dies_is_no_whole_answer(
    own_launcher: Launcher, login: Host
) -> None:
    with (
        own_launcher.launch("simulated", engine_args=("--tokens", "2000")) as session,  # 40 s of them
        session.connect(via="login") as tunnel,
        tunnel.openai(max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model=tunnel.model,
            stream=True,
            max_tokens=2000,
            messages=[{"role": "user", "content": "Hello"}],
        )
        next(iter(stream))
        login.drop()
        with pytest.raises((openai.APIError, OSError, httpx.HTTPError)):
            for _ in stream:
                pass


def test_the_shared_connection_of_the_users_own_configuration_is_used_and_kept(
    running: Session, login: Host, hosts: Loopback
) -> None:
    hosts.configure(
        f"Host login\n  ControlMaster auto\n  ControlPath {hosts.folder}/own-%C\n  ControlPersist yes\n"
    )
    try:
        subprocess.run(["ssh", "login", "true"], check=True, timeout=20)
        before = login.logins
        with running.connect(via="login") as tunnel:
            assert asks(tunnel)
        assert login.logins == before
        assert (
            subprocess.run(["ssh", "-O", "check", "login"], capture_output=True, check=False).returncode == 0
        )
    finally:
        subprocess.run(["ssh", "-O", "exit", "login"], capture_output=True, check=False)
        hosts.configure()


def test_a_node_that_only_ssh_reaches(own_launcher: Launcher, hosts: Loopback) -> None:
    """The node has a network of its own; the session is reached by `ssh NODE`, as from a login node."""
    if os.geteuid() != 0:
        pytest.skip("missing root: a network namespace")
    needs("ip", "iproute2")
    # Its input is a pipe of ours: it ends with us, whatever happens.
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as node:
        wait_until(lambda: os.readlink(f"/proc/{node.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        inside = ["nsenter", f"--net=/proc/{node.pid}/ns/net"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        hosts.add("localhost", inside=node.pid)
        started = subprocess.run(
            [*inside, *LAUNCHER, "launch", "simulated", "--json"], capture_output=True, text=True, check=True,
            env={**os.environ, "LAUNCHER_NETWORK__HOST": "localhost"},
        )  # fmt: skip
        session = own_launcher.session(json.loads(started.stdout)["id"])
        try:
            with session.connect() as tunnel:
                assert tunnel.way == "over ssh to localhost"
                assert asks(tunnel).startswith("Simulated answer")
        finally:
            session.stop()
            hosts.hosts.pop()
            hosts.configure()
            assert node.stdin is not None
            node.stdin.close()


def test_a_node_behind_a_login_host_that_forwards_nothing_but_ssh(running: Session, hosts: Loopback) -> None:
    """The login host may only open connections to the node's sshd: ssh goes on from there."""
    node = hosts.add("127.0.0.1")
    narrow = hosts.add("narrow", more=f"PermitOpen 127.0.0.1:{node.port}")
    with running.connect(via="narrow") as tunnel:
        assert tunnel.way == "over ssh to 127.0.0.1 by way of narrow"
        assert asks(tunnel).startswith("Simulated answer")
    assert (narrow.logins, node.logins) == (1, 1)
    for host in (node, narrow):
        host.stop()
        hosts.hosts.remove(host)
    hosts.configure()


def test_a_host_key_that_has_changed_is_said_and_nothing_is_sent(running: Session, hosts: Loopback) -> None:
    host = hosts.add("changed")
    told: list[str] = []
    with running.connect(via="changed", tell=told.append) as tunnel:
        host.new_host_key()
        wait_until(lambda: any("another host key" in sentence for sentence in told))
        assert status_of(tunnel.base_url, tunnel.key) == 503
    done = run("connect", running.id, "--via", "changed")
    assert done.returncode == SchedulerError.exit_code
    assert (
        "changed has another host key than before. If its staff announced that: ssh-keygen -R changed"
        in done.stderr
    )
    host.stop()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("AllowTcpForwarding no", "does not allow forwarding. Name another host with --via"),
        ("DenyUsers *", "did not let you in. Check `ssh refusing`"),
    ],
)
def test_what_a_login_host_refuses_is_one_sentence(
    running: Session, hosts: Loopback, more: str, words: str
) -> None:
    host = hosts.add("refusing", more=more)
    done = run("connect", running.id, "--via", "refusing")
    host.stop()
    hosts.hosts.remove(host)
    hosts.configure()
    (hosts.folder / "refusing").rename(hosts.folder / f"refused-{len(more)}")
    assert (done.returncode, "Traceback" in done.stderr) == (SchedulerError.exit_code, False), done.stderr
    assert words in done.stderr


def test_a_host_that_ssh_does_not_know_yet(running: Session, hosts: Loopback) -> None:
    """Nobody is there to compare its fingerprint, so nothing goes there."""
    host = hosts.add("new")
    host.new_host_key()
    known = hosts.folder / "known_hosts"
    kept = known.read_text()
    known.write_text("".join(line for line in kept.splitlines(True) if not line.startswith("new ")))
    with pytest.raises(SchedulerError, match="new is a host that your ssh does not know yet"):
        running.connect(via="new", ask=False)
    assert host.logins == 0
    host.stop()


def test_another_launcher_over_ssh_tells_and_gets_a_key_of_its_own(running: Session, login: Host) -> None:
    """What `launcher connect` on a laptop does with a cluster that has a launcher of its own."""

    far = Far("login", ["env", *settings(), *LAUNCHER], running.id)
    try:
        seen = far.look()
        assert seen.connection == running.connection
        assert seen.connection is not None
        key = far.new_key("laptop")
        url = seen.connection.base_url
        wait_until(lambda: status_of(url, key) == 200)
        login.drop()
        with pytest.raises(SchedulerError, match="lost"):
            far.look()
        assert far.look().state == "READY"  # it takes it up again
        far.revoke("laptop")
        assert list(running.keys) == []
    finally:
        far.close()
    gone = Far("login", ["env", *settings(), *LAUNCHER], "no-such-session")
    with pytest.raises(LauncherError, match="no-such-session"):
        gone.look()
    gone.close()


def test_every_word_arrives_whole_and_a_master_is_opened_once(login: Host) -> None:
    words = [text for text in HOSTILE if text != "\0"]
    assert open_master("login", ask=False)
    assert not open_master("login", ask=False)
    before = login.logins
    done = subprocess.run(
        ssh_argv("login", ["printf", "%s\\0", *words]),
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.decode().split("\0")[:-1] == words
    assert login.logins == before
    assert control("login", "exit").returncode == 0
    assert not master_runs("login")

"""What ssh says becomes a sentence and a step; its sockets lie where nobody else can go."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from launcher.errors import RequestError
from launcher.schedulers.ssh import private_folder, ssh_argv, trouble
from tests.conftest import needs
from tests.hostile import HOSTILE

# As OpenSSH 9.2 printed them.
SAID = [
    (
        "@@@@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@@@@@@\n"
        "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\nHost key verification failed.\n",
        "has another host key than before",
        "ssh-keygen -R login.invalid",
    ),
    ("No ED25519 host key is known for login and you have requested strict checking.\nHost key verification failed.\n",
     "does not know yet", "compare the fingerprint"),
    ("Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa\n",
     "of kinds that your ssh does not take", "HostKeyAlgorithms"),
    ("you@login: Permission denied (publickey,keyboard-interactive).\n", "did not let you in", "ssh-add -l"),
    ("Received disconnect from 127.0.0.1 port 22:2: Too many authentication failures\n",
     "before the right key", "IdentitiesOnly"),
    ("ssh: Could not resolve hostname login: Name or service not known\n", "cannot be found", "VPN"),
    ("ssh: connect to host login port 22: Connection refused\n", "takes no ssh connections", "port"),
    ("ssh: connect to host login port 22: Connection timed out\n", "does not answer", "VPN"),
    ("ssh: connect to host login port 22: No route to host\n", "cannot be reached from here", "VPN"),
    ("kex_exchange_identification: Connection closed by remote host\n", "ended the connection", "Try again"),
    ("Connection reset by 127.0.0.1 port 22\n", "ended the connection", "Try again"),
    ("Something\nthat nobody foresaw.\n", "that nobody foresaw", "Check: ssh login.invalid"),
    ("", "did not say why", "Check: ssh login.invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "sentence", "step"), SAID)
def test_what_ssh_says_is_one_sentence_and_one_step(said: str, sentence: str, step: str) -> None:
    needs("ssh", "openssh-client")
    error = trouble("login.invalid", said)
    assert error.message.startswith("login.invalid ")
    assert sentence in error.message
    assert step in str(error.hint)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_host_is_never_an_option_nor_a_command(text: str) -> None:
    needs("ssh", "openssh-client")
    with contextlib.suppress(RequestError):
        argv = ssh_argv(text, ["true"])
        assert argv[argv.index("--") + 1 :] == [text, "true"]


@pytest.mark.parametrize("sign", [*"'`\"$\\;&<>|(){} ", "\n"])
def test_a_host_holds_nothing_that_a_shell_would_read(sign: str) -> None:
    """%h of a ProxyCommand goes to a shell, and a session's host is what its cluster says."""
    with pytest.raises(RequestError, match="cannot be a host"):
        ssh_argv(f"node{sign}id", ["true"])


def test_a_folder_that_others_could_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as short:
        mine, everybodys = Path(short, "mine"), Path(short, "everybodys")
        for folder in (mine, everybodys):
            folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(mine))
        monkeypatch.setattr(tempfile, "tempdir", str(everybodys))
        assert private_folder() == mine / "launcher-ssh"
        assert (mine / "launcher-ssh").stat().st_mode & 0o777 == 0o700
        (mine / "launcher-ssh").chmod(0o755)
        second = everybodys / f"launcher-ssh-{os.getuid()}"
        assert private_folder() == second
        second.rmdir()
        second.symlink_to(tmp_path)  # what another user of the machine may have put there
        monkeypatch.setenv("HOME", short)
        Path(short, ".ssh").mkdir()
        assert private_folder() == Path(short, ".ssh", "launcher")

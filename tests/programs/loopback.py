"""Hosts for ssh on this machine: each a real sshd of whoever runs the tests, and a PATH where `ssh` knows them alone.

Owns the keys, the daemons and the client's configuration, all in one folder: nobody's ~/.ssh is touched.

    with Loopback() as hosts:
        login = hosts.add("login")                   # a daemon on a port of 127.0.0.1
        hosts.add("node7", inside=pid)               # in the network namespace of the process `pid` (root only)
        subprocess.run(["ssh", "login", "true"], env=hosts.env)
        login.drop()                                 # every connection to it breaks
        login.new_host_key()
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.programs.front import wait_until
from tests.slurm.processes import free_ports

_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {keys}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
{more}
"""
_CLIENT = """\
Host {name}
  HostName {address}
  Port {port}
  HostKeyAlias {name}
  IdentityFile {identity}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  {more}
"""


class Host:
    """One host; `logins` is how many connections it has let in, `identity` the file with the client's key."""

    def __init__(self, hosts: Loopback, name: str, inside: int | None, more: str) -> None:
        self.name, self._hosts, self._inside, self._more = name, hosts, inside, more
        self.identity = hosts.folder / "key"
        self.folder = hosts.folder / name
        self.folder.mkdir()
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.new_host_key(known=True)

    @property
    def logins(self) -> int:
        return (self.folder / "log").read_text(errors="replace").count("Accepted publickey")

    def client(self) -> str:
        """Its entry in ssh's configuration."""
        more = ""
        if self._inside is not None:  # no way leads there but this one
            sshd = f"/usr/sbin/sshd -i -e -f {self.folder}/sshd_config"
            more = f"ProxyCommand nsenter --net=/proc/{self._inside}/ns/net {sshd} 2>>{self.folder}/log"
        return _CLIENT.format(
            name=self.name, address="127.0.0.1", port=self.port, identity=self.identity,
            folder=self._hosts.folder, more=more,
        )  # fmt: skip

    def new_host_key(self, *, known: bool = False) -> None:
        """Start again with another host key; `known` puts it among those the client trusts."""
        self.stop()
        key = self.folder / "host_key"
        key.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        if known:
            public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
            with (self._hosts.folder / "known_hosts").open("a") as file:
                file.write(f"{self.name} {public}\n")
        self.start()

    def start(self) -> None:
        """Take connections."""
        keys = self._hosts.folder / "key.pub"
        text = _SSHD.format(port=self.port, folder=self.folder, keys=keys, more=self._more)
        (self.folder / "sshd_config").write_text(text)
        if self._inside is not None:
            (self.folder / "log").touch()
            return
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
        wait_until(self._listens)

    def drop(self) -> None:
        """Break every connection, as a network that goes away does; new ones are taken."""
        assert self._process is not None
        for pid in descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Take no connections any more, and break those there are; can be called twice."""
        if self._process is not None:
            self.drop()
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Loopback:
    """The hosts, and what a program needs in its environment for `ssh` to know them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ssh-"))
        self.hosts: list[Host] = []
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (self.folder / "bin").mkdir()
        (self.folder / "run").mkdir(mode=0o700)
        # ssh reads its configuration from the account's home, whatever HOME says.
        program = self.folder / "bin" / "ssh"
        program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.folder}/config "$@"\n')
        program.chmod(0o755)
        self.configure()
        if os.geteuid() == 0:  # sshd's empty folder, which a boot without systemd has not made
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "XDG_RUNTIME_DIR": str(self.folder / "run")}

    def add(self, name: str, *, inside: int | None = None, more: str = "") -> Host:
        """Another host; `more` are lines of its sshd's configuration."""
        self.hosts.append(Host(self, name, inside, more))
        self.configure()
        return self.hosts[-1]

    def configure(self, more: str = "") -> None:
        """Write the client's configuration; `more` stands before the hosts."""
        text = more + "".join(host.client() for host in self.hosts)
        (self.folder / "config").write_text(f"{text}Host *\n  User {getpass.getuser()}\n")

    def programs(self) -> list[int]:
        """The pids of all the ssh programs that read this configuration or have a socket here."""
        return processes_of(str(self.folder))

    def __enter__(self) -> Loopback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            host.stop()
        for pid in self.programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """The children of `pid`, and theirs."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def processes_of(word: str) -> list[int]:
    """The ssh programs whose command line has `word`; a master names its socket there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if line.startswith((b"ssh:", b"ssh\0", b"/usr/bin/ssh\0")) and word.encode() in line:
                found.append(int(entry.name))
    return found

"""A real sshd on a loopback port, in which the tests' users log in with a key: another host, as ssh sees it.

Owns the daemon, its keys and an entry in a user's ssh configuration; needs root, since it becomes the user.

    with Logins(alice, "login-elsewhere", {"SLURM_CONF": ...}):      # alice: ssh login-elsewhere sinfo
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.slurm.people import Person
from tests.slurm.processes import free_ports

_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
{variables}
"""
_CLIENT = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/key-{user}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
"""


class Logins:
    """The host `name` for `person`; `variables` are in the environment of every login there."""

    def __init__(self, person: Person, name: str, variables: Mapping[str, str]) -> None:
        self.person, self.name, self.variables = person, name, dict(variables)
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = person.home / ".ssh" / "config"
        self._kept = self._configuration.read_bytes() if self._configuration.exists() else None

    def __enter__(self) -> Logins:
        self.folder.chmod(0o755)
        key = self.folder / f"key-{self.person.name}"
        for path in (self.folder / "host_key", key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        (self.folder / "keys").write_text(key.with_suffix(".pub").read_text())
        os.chown(key, self.person.uid, self.person.gid)
        (port,) = free_ports(1)
        public = (self.folder / "host_key.pub").read_text().split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
        variables = " ".join(f'"{name}={value}"' for name, value in self.variables.items())
        settings = _SSHD.format(
            port=port, folder=self.folder, variables=f"SetEnv {variables}" if variables else ""
        )
        (self.folder / "sshd_config").write_text(settings)
        self._configure(_CLIENT.format(name=self.name, port=port, folder=self.folder, user=self.person.name))
        # sshd wants its empty folder, which a boot without systemd has not made.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "log").read_text()
                    self.stop()
                    raise RuntimeError(f"sshd does not start:\n{said}") from None
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the daemon and put the user's configuration back; can be called twice."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        if self._kept is not None:
            self._configuration.write_bytes(self._kept)
        else:
            self._configuration.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self, text: str) -> None:
        folder = self._configuration.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        self._configuration.write_text(text)
        self._configuration.chmod(0o600)
        for path in (folder, self._configuration):
            os.chown(path, self.person.uid, self.person.gid)

"""The ways from here to a session's port: directly, or through ssh to a host; and the way out to another host.

Each way ends in an address of this machine. Owns the ports that are forwarded; the shared connection that carries them
is launcher.schedulers.ssh's, and is closed only by the way that opened it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, Self

from launcher.api.tunnel.relay import LOOPBACK, Target
from launcher.errors import SchedulerError, StorageError
from launcher.schedulers.line import Line
from launcher.schedulers.ssh import control, master_runs, open_master, private_folder, ssh_argv, trouble
from launcher.sessions.plan import PlannedCluster
from launcher.sessions.status import READY, UNHEALTHY

_DIRECT_S, _TUNNEL_S = 4.0, 20.0
_PING_EVERY_S, _PING_S = 10.0, 10.0


class Way(Protocol):
    """One way; `open` may be called again, for another port."""

    @property
    def words(self) -> str:
        """How one goes, for people."""

    def open(self, host: str, port: int) -> Target:
        """Make the way to `host`:`port`, try it, and return where it begins; raises SchedulerError with the reason."""

    def alive(self) -> bool:
        """Whether it still stands, as far as can be known; cheap enough for every second."""

    def close(self) -> None:
        """Leave nothing of it; can be called twice."""


class Direct:
    """The port can be reached from here."""

    words = "directly"

    def open(self, host: str, port: int) -> Target:
        target = (host, port)
        if not answers(target, _DIRECT_S):
            raise SchedulerError(
                f"{host}:{port} cannot be reached from here.", "Name a host that can: --via LOGIN_NODE."
            )
        return target

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Ssh:
    """What a way over ssh stands on: the shared connection, and a line that shows whether it lives."""

    def __init__(self, host: str, *, through: str | None = None, ask: bool = False) -> None:
        self.host, self._through, self.ask = host, through, ask
        self.words = f"over ssh to {host}" + (f" by way of {through}" if through else "")
        self._opened: list[tuple[str, str | None]] = []  # the shared connections that we opened
        self._line: Line | None = None
        self._pinged = 0.0
        self._forwarded: tuple[str, str] | None = None

    def alive(self) -> bool:
        if self._line is None or not self._line.alive:
            return False
        if time.monotonic() - self._pinged >= _PING_EVERY_S:
            try:
                self._ping()
            except SchedulerError:
                # A laptop that slept: the master waits for a network that is no more, and would keep everybody out.
                control(self.host, "exit" if self._opened else "stop", through=self._through)
                self._drop_line()
                return False
        return True

    def close(self) -> None:
        self._rest()
        for host, through in reversed(self._opened):
            control(host, "stop", through=through)  # it ends when nobody uses it any more
        self._opened = []

    def abort(self) -> None:
        if self._line is not None:
            self._line.abort()

    def _stand(self) -> None:
        if not master_runs(self.host, self._through):
            self._drop_line()
            wanted = [] if self._through is None else [(self._through, None)]
            for host, through in [*wanted, (self.host, self._through)]:
                # Between the hosts of a cluster nobody types a password; what is asked there would be a surprise.
                ask = self.ask and through is None
                if open_master(host, through=through, ask=ask) and (host, through) not in self._opened:
                    self._opened.append((host, through))
        if self._line is None or not self._line.alive:
            self._drop_line()
            self._line = Line(self.host, ["cat"], through=self._through)
            self._ping()

    def _ping(self) -> None:
        assert self._line is not None
        self._line.ask(word := secrets.token_hex(8), _PING_S, lambda line: line == word)
        self._pinged = time.monotonic()

    def _forward(self, flag: str, what: str) -> str:
        done = control(self.host, "forward", flag, what, through=self._through)
        if done.returncode:
            raise trouble(self.host, done.stderr)
        self._forwarded = (flag, what)
        return done.stdout

    def _rest(self) -> None:
        """Keep the shared connection and nothing else."""
        if self._forwarded is not None:
            control(self.host, "cancel", *self._forwarded, through=self._through)
            self._forwarded = None
        self._drop_line()

    def _drop_line(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class OverSsh(_Ssh):
    """Through ssh to `host`, which itself is reached by way of `through` where one is named.

    With `ask`, ssh may ask on the terminal for a password or a code.
    """

    _folder: Path | None = None

    def open(self, host: str, port: int) -> Target:
        self._rest()
        try:
            self._stand()
            if self._folder is None or not self._folder.exists():
                self._folder = _folder()
            path = str(self._folder / str(port))
            Path(path).unlink(missing_ok=True)
            target = f"[{host}]:{port}" if ":" in host.strip("[]") else f"{host}:{port}"
            self._forward("-L", f"{path}:{target}")
            if not answers(path, _TUNNEL_S):
                raise self._why(host, port)
        except BaseException:
            self._rest()
            raise
        return path

    def close(self) -> None:
        super().close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _why(self, host: str, port: int) -> SchedulerError:
        """Why the port cannot be reached from there: ssh only tells its master, so bash tries it there."""
        trial = ["bash", "-c", 'exec 3<>"/dev/tcp/$0/$1"', host, str(port)]
        argv = ssh_argv(self.host, trial, through=self._through, ask=False)
        code, said = None, ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                errors="replace", timeout=_TUNNEL_S, check=False,
            )  # fmt: skip
            code, said = done.returncode, done.stderr
        if code == 0:
            return trouble(self.host, "administratively prohibited")
        why = "refused the connection" if "refused" in said else "cannot be reached"
        return SchedulerError(
            f"{host}:{port} {why} as seen from {self.host}.",
            "Name another host with --via, such as the login node.",
        )


class Published(_Ssh):
    """A port of the outside host that leads to a port here; it is on that host's loopback, and its number is chosen."""

    def open(self, port: int) -> int:
        """Offer our `port`; the port on the outside host."""
        self._rest()
        try:
            self._stand()
            said = self._forward("-R", f"{LOOPBACK}:0:{LOOPBACK}:{port}")
            return int(said.split()[-1])
        except (ValueError, IndexError):
            self._rest()
            raise SchedulerError(
                f"{self.host} did not say which port it opened.", "Update OpenSSH here."
            ) from None
        except BaseException:
            self._rest()
            raise


class Ways:
    """All the ways that lead to a session, tried in turn; the shared connections they open are kept to the end."""

    def __init__(
        self,
        via: str | None = None,
        login_host: str | None = None,
        *,
        direct: bool = False,
        ask: bool = False,
    ) -> None:
        self.ask = ask  # may ssh ask on the terminal
        self._via, self._login_host, self._direct = via, login_host, direct
        self._made: dict[tuple[str | None, str | None], Way] = {}
        self._last: Way | None = None

    @classmethod
    def of(cls, cluster: PlannedCluster, via: str | None = None, *, ask: bool = False) -> Self:
        """Those to a session whose files are here, on `cluster`; `via` is the host that was asked for."""
        if (host := cluster.ssh if via is None else via) is not None:
            return cls(host, ask=ask)
        return cls(None, cluster.login_host, direct=True, ask=ask)

    def open(self, host: str, port: int) -> tuple[Way, Target]:
        """The first that leads to `host`:`port`, and where it begins; raises the first one's trouble."""
        ways = self._to(host)
        if self._last in ways:  # what went before goes again, without waiting for the others
            ways.sort(key=lambda way: way is not self._last)
        first: SchedulerError | None = None
        for way in ways:
            try:
                target = way.open(host, port)
            except SchedulerError as error:
                first = first or error
            else:
                self._last = way
                return way, target
        assert first is not None
        raise first

    def abort(self) -> None:
        """Let another thread, which waits for one of them, wait no longer."""
        for way in list(self._made.values()):
            if isinstance(way, OverSsh):
                way.abort()

    def close(self) -> None:
        """Leave nothing of them; can be called twice."""
        for way in self._made.values():
            way.close()

    def _to(self, host: str) -> list[Way]:
        wanted: list[tuple[str | None, str | None]] = [(None, None), (host, None)] if self._direct else []
        if (first := self._login_host if self._via is None else self._via) is not None:
            wanted += [(first, None), (host, first)]
        return [self._way(*one) for one in wanted if one[0] != one[1] or one[0] is None]

    def _way(self, host: str | None, through: str | None) -> Way:
        way = self._made.get((host, through))
        if way is None:
            way = self._made[host, through] = Direct() if host is None else OverSsh(host, through=through)
        if isinstance(way, OverSsh):  # nobody is asked for a password of a node
            way.ask = self.ask and (through is not None or host in (self._via, self._login_host))
        return way


def knows(state: str) -> bool:
    """Whether a session in this state has an address."""
    return state in (READY, UNHEALTHY)


def answers(target: Target, timeout_s: float, key: str | None = None) -> bool:
    """Whether a session's front door answers there; with `key`, whether that opens it."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    with contextlib.closing(connection):
        try:
            if isinstance(target, str):
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(timeout_s)
                connection.sock.connect(target)
            else:
                connection.sock = socket.create_connection(target, timeout_s)
            if key is not None:
                connection.request("GET", "/status", headers={"Authorization": f"Bearer {key}"})
                with connection.getresponse() as response:
                    return response.status == HTTPStatus.OK
            connection.request("GET", "/health")
            with connection.getresponse() as response:
                return "status" in json.loads(response.read(1 << 16))
        except (OSError, http.client.HTTPException, ValueError, TypeError):
            return False


def _folder() -> Path:
    above = private_folder()
    if above is None:
        raise StorageError(
            "There is no folder for ssh's sockets that is yours alone.", "Set XDG_RUNTIME_DIR to one."
        )
    return Path(tempfile.mkdtemp(prefix="c", dir=above))

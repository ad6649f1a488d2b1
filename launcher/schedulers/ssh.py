"""The system's ssh with one shared connection for each host: its words, its master's life, its trouble in a sentence.

The user's own configuration, agent and keys hold. A master that the user's configuration shares is used as it is; else
one is kept in a folder of the user's alone for some minutes after its last use, so that a code is typed once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import RequestError, SchedulerError

SSH_FAILED = 255  # ssh(1): its own errors, whatever the remote program would have said
_PERSIST = "10m"
_ANSWER_S, _LOGIN_S, _ASKED_S = 10.0, 30.0, 180.0
# A Unix socket's name has at most 104 bytes on macOS, and ssh makes it under a name that is 17 bytes longer.
_FOLDER_MAX_BYTES = 60
_SHELL = frozenset(" '`\"$\\;&<>|(){}")
_HOST_MAX = 320  # a user's name and a host's
# What ssh prints (OpenSSH 7 to 10, and Debian's names for its files) and what that means; the first that fits.
_TROUBLES = (
    ("remote host identification has changed", "has another host key than before",
     "If its staff announced that: ssh-keygen -R {name}, then ssh {host} once. If not, do not log in: ask them."),
    ("host key verification failed", "is a host that your ssh does not know yet",
     "Run ssh {host} once, compare the fingerprint with what its staff says, and answer yes."),
    ("no matching host key", "has only host keys of kinds that your ssh does not take",
     "Run ssh {host} to see which; HostKeyAlgorithms in ~/.ssh/config allows one."),
    ("too many authentication failures", "refused before the right key was tried",
     "Name the key in ~/.ssh/config: IdentityFile and IdentitiesOnly yes."),
    ("permission denied", "did not let you in",
     "Check `ssh {host}`: the user name, and that your key is loaded (ssh-add -l) and known there."),
    ("could not resolve hostname", "is a name that cannot be found",
     "Check the name, ~/.ssh/config, and that you are on the right network or VPN."),
    ("connection refused", "takes no ssh connections",
     "Check the port in ~/.ssh/config, or ask whether the host is down for maintenance."),
    ("administratively prohibited", "does not allow forwarding",
     "Name another host with --via, or run this on a login node."),
    ("timed out", "does not answer",
     "Check that you are on the right network or VPN, then try again."),
    ("no route to host", "cannot be reached from here",
     "Check that you are on the right network or VPN, then try again."),
    ("network is unreachable", "cannot be reached from here",
     "Check that you are on the right network or VPN, then try again."),
    ("closed by remote host", "ended the connection", "Try again; `ssh {host}` shows whether it does so always."),
    ("connection closed by", "ended the connection", "Try again; `ssh {host}` shows whether it does so always."),
    ("connection reset", "ended the connection", "Try again; `ssh {host}` shows whether it does so always."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shared:
    """How ssh connections to one host are shared: the options for it, and the master's socket where it is known."""

    options: tuple[str, ...]
    socket: str | None


def ssh_argv(
    host: str, command: Sequence[str], *, tty: bool = False, through: str | None = None, ask: bool = True
) -> list[str]:
    """The words that run `command` on `host` through the shared connection; each of its words arrives whole.

    With `tty` the command has a terminal there; without `ask` nothing is ever asked (a password, a code, a host key).
    With `through`, `host` is reached by way of that host. Raises RequestError for a host that cannot be one.
    """
    remote = [shlex.join(command)] if command else []
    return [*_ssh(host, through=through, ask=ask), "-tt" if tty else "-T", "--", host, *remote]


def _ssh(host: str, *, through: str | None = None, ask: bool = True) -> list[str]:
    # ClearAllForwardings: the user's own forwarded ports belong to the user's own logins.
    argv = ["ssh", "-x", "-o", "ClearAllForwardings=yes", "-o", "LogLevel=ERROR"]
    if not ask:
        argv += ["-o", "BatchMode=yes"]
    return [*argv, *shared(host, through).options]


def shared(host: str, through: str | None = None) -> Shared:
    """How connections to `host` are shared; ssh is asked for the user's own configuration once in a process."""
    own = _configured(host)
    options: list[str] = []
    if own.get("serveraliveinterval", "0") == "0":  # else a network that is gone would be noticed after hours
        options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    if through is not None:
        # Not -J: that would start a second ssh with none of our options.
        jump, by = shlex.join([*_ssh(through), "-T", "-W"]), shlex.quote(through)
        options += ["-o", f"ProxyCommand={jump.replace('%', '%%')} [%h]:%p -- {by.replace('%', '%%')}"]
    path = own.get("controlpath", "none")
    if path != "none":
        path = os.path.expanduser(path)
    elif (folder := private_folder()) is not None:
        known_as = f"{host}\n{through or ''}"
        path = str(folder / hashlib.sha256(known_as.encode()).hexdigest()[:20])
        options += ["-o", f"ControlPath={path}"]
    else:
        return Shared(tuple(options), None)
    if own.get("controlmaster", "false") in ("false", "no"):
        options += ["-o", "ControlMaster=auto"]
    if own.get("controlpersist", "no") == "no":
        options += ["-o", f"ControlPersist={_PERSIST}"]
    return Shared(tuple(options), None if "%" in path else path)


def can_ask() -> bool:
    """Whether there is a terminal on which ssh would ask; it does not use standard input for that."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def master_runs(host: str, through: str | None = None) -> bool:
    """Whether a shared connection to `host` stands."""
    return control(host, "check", through=through).returncode == 0


def control(
    host: str, order: str, *words: str, through: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Give the master of `host` an order of `ssh -O`: check, forward, cancel, stop, exit."""
    ways = shared(host, through)
    # With the socket's own name no configuration is needed, whose forwarded ports would be ordered too.
    at = ["-F", "none", "-S", ways.socket] if ways.socket is not None else list(ways.options)
    argv = ["ssh", *at, "-O", order, *words, "--", host]
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_ANSWER_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise _no_ssh() from None
    except subprocess.TimeoutExpired:  # a master whose network is gone hangs in its last words
        return subprocess.CompletedProcess(argv, SSH_FAILED, "", "timed out")


def open_master(host: str, *, through: str | None = None, ask: bool = True) -> bool:
    """Open the shared connection to `host` unless it stands; whether it was opened now.

    With `ask`, ssh may ask on the terminal for a password, a code or a host key. Raises SchedulerError with the reason.
    """
    if master_runs(host, through):
        return False
    wait = f"ConnectTimeout={int(_LOGIN_S) // 2}"  # typing does not count towards that
    argv = [*_ssh(host, through=through, ask=ask), "-o", wait, "-T", "-n", "--", host, "true"]
    # A file and no pipe: before OpenSSH 8.5 the master in the background kept its standard error open.
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                timeout=_ASKED_S if ask else _LOGIN_S, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise _no_ssh() from None
        except subprocess.TimeoutExpired:
            raise trouble(host, "timed out") from None
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    if done.returncode == SSH_FAILED:
        raise trouble(host, said)
    return True


def trouble(host: str, said: str) -> SchedulerError:
    """The error for what ssh itself said when it could not reach `host`."""
    lowered = said.lower()
    for words, sentence, hint in _TROUBLES:
        if words in lowered:
            name = shlex.quote(_configured(host).get("hostkeyalias") or _address(host))
            return SchedulerError(f"{host} {sentence}.", hint.format(host=shlex.quote(host), name=name))
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it did not say why")
    return SchedulerError(
        f"{host} cannot be reached over ssh: {last.removesuffix('.')}.", f"Check: ssh {host}"
    )


def _address(host: str) -> str:
    """The name under which known_hosts has `host`."""
    own = _configured(host)
    name, port = own.get("hostname") or host.rpartition("@")[2], own.get("port", "22")
    return name if port == "22" else f"[{name}]:{port}"


@functools.cache
def _configured(host: str) -> dict[str, str]:
    """What the user's configuration says of `host`; of an option that is there twice, the first."""
    # Signs of a shell, as ssh itself has it since 9.6: a name goes on into commands of the user's configuration.
    if not 0 < len(host) <= _HOST_MAX or host.startswith("-") or not host.isprintable() or set(host) & _SHELL:
        raise RequestError(f'"{host[:80]}" cannot be a host for ssh.', "Write HOST or USER@HOST.")
    try:
        said = subprocess.run(
            ["ssh", "-T", "-G", "--", host], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_ANSWER_S, check=False,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        raise _no_ssh() from None
    except subprocess.TimeoutExpired:
        return {}
    found: dict[str, str] = {}
    for line in said.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, value)
    return found


def private_folder() -> Path | None:
    """A folder on this machine that only this user can enter, short enough for a socket; None where there is none."""
    uid = os.getuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    wanted = [Path(runtime, "launcher-ssh")] if runtime.startswith("/") else []
    # The temporary folder is everybody's, but what another user made there is seen below.
    wanted += [Path(tempfile.gettempdir(), f"launcher-ssh-{uid}"), Path.home() / ".ssh" / "launcher"]
    for folder in wanted:
        if len(os.fsencode(folder)) > _FOLDER_MAX_BYTES or "%" in str(folder):
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077:
            return folder
    return None


def _no_ssh() -> SchedulerError:
    return SchedulerError("There is no program ssh here.", "Install OpenSSH's client.")

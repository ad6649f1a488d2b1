"""The long-running programs of one test cluster: started with a log each, stopped by their own pid.

Owns processes and their logs, knows nothing of Slurm.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class Processes:
    """Programs in the foreground, each with `NAME.out` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start one program; its output goes to the log."""
        # Even when this process is killed and can stop nothing any more, the program ends with it.
        argv = ["setpriv", "--pdeathsig", "TERM", *argv]
        with (self.folder / f"{name}.out").open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> bool:
        """Wait until `ready()`; False when the program ended or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._running[name].poll() is None:
            if ready():
                return True
            time.sleep(0.05)
        return False

    def ended(self) -> list[str]:
        """The programs that are no longer there though nobody stopped them."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def stop(self, name: str, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Stop one program; killed when it does not end in time."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(with_signal)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_all(self) -> None:
        """Stop what runs, the last started first."""
        for name in reversed(list(self._running)):
            self.stop(name)


def connects(address: Path | int) -> bool:
    """Whether somebody listens on this Unix socket or loopback port."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        probe.settimeout(1)
        try:
            probe.connect(("127.0.0.1", address) if isinstance(address, int) else str(address))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports that are free now, of those that the kernel gives to nobody who does not name one.

    From its own range any client's connection could take one before it is bound again.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chosen = random.SystemRandom()  # not what Hypothesis or a test has seeded
    probes: list[socket.socket] = []
    try:
        while len(probes) < count:
            probe = socket.socket()
            probes.append(probe)
            try:
                probe.bind(("127.0.0.1", chosen.randrange(first // 2, first)))
            except OSError:  # somebody's
                probes.pop().close()
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def processes_with(variable: str, value: str) -> list[int]:
    """The pids whose environment has `variable=value`, ours excepted."""
    wanted, found = f"{variable}={value}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found

"""The ways to one engine: directly, through our gateway, nginx or LiteLLM; how each is started, found and measured.

Owns the processes. What nginx and LiteLLM are told is in `rivals`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts import rivals

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-" + "0" * 64
DIRECT, OURS, NGINX, LITELLM = "direct", "launcher gateway", "nginx", "LiteLLM proxy"
Address = str | int  # a Unix socket, or a port of 127.0.0.1


@dataclass
class Way:
    """One way to the engine; `argv` says how to start it on a port, `pid` is the process whose cost counts."""

    name: str
    address: Address
    pid: int | None = None
    argv: Callable[[int], Sequence[str]] | None = None
    environment: Mapping[str, str] | None = None
    slow: bool = False  # it needs seconds to start and milliseconds for a request
    latencies_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    chunk_rates: list[float] = field(default_factory=list)
    stream_cores: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    idle_mb: float | None = None
    peak_mb: float | None = None

    def cpu_ns(self) -> int:
        """CPU time of the processes so far; the scheduler's own count, since `times` is rounded to 10 ms."""
        total = 0
        for pid in family(self.pid) if self.pid else ():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    total += int((task / "schedstat").read_text().split()[0])
        return total


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def connect(address: Address) -> socket.socket:
    """A blocking connection."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        return connection
    connection = socket.create_connection(("127.0.0.1", address))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def until_answering(address: Address, process: subprocess.Popen[str], limit_s: float = 120.0) -> None:
    """Return once an HTTP answer comes from there, whatever its status."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), connect(address) as connection:
            connection.settimeout(10)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if connection.recv(64).startswith(b"HTTP/1.1 "):
                return
        time.sleep(0.002)
    raise RuntimeError(
        f"Nothing answered at {address} (exit code so far: {process.poll()}): {process.args!r}"
    )


def settle(ways: Sequence[Way], limit_s: float = 15.0) -> None:
    """Wait until what the last measure left behind is done with: no way uses a twentieth of a core."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        before = sum(way.cpu_ns() for way in ways)
        time.sleep(0.1)
        if sum(way.cpu_ns() for way in ways) - before < 5e6:
            return


def free_port() -> int:
    """A port that nobody listens on now; for programs that cannot be told to let the kernel choose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def program(
    argv: Sequence[str], *, out: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended when the block is left."""
    err = subprocess.DEVNULL if out == subprocess.DEVNULL else None
    with subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=err, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def running(way: Way, port: int) -> Iterator[int]:
    """Start `way` on `port`; its pid, once it answers."""
    assert way.argv is not None
    with program(way.argv(port), out=subprocess.DEVNULL, environment=way.environment) as process:
        until_answering(port, process)
        yield process.pid


@contextlib.contextmanager
def engine(folder: Path, *options: str) -> Iterator[tuple[Path, int]]:
    """The engine of the benchmarks: its socket and its port."""
    path = folder / "engine.sock"
    argv = (sys.executable, "-m", "benchmarks.parts.engine", "--uds", str(path), *options)
    with program(argv, out=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield path, int(process.stdout.readline())


def gateway(folder: Path, engine_socket: Path, *options: str) -> Callable[[int], Sequence[str]]:
    """How our gateway is started before that engine."""
    key = folder / "api_key"
    key.write_text(KEY)
    argv = (
        sys.executable,
        "-m",
        "tests.programs.gateway",
        "--key-file",
        str(key),
        "--engine",
        str(engine_socket),
    )
    return lambda port: (*argv, "--port", str(port), *options)


@contextlib.contextmanager
def all_ways(nginx: str | None, litellm: Path | None) -> Iterator[list[Way]]:
    """The engine, and every way to it, running; `direct` is the first and ours the second."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        socket_path, engine_port = stack.enter_context(engine(folder))
        found = [
            Way(DIRECT, str(socket_path)),
            Way(OURS, free_port(), argv=gateway(folder, socket_path)),
        ]
        if nginx is not None:
            nginx_argv = rivals.nginx_command(nginx, folder, socket_path, KEY)
            found.append(Way(NGINX, free_port(), argv=nginx_argv))
        if litellm is not None:
            # Its whole environment is here: it has no business with this machine's, nor with the network.
            litellm_argv = rivals.litellm_command(litellm, folder, engine_port, KEY)
            home = rivals.litellm_environment(folder, os.environ.get("PATH", ""))
            found.append(Way(LITELLM, free_port(), argv=litellm_argv, environment=home, slow=True))
        for way in found[1:]:
            assert isinstance(way.address, int)
            way.pid = stack.enter_context(running(way, way.address))
        yield found

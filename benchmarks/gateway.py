"""What the gateway costs: P1 (added latency) and P2 (CPU per request) against the engine reached directly, and nginx.

All are asked the same small chat question in one alternating run. nginx (Debian: nginx-light) is measured where it is
installed; it checks the same key. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-" + "0" * 64
BODY = json.dumps({"messages": [{"role": "user", "content": "Hello, you."}], "max_tokens": 1}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + KEY.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)
P1_GOAL_MS, P2_GOAL_US = 0.2, 110.0


@dataclass
class Way:
    """One way to the engine: its address and the process whose CPU time counts."""

    name: str
    address: str | int  # a Unix socket, or a port of 127.0.0.1
    pid: int | None = None
    latencies_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def connect(self) -> socket.socket:
        if isinstance(self.address, str):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.address)
            return connection
        connection = socket.create_connection(("127.0.0.1", self.address))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def cpu_ns(self) -> int:
        """CPU time of the process so far; the scheduler's own count, since `times` is rounded to 10 ms."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir() if self.pid else ()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def body_length(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"Unexpected answer: {head[:200]!r}")
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    return int(lower[start : lower.index(b"\r\n", start)])


def one_by_one(way: Way, count: int) -> None:
    """Ask `count` times over one connection and note how long each took."""
    with way.connect() as connection:
        for _ in range(count):
            begun = time.perf_counter()
            connection.sendall(REQUEST)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            head, _, rest = answer.partition(b"\r\n\r\n")
            missing = body_length(head + b"\r\n") - len(rest)
            while missing > 0:
                missing -= len(connection.recv(65536))
            way.latencies_s.append(time.perf_counter() - begun)


async def many_at_once(way: Way, count: int, concurrency: int = 32) -> None:
    """Ask `count` times over 32 connections and note the CPU time of the way's process."""
    left = count

    async def client() -> None:
        nonlocal left
        if isinstance(way.address, str):
            reader, writer = await asyncio.open_unix_connection(way.address)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", way.address)
        while left > 0:
            left -= 1
            writer.write(REQUEST)
            await reader.readexactly(body_length(await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    before, begun = way.cpu_ns(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    way.cpu_s.append((way.cpu_ns() - before) / 1e9 / count)
    way.rates.append(count / (time.perf_counter() - begun))


@contextlib.contextmanager
def program(*argv: str, out: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended when the block is left."""
    with subprocess.Popen(argv, cwd=ROOT, stdout=out, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def nginx_configuration(folder: Path, engine: Path, port: int) -> Path:
    """nginx as one would set it up by hand: the key checked, connections kept, nothing buffered."""
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""  # else its worker may not enter the engine's folder
    path = folder / "nginx.conf"
    path.write_text(
        f"{user}worker_processes 1; pid {folder}/nginx.pid; daemon off; error_log {folder}/nginx.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n{paths}"
        f"  upstream engine {{ server unix:{engine}; keepalive 64; }}\n"
        f"  server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000;\n    location / {{\n"
        f'      if ($http_authorization != "Bearer {KEY}") {{ return 401; }}\n'
        '      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";\n'
        '      proxy_set_header Authorization ""; proxy_buffering off; proxy_request_buffering off;\n'
        "    }\n  }\n}\n"
    )
    return path


def wait_for(way: Way) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            way.connect().close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"{way.name} did not start.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ways(nginx: str | None) -> Iterator[list[Way]]:
    """The engine, and every way to it, running."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engine, key = folder / "engine.sock", folder / "api_key"
        key.write_text(KEY)
        serve = ("-m", "launcher.engines.simulated.serve", "--uds", str(engine), "--served-name", "tiny")
        quick = ("--start-delay-s", "0", "--first-token-ms", "0", "--token-rate", "0")
        stack.enter_context(program(sys.executable, *serve, *quick, out=subprocess.DEVNULL))
        found = [Way("direct", str(engine))]
        wait_for(found[0])
        ours = (
            sys.executable,
            "-m",
            "tests.programs.gateway",
            "--key-file",
            str(key),
            "--engine",
            str(engine),
        )
        process = stack.enter_context(program(*ours, out=subprocess.PIPE))
        assert process.stdout is not None
        found.append(Way("launcher gateway", int(process.stdout.readline()), process.pid))
        if nginx:
            port = free_port()
            configuration = nginx_configuration(folder, engine, port)
            main = stack.enter_context(program(nginx, "-c", str(configuration), "-p", name))
            way = Way("nginx", port)
            wait_for(way)
            children = Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()
            way.pid = int(children[0])
            found.append(way)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--nginx", default=shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"))
    options = parser.parse_args()
    with ways(options.nginx) as found:
        for way in found:  # warm up
            one_by_one(way, 100)
            way.latencies_s.clear()
        for _ in range(options.rounds):
            for way in found:
                one_by_one(way, 300)
            for way in found:
                asyncio.run(many_at_once(way, 2000))
    p50_ms = {way.name: statistics.median(way.latencies_s) * 1000 for way in found}
    cpu_us = {way.name: statistics.median(way.cpu_s) * 1e6 for way in found}
    print(f"{'way':18} {'p50 ms':>8} {'added ms':>9} {'CPU µs/request at 32':>21} {'requests/s at 32':>17}")
    for way in found:
        rate = statistics.median(way.rates)
        added, cpu = (
            (f"{p50_ms[way.name] - p50_ms['direct']:.3f}", f"{cpu_us[way.name]:.0f}") if way.pid else ("", "")
        )
        print(f"{way.name:18} {p50_ms[way.name]:8.3f} {added:>9} {cpu:>21} {rate:17.0f}")
    if options.nginx is None:
        print("nginx is not installed and was not measured (Debian: apt-get install nginx-light).")
    p1, p2 = p50_ms["launcher gateway"] - p50_ms["direct"], cpu_us["launcher gateway"]
    print(
        json.dumps(
            {
                "P1": {"value": round(p1, 4), "goal": P1_GOAL_MS, "met": p1 <= P1_GOAL_MS, "unit": "ms"},
                "P2": {"value": round(p2, 1), "goal": P2_GOAL_US, "met": p2 <= P2_GOAL_US, "unit": "µs"},
            }
        )
    )


if __name__ == "__main__":
    main()

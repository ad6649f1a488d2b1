"""Parts for testing the gateway: itself in a thread, the simulated engine as a process, a scripted raw upstream."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-" + "5a" * 32
BEARER = {"Authorization": f"Bearer {KEY}"}
QUICK = ("--start-delay-s", "0", "--first-token-ms", "0", "--token-rate", "0")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `headers` is a list because names may repeat."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class RunningGateway:
    """A gateway on 127.0.0.1, in an event loop of its own thread; `routes`, `report` and `usage` are live."""

    def __init__(self, **routes: Any) -> None:
        self.routes = Routes(**{"ready": True, **routes})
        self.report: dict[str, object] = {"state": "READY", "phase": None, "message": "Ready."}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.gateway = self.run(self._make)
        self.port = self.run(lambda: self.gateway.start("127.0.0.1"))
        self.usage = self.gateway.usage
        self.url = f"http://127.0.0.1:{self.port}"

    async def _make(self) -> Gateway:
        front = SessionFront(self.routes, lambda: self.report)
        return Gateway(keys=Keys(KEY), front=front, name="tiny-1")

    def run(self, action: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        return asyncio.run_coroutine_threadsafe(action(), self._loop).result(timeout_s)

    def stop(self, grace_s: float = 1.0) -> None:
        self.run(lambda: self.gateway.stop(grace_s))

    def close(self) -> None:
        self.stop(0.1)
        self.run(_settled)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        *,
        key: bool = True,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            sent = {**(BEARER if key else {}), **(headers or {})}
            connection.request(method, path, body, sent)
            with connection.getresponse() as response:
                return Answer(response.status, response.getheaders(), response.read())

    def raw(self, sent: bytes, timeout_s: float = 10.0) -> bytes:
        """Send bytes and return what comes back until the gateway closes, or is silent for `timeout_s`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(sent)
            received = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
            return received

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


async def _settled() -> None:
    """Whatever the loop has begun is over: what is left of it would be complained of in some later test."""
    await asyncio.sleep(0.02)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for _ in range(20):  # closed transports give back their sockets in the loop's next rounds
        await asyncio.sleep(0)


class SimulatedEngine:
    """The simulated engine as a process that listens on `socket`."""

    def __init__(self, folder: Path, *args: str, quick: bool = True, wait: bool = True) -> None:
        self.socket = folder / "engine.sock"
        self.log = folder / "engine.log"
        argv = [sys.executable, "-m", "launcher.engines.simulated.serve", "--uds", str(self.socket)]
        argv += ["--served-name", "tiny", *(QUICK if quick else ()), *args]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)
        if wait:
            wait_until(lambda: self.answers() or self.process.poll() is not None, 20)

    def answers(self) -> bool:
        try:
            return ask_socket(self.socket, "/health").status == 200
        except OSError:
            return False

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = ask_socket(self.socket, "/simulated/requests").json()
        return counts

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()


class Upstream:
    """A raw server on a Unix socket: keeps what it got and answers with `pieces`; None waits until the other leaves."""

    def __init__(self, folder: Path, *pieces: bytes | None, name: str = "upstream.sock") -> None:
        self.socket = folder / name
        self.pieces = pieces
        self.received: list[bytes] = []
        self.left = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            got = b""
            while not _complete(got):
                piece = connection.recv(65536)
                if not piece:
                    return
                got += piece
            self.received.append(got)
            for answer in self.pieces:
                if answer is None:
                    while connection.recv(65536):
                        pass
                    self.left.set()
                    return
                connection.sendall(answer)
                time.sleep(0.05)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()


def _complete(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
        if line.startswith(b"transfer-encoding:"):
            return body.endswith(b"0\r\n\r\n")
    return True


def ask_socket(path: Path, target: str) -> Answer:
    """GET `target` from the server on a Unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    with contextlib.closing(connection):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(path))
        connection.request("GET", target)
        with connection.getresponse() as response:
            return Answer(response.status, response.getheaders(), response.read())


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for `condition`; fails the test when it does not come, which only a busy machine makes take long."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def size_of(path: Path) -> int:
    """The bytes of a file that may go at any moment; 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def chat(text: str = "Hello, you.", **more: object) -> str:
    """The body of a chat request."""
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}], **more})


def events(body: bytes) -> list[Any]:
    """The events of a stream, parsed; `[DONE]` stays text."""
    lines = [line[6:] for line in body.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextlib.contextmanager
def gateway_process(folder: Path, *args: str) -> Iterator[tuple[int, int]]:
    """A gateway in its own process, for measuring it: its pid and port."""
    key = folder / "api_key"
    key.write_text(KEY)
    argv: Sequence[str] = (sys.executable, "-m", "tests.programs.gateway", "--key-file", str(key), *args)
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

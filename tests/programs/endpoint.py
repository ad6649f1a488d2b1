"""An endpoint for the tests: `launcher gateway run` as a process, a key for it, and what one does with both.

with Endpoint(tmp_path, {"sim": {"model": "simulated"}}) as endpoint:
    endpoint.chat("sim", hold_s=30)              # (status, the answer's JSON, its headers)
    endpoint.kill(); endpoint.start()            # kill -9, and another process on the same state
    endpoint.sessions()                          # those of this endpoint that live, by the launcher's own words
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from launcher import Launcher, Session
from launcher.errors import LauncherError
from launcher.fleet import issued
from launcher.fleet.store import Store
from launcher.settings.layers import load
from tests.programs.front import ROOT, wait_until
from tests.settings import without_site


class Door:
    """What one asks an endpoint with: its port on this machine, and a key."""

    def __init__(self, port: int = 0, key: str = "") -> None:
        self.port, self.key = port, key

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, hold_s: float | None = None,
        timeout_s: float = 90,
    ) -> tuple[int, Any, dict[str, str]]:  # fmt: skip
        """One request: the status, the JSON of the answer (or its text), and its headers in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        if hold_s is not None:
            headers["X-Launcher-Hold"] = f"{hold_s:g}"
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return answer.status, json.loads(data), found
        except ValueError:
            return answer.status, data.decode(), found

    def chat(self, model: str, text: str = "Hello.", **options: Any) -> tuple[int, Any, dict[str, str]]:
        """A chat completion."""
        wanted = {name: options.pop(name) for name in list(options) if name in ("max_tokens", "stream")}
        body = {"model": model, "messages": [{"role": "user", "content": text}], **wanted}
        return self.ask("POST", "/v1/chat/completions", body, **options)


class Endpoint(Door):
    """One endpoint's settings and state, and the process that runs it; two of them may share a `folder` and state."""

    def __init__(
        self, folder: Path, offers: Mapping[str, Any], *, state: str | None = None, port: int | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.folder, self._port = folder, port
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.yml"
        self.settle(offers, state=state, **settings)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LAUNCHER_")},
            **without_site(folder),
            "LAUNCHER_CONFIG": str(self.config),
        }
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.log = folder / f"gateway-{id(self)}.log"

    def settle(self, offers: Mapping[str, Any], *, state: str | None = None, **settings: Any) -> None:
        """Write the settings; the next start reads them."""
        self.state = state or f"sqlite:///{self.folder / 'endpoint' / 'endpoint.db'}"
        content = {"offers": dict(offers), "endpoint": {"state": self.state}, **settings}
        self.config.write_text(yaml.safe_dump(content))

    def start(self) -> Endpoint:
        """Start the gateway, and wait until it takes requests."""
        argv = [sys.executable, "-m", "launcher", "gateway", "run", "--json"]
        argv += ["--port", str(self._port)] if self._port is not None else []
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                argv, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        started = json.loads(line)
        assert "base_url" in started, line
        self.url = started["base_url"]
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])
        if not self.key:
            self.key = self.new_key("tests", own=True)
        return self

    def __enter__(self) -> Endpoint:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            print(self.log.read_text()[-8000:], file=sys.stderr)

    def close(self) -> None:
        """End the gateway and every session of its user."""
        if self.process is not None:
            self.kill()
        self.end_sessions()

    def end_sessions(self) -> None:
        sessions = self.sessions()
        for session in sessions:
            with contextlib.suppress(LauncherError):
                session.stop(wait=False)
        for session in sessions:
            with contextlib.suppress(LauncherError):
                session.stop()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self._gone(10)

    def terminate(self) -> int:
        """TERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self._gone(60)

    def _gone(self, timeout_s: float) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout_s)

    def new_key(self, name: str, **wanted: Any) -> str:
        """The secret of a new key."""
        store = Store(self.state)
        owner = issued.myself() if wanted.get("own") else "alice"
        try:
            return issued.new(store, name, **{"owner": owner, "lifetime_s": 3600.0, **wanted})[1]
        finally:
            store.close()

    def rows(self) -> list[Any]:
        """The replicas as the state has them."""
        store = Store(self.state)
        try:
            return store.replicas()
        finally:
            store.close()

    @property
    def launcher(self) -> Launcher:
        return Launcher(load(self.env))

    def sessions(self) -> list[Session]:
        """The sessions that were ever submitted and are not over."""
        launcher = self.launcher
        found = launcher.sessions()
        statuses = launcher.statuses(found)
        return [session for session, status in zip(found, statuses, strict=True) if not status.ended]

    def far_sessions(self, cluster: str) -> list[Session]:
        """Those on a cluster behind ssh that are not over."""
        there = Launcher(load(self.env), cluster=cluster)
        return [session for session in there.sessions() if not session.status().ended]

    def all_sessions(self) -> list[Session]:
        """Those that are over, too."""
        return self.launcher.sessions()


class Load:
    """Steady requests from threads until the block is left; `statuses` counts what came back, `troubles` says why."""

    def __init__(
        self, endpoint: Door, model: str, *, threads: int = 4, pause_s: float = 0.05, **options: Any
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self.troubles: list[str] = []
        self._endpoint, self._model, self._pause_s, self._options = endpoint, model, pause_s, options
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it before the block does."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def more(self, count: int, timeout_s: float = 60) -> None:
        """Wait until so many further answers came."""
        until = self.statuses.total() + count
        wait_until(lambda: self.statuses.total() >= until, timeout_s)

    def _go_on(self) -> None:
        while not self._over.is_set():
            try:
                status, answer, _ = self._endpoint.chat(self._model, **self._options)
            except OSError as error:
                status, answer = 0, repr(error)
            except http.client.HTTPException as error:
                status, answer = 1, repr(error)
            self.statuses[status] += 1
            if status != 200:
                self.troubles.append(f"{time.strftime('%X')} {status} {str(answer)[:300]}")
            time.sleep(self._pause_s)

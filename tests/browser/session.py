"""One whole session for the browser: session files, an engine, the gateway, the page's own process."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.server import Gateway
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan, PlannedModel
from tests.engines.plans import vllm_plan
from tests.programs.front import ROOT, RunningGateway, SimulatedEngine, Upstream, ask_socket, wait_until


class _Gateway(RunningGateway):
    """A gateway with its own key and session id, as two sessions of one user have."""

    def __init__(self, key: str, session_id: str, report: dict[str, object]) -> None:
        self._key, self._session_id, self._report = key, session_id, report
        super().__init__()

    async def _make(self) -> Gateway:
        front = SessionFront(self.routes, lambda: self._report)
        return Gateway(keys=Keys(self._key), front=front, name=self._session_id)


class _Pages:
    """The process whose forks are the pages (tests/programs/pages.py)."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "tests.programs.pages"]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def start(self, log: Path, *arguments: str) -> psutil.Process:
        """One more page."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(log), *arguments]), file=self._process.stdin, flush=True)
        return psutil.Process(int(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()  # its input has ended


@functools.cache
def _pages() -> _Pages:
    made = _Pages()
    atexit.register(made.close)
    return made


class PageSession:
    """A running session as `plan` has it, but for its engine, which listens on the socket given to `serve`."""

    def __init__(self, key: str, plan: Plan) -> None:
        self.key = key
        self._ended = False
        self._folder = tempfile.TemporaryDirectory(
            prefix="iod"
        )  # short: a socket's path has at most 107 bytes
        self.root = Path(self._folder.name)
        self.paths = SessionPaths(self.root)
        now = time.time()
        self.status: dict[str, object] = {
            "schema": 1,
            "id": plan.id,
            "state": "READY",
            "phase": None,
            "message": "Ready.",
            "job_id": "4711",
            "host": "gpu01",
            "since": now,
            "ends_at": now + 2 * 3600 + 90,
            "idle": {"limit_s": 3600, "since": now, "stops_at": now + 3600},
        }
        self.gateway = _Gateway(key, plan.id, self.status)
        write_private(self.paths.plan, plan.to_json())
        write_private(self.paths.key, f"{key}\n")
        write_private(self.paths.connection, json.dumps({"base_url": f"{self.gateway.url}/v1"}))
        self.tell()
        socket = self.root / "page.sock"
        arguments = ("--socket", str(socket), "--session", str(self.root), "--gateway", self.gateway.url)
        self.page = _pages().start(self.paths.page_log, *arguments)
        self.page_socket = socket
        self.gateway.routes.page = socket

    def serve(self, socket: Path) -> None:
        """Let the engine on `socket` answer."""
        self.gateway.routes.engine = socket

    def wait(self) -> None:
        """Until the page answers; the first one waits for the imports of all, a minute on a busy machine."""
        wait_until(lambda: self._page_answers() or not self.page.is_running(), 200)
        assert self.page.is_running(), self.paths.page_log.read_text()

    def _page_answers(self) -> bool:
        try:
            return ask_socket(self.page_socket, "/session").status == 200
        except OSError:
            return False

    def tell(self, **changes: object) -> None:
        """Change what `status.json` and the gateway say."""
        self.status.update(changes)
        write_private(self.paths.status, json.dumps(self.status))

    def end(self) -> None:
        """The gateway goes, and its port answers nobody, as when the job is over."""
        if not self._ended:
            self._ended = True
            self.gateway.close()

    def close(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
            self.page.terminate()
        self.end()
        try:
            self.page.wait(60)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.page.kill()
            self._folder.cleanup()


class Session(PageSession):
    """A running session of the model `name`; `engine_args` script its simulated engine."""

    def __init__(self, name: str, key: str, *engine_args: str) -> None:
        super().__init__(key, _plan(name, engine_args))
        self.engine = SimulatedEngine(self.root, *engine_args, quick=False, wait=False)
        self.silent = Upstream(self.root, None, name="silent.sock")
        self.serve(self.engine.socket)

    def wait(self) -> None:
        wait_until(self.engine.answers)
        super().wait()

    def close(self) -> None:
        self.engine.close()
        self.silent.close()
        super().close()


def _plan(name: str, engine_args: tuple[str, ...]) -> Plan:
    return dataclasses.replace(
        vllm_plan(),
        id=f"{name}-1234abcd",
        name=name,
        engine="simulated",
        engine_args=engine_args,
        model=PlannedModel(name, "tiny", None, "0123456789abcdef"),
    )

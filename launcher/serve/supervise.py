"""The life of a session inside its job: gateway, engine, page, readiness, watch, end.

Owns the order of things and the one question that ends them: why is it over?
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from launcher.engines import Diagnosis, engine
from launcher.errors import LauncherError, StorageError
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway
from launcher.schedulers import scheduler
from launcher.serve import record
from launcher.serve.ending import ending, why_told
from launcher.serve.environment import inside, trouble
from launcher.serve.node import ANY, job_id, log_to, public_host, raise_file_limit, runtime_directory, tail
from launcher.serve.page import keep_page
from launcher.serve.process import Child, adopt_orphans, end_orphans
from launcher.serve.readiness import ask, until_listening, version
from launcher.serve.report import Report
from launcher.sessions.connection import Connection
from launcher.sessions.job import write_job_id
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED, Idle, Status

_TICK_S = 0.5
_PROBE_EVERY_S = 60.0
_END_EVERY_S = 300.0
_REFUSALS = 5
_LOST_EVERY_S = 5.0
_PROBE_TIMEOUT_S = 60.0
_ENGINE_GRACE_S = 10.0  # Slurm's KillWait is 30 s by default; the rest of the ending needs its share
_LAST_MINUTES_S = 300.0
_TERM_SETTLES_S = (
    1.0  # scancel ends engine and supervisor at once: the signal may arrive after the engine's exit
)


async def serve(root: Path, tell: Callable[[Status], None] | None = None) -> int:
    """Run the session in `root` until it is over; the exit code of the job: 0 SHUTDOWN, 1 FAILED.

    `tell` is called with every new status, for a door that shows it somewhere else.
    """
    paths = SessionPaths(root)
    require_own(root, "places.sessions")
    plan = Plan.read(paths.plan)
    os.umask(0o077)
    root.chmod(0o700)
    for stale in (paths.connection, paths.stop, paths.record, paths.key):
        stale.unlink(missing_ok=True)
    adopt_orphans()
    raise_file_limit()
    try:
        runtime = runtime_directory(plan)
        try:
            return await _Session(plan, paths, runtime, tell).run()
        finally:
            shutil.rmtree(runtime, ignore_errors=True)
            await end_orphans()
    except OSError as error:
        raise StorageError(
            f"{error.filename or root}: {error.strerror}.", "Free some space there."
        ) from error


class _Session:
    def __init__(
        self, plan: Plan, paths: SessionPaths, runtime: Path, tell: Callable[[Status], None] | None
    ) -> None:
        self._plan, self._paths, self._runtime = plan, paths, runtime
        self._engine_module = engine(plan.engine)
        self._scheduler = scheduler(plan.cluster.scheduler)
        self._job_id = job_id(plan)
        self._started_at = time.time()
        ends_at = self._scheduler.ends_at(plan, self._job_id, self._started_at)
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self._report = Report(plan.id, paths, self._job_id, ends_at, restarts, tell)
        self._ends_at = ends_at
        self._key = f"sk-{secrets.token_hex(32)}"
        self._nonce = secrets.token_hex(16)
        self._routes = Routes(probe_nonce=self._nonce)
        self._gateway = Gateway(
            keys=Keys(self._key, paths.further_keys),
            routes=self._routes,
            report=self._report.as_dict,
            session_id=plan.id,
        )
        self._url = ""
        self._engine: Child | None = None
        self._port = 0
        self._enough = threading.Event()
        self._engine_version: str | None = None
        self._ready_at = 0.0
        self._weights: list[dict[str, Any]] = []
        self._node: dict[str, Any] = {}
        self._end: asyncio.Future[Diagnosis] = asyncio.get_running_loop().create_future()
        self._told_to_end = False

    async def run(self) -> int:
        """Start, watch, end; whatever happens, the last word is written."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_term)
        loop.add_signal_handler(signal.SIGUSR1, self._report.ends_soon)
        tasks: list[asyncio.Task[None]] = []
        try:
            write_job_id(self._paths.job, self._job_id)
            await self._start()
            tasks = [
                asyncio.create_task(self._guard(work))
                for work in (
                    self._watch_engine(),
                    self._watch_lost(),
                    self._become_ready(),
                    self._watch_clock(),
                    self._watch_end(),
                    self._follow_log(),
                    self._remember(),
                    self._show_page(),
                )
            ]
            end = await self._end
        except LauncherError as error:
            reason = getattr(error, "reason", None) or error.kind
            end = Diagnosis(reason, error.message, error.hint)
        except OSError as error:
            end = Diagnosis(
                "storage", f"{error.filename or 'A file'}: {error.strerror}.", "Look at the job's log."
            )
        for task in tasks:
            task.cancel()
        code = await self._finish(end)
        await asyncio.gather(*tasks, return_exceptions=True)
        return code

    async def _start(self) -> None:
        write_private(self._paths.key, self._key + "\n")
        log_to(self._paths.gateway_log)
        bind = self._plan.network.bind
        try:
            port = await self._gateway.start(bind, 0)
        except OSError as error:
            raise LauncherError(
                f"The gateway cannot bind {bind}: {error.strerror}.", "Correct network.bind in the settings."
            ) from error
        near = "127.0.0.1" if bind == ANY else bind
        self._url = f"http://{near}:{port}"
        self._port = port
        self._report.phase("container" if self._plan.environment.kind == "container" else "weights")
        cache = Path(self._plan.places.cache)
        cache.mkdir(parents=True, exist_ok=True)
        require_own(cache, "places.cache")  # compiled code is loaded from there
        socket = self._runtime / "engine.sock"
        command = inside(
            self._engine_module.command(self._plan, socket, cache), self._plan, self._runtime, os.environ
        )
        self._engine = await Child.start(command.argv, command.env, self._paths.engine_log, cwd=self._runtime)
        self._routes.engine = socket

    async def _show_page(self) -> None:
        if not self._plan.page:
            return
        # Its import costs seconds of processor time, which on a small node the engine's start would lack (P8).
        while not self._ready_at:
            await asyncio.sleep(0.1)
        await keep_page(self._paths.root, self._url, self._runtime, self._paths.page_log, self._routes)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        # A watcher that fails must end the session with its reason, not leave it half watched.
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logging.getLogger("launcher.serve").exception("a part of the supervisor failed")
            self._over(
                Diagnosis(
                    "launcher-error",
                    f"The launcher itself failed: {type(error).__name__}: {error}.",
                    "Please report this with job.log.",
                )
            )

    def _over(self, end: Diagnosis) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _on_term(self) -> None:
        self._told_to_end = True
        self._over(Diagnosis("", ""))  # the reason is asked for while the engine is being stopped

    async def _watch_engine(self) -> None:
        assert self._engine is not None
        code = await self._engine.wait()
        await asyncio.sleep(_TERM_SETTLES_S)
        elapsed_s = time.time() - self._started_at
        log_tail = tail(self._paths.engine_log)
        self._over(
            trouble(log_tail, code)
            or self._engine_module.explain(log_tail, code, self._ready_at > 0, elapsed_s)
        )

    async def _watch_lost(self) -> None:
        # vLLM can wait for a process of its own that has died, without a word and without an end.
        assert self._engine is not None
        seen = 0
        while seen < 2:  # twice: the first may be a process that is just being replaced
            await asyncio.sleep(_LOST_EVERY_S)
            seen = seen + 1 if await asyncio.to_thread(self._engine_module.lost, self._engine.pid) else 0
        if self._engine.exit_code is None:
            elapsed_s = time.time() - self._started_at
            log_tail = tail(self._paths.engine_log)
            self._over(self._engine_module.explain(log_tail, None, self._ready_at > 0, elapsed_s))

    async def _become_ready(self) -> None:
        refusals = 0
        why: str | None = "nothing listens yet"
        try:
            async with asyncio.timeout(self._plan.limits.start_timeout_s):
                assert self._routes.engine is not None
                await until_listening(self._routes.engine, self._engine_module.health())
                self._report.phase("probe")
                while (why := await self._probe()) is not None:
                    logging.getLogger("launcher.serve").warning("first request: %s", why)
                    refusals = refusals + 1 if why.startswith("HTTP 4") else 0
                    if refusals >= _REFUSALS:
                        self._over(
                            Diagnosis(
                                "probe-refused",
                                f"The engine refuses a first request ({why}).",
                                "Is this a model that answers requests of this kind? See engine.log.",
                            )
                        )
                        return
                    await asyncio.sleep(1.0)
        except TimeoutError:
            minutes = self._plan.limits.start_timeout_s / 60
            self._over(
                Diagnosis(
                    "start-timeout",
                    f"The model did not answer within {minutes:g} minutes ({why}).",
                    "Look at engine.log; the site can raise session.start_timeout_minutes.",
                )
            )
            return
        self._announce()
        self._engine_version = await version(self._routes.engine)
        await self._watch_health()

    async def _probe(self) -> str | None:
        return await ask(
            self._url, self._engine_module.probe(self._plan), self._key, self._nonce, _PROBE_TIMEOUT_S
        )

    def _announce(self) -> None:
        self._ready_at = time.time()
        self._routes.page_starting = self._plan.page
        self._routes.ready = True
        self._connect()
        self._report.ready()

    def _connect(self) -> None:
        plan = self._plan
        host = public_host(plan.network)
        origin = f"http://{host}:{self._port}"
        Connection(
            plan.id,
            host,
            self._port,
            f"{origin}/v1",
            f"{origin}/",
            plan.model.served_name,
            self._key,
            self._ends_at,
            self._job_id,
        ).write(self._paths.connection)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            why = await self._probe()
            if why is not None:
                why = await self._probe()  # one lost request is no illness
            if why is None:
                self._report.healthy()
            else:
                self._report.unhealthy(why)

    async def _watch_clock(self) -> None:
        limit_s = self._plan.limits.idle_minutes * 60
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.time()
            if now >= self._ends_at - _LAST_MINUTES_S:
                self._report.ends_soon()
            if self._plan.cluster.scheduler == "local" and now >= self._ends_at:
                self._over(ending("time-limit"))
            if limit_s and self._ready_at:
                usage = self._gateway.usage
                since = now if usage.in_flight else max(self._ready_at, usage.last_activity)
                self._report.idle(Idle(limit_s, since, since + limit_s))
                if now - since >= limit_s:
                    self._over(ending("idle"))
            self._report.beat()

    async def _watch_end(self) -> None:
        while True:  # an admin may move a job's end
            await asyncio.sleep(_END_EVERY_S)
            ends_at = await asyncio.to_thread(
                self._scheduler.ends_at, self._plan, self._job_id, self._started_at
            )
            if abs(ends_at - self._ends_at) > 1:
                self._ends_at = ends_at
                self._report.ends_at(ends_at)
                if self._ready_at:
                    self._connect()

    async def _follow_log(self) -> None:
        offset = 0
        while not self._ready_at:
            await asyncio.sleep(_TICK_S)
            with contextlib.suppress(OSError), self._paths.engine_log.open("rb") as log:
                log.seek(offset)
                lines = log.read(1 << 20)
                offset += len(lines)
                for line in lines.decode("utf-8", "replace").splitlines():
                    if (phase := self._engine_module.phase(line)) is not None:
                        self._report.phase(phase)

    async def _remember(self) -> None:
        self._node = await asyncio.to_thread(record.hardware)
        snapshot = self._plan.model.snapshot
        while not self._ready_at:  # hashing must not slow the start
            await asyncio.sleep(1.0)
        folder = Path(snapshot) if snapshot else None
        self._weights = await asyncio.to_thread(record.weights, folder, self._enough)

    async def _finish(self, end: Diagnosis) -> int:
        self._enough.set()
        for secret in (self._paths.connection, self._paths.key):
            with contextlib.suppress(OSError):
                secret.unlink(missing_ok=True)
        self._routes.ready = False
        self._report.ending()
        stopped = asyncio.create_task(self._engine.stop(_ENGINE_GRACE_S)) if self._engine else None
        if self._told_to_end:
            end = await asyncio.to_thread(
                why_told, self._paths.stop, self._scheduler, self._job_id, self._ends_at
            )
        self._report.ended(end)
        if stopped is not None:
            await stopped
        await self._gateway.stop(2.0)
        self._keep_record()
        return 1 if self._report.status.state == FAILED else 0

    def _keep_record(self) -> None:
        usage = self._gateway.usage
        with contextlib.suppress(
            OSError
        ):  # the last word is said; a full disk must not turn it into a failure
            record.write(
                self._plan,
                self._paths,
                self._report.status,
                engine_version=self._engine_version,
                files=self._weights,
                node=self._node,
                started_at=self._started_at,
                usage={
                    "requests": usage.requests,
                    "errors": usage.errors,
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                },
            )

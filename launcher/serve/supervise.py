"""The life of a session inside its job: gateway, engine, page, readiness, watch, end.

Owns the order of things and the one question that ends them: why is it over?
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from launcher.batch.files import Bounds
from launcher.batch.http import BatchAPI
from launcher.batch.passes import Passes
from launcher.engines import Diagnosis, engine
from launcher.errors import LauncherError, StorageError
from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway
from launcher.schedulers import scheduler
from launcher.serve import record
from launcher.serve.batch import carry_batch, next_job
from launcher.serve.caches import Caches
from launcher.serve.ending import ending, failure, why_told
from launcher.serve.idle import IdleClock
from launcher.serve.life import Life
from launcher.serve.node import ANY, job_id, log_to, public_host, raise_file_limit, runtime_directory
from launcher.serve.page import keep_page
from launcher.serve.process import adopt_orphans, end_orphans
from launcher.serve.readiness import ask
from launcher.serve.report import Report
from launcher.sessions import starts
from launcher.sessions.connection import Connection
from launcher.sessions.job import member_of, read_job_id, write_job_id
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED, Status

_TICK_S = 0.5
_END_EVERY_S = 300.0
_PROBE_TIMEOUT_S = 60.0
_LAST_MINUTES_S = 300.0
# scancel ends engine and supervisor at once: the signal may arrive after the engine's exit.
_TERM_SETTLES_S = 1.0


async def serve(root: Path, tell: Callable[[Status], None] | None = None) -> int:
    """Run the session in `root` until it is over; the exit code of the job: 0 SHUTDOWN, 1 FAILED.

    `tell` is called with every new status, for a door that shows it somewhere else.
    """
    paths = SessionPaths(root)
    require_own(root, "places.sessions")
    plan = Plan.read(paths.plan)
    os.umask(0o077)
    root.chmod(0o700)
    own_id = job_id(plan)
    stale = [paths.connection, paths.record, paths.preliminary, paths.key]
    if read_job_id(paths.job) not in (None, own_id):
        stale.append(paths.stop)  # of this very job the end may be asked for while it is starting
    for former in stale:
        former.unlink(missing_ok=True)
    adopt_orphans()
    raise_file_limit()
    try:
        with runtime_directory(plan) as runtime:
            try:
                return await _Session(plan, paths, runtime, own_id, tell).run()
            finally:
                await end_orphans()
    except OSError as error:
        raise StorageError(
            f"{error.filename or root}: {error.strerror}.", "Free some space there."
        ) from error


class _Session:
    def __init__(
        self,
        plan: Plan,
        paths: SessionPaths,
        runtime: Path,
        own_id: str,
        tell: Callable[[Status], None] | None,
    ) -> None:
        self._plan, self._paths, self._runtime = plan, paths, runtime
        self._engine_module = engine(plan.engine)
        self._scheduler = scheduler(plan.cluster.scheduler)
        self._job_id = own_id
        self._started_at = time.time()
        ends_at = self._scheduler.ends_at(plan, self._job_id, self._started_at)
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        last_start = starts.recall(plan)
        self._report = Report(plan.id, paths, self._job_id, ends_at, restarts, tell, last_start)
        self._ends_at = ends_at
        self._key = f"sk-{secrets.token_hex(32)}"
        self._nonce = secrets.token_hex(16)
        speech = self._engine_module.probe(plan).sound is not None
        self._routes = Routes(probe_nonce=self._nonce, speech=speech)
        self._front = SessionFront(self._routes, self._report.as_dict)
        passes = Passes(Keys(self._key, paths.further_keys))
        self._gateway = Gateway(keys=passes, front=self._front, name=plan.id)
        self._batches = None if speech else self._batch_api(passes)
        self._front.batches = self._batches
        self._url = ""
        self._life: Life | None = None
        self._caches: Caches | None = None
        self._restarts: list[record.Restart] = []
        self._idle = IdleClock(plan.limits.idle_minutes * 60)
        self._port = 0
        self._enough = threading.Event()
        self._engine_version: str | None = None
        self._answered = asyncio.Event()  # set for good by the first answer
        self._found = record.Found()
        self._end: asyncio.Future[Diagnosis] = asyncio.get_running_loop().create_future()
        self._told_to_end = False

    def _batch_api(self, passes: Passes) -> BatchAPI:
        plan = self._plan
        here = plan.cluster.name, plan.engine
        # Adapters have names of their own, which the engine knows.
        adapters = any(argument.startswith("--lora-modules") for argument in plan.engine_args)
        return BatchAPI(
            self._paths.batches,
            passes,
            url=lambda: self._url,
            touch=self._front.usage.touch,
            models=None if adapters else lambda _: (plan.model.served_name,),
            knows=lambda _, cluster, framework: (cluster, framework) == here,
            bounds=Bounds.of(plan.limits.batch_file_gb, plan.limits.batch_files_gb),
        )

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
                    self._keep_engine(),
                    self._watch_clock(),
                    self._watch_end(),
                    self._remember(),
                    self._show_page(),
                    self._carry_batch(),
                )
            ]
            end = await self._end
        except (LauncherError, OSError) as error:
            end = failure(error)
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
        if self._batches is not None:
            self._batches.start()
        cache = Path(self._plan.places.cache)
        cache.mkdir(parents=True, exist_ok=True)
        require_own(cache, "places.cache")  # compiled code is loaded from there

    async def _show_page(self) -> None:
        if not self._plan.page:
            return
        # Its import costs seconds of processor time, which on a small node the engine's start would lack (P8).
        await self._answered.wait()
        await keep_page(self._paths.root, self._url, self._runtime, self._paths.page_log, self._routes)

    async def _carry_batch(self) -> None:
        if self._plan.batch is not None:
            await self._answered.wait()
            folder = Path(self._plan.batch)
            self._over(await carry_batch(folder, self._paths, self._url, self._started_at))

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        # A watcher that fails must end the session with its reason, not leave it half watched.
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._over(failure(error))

    def _over(self, end: Diagnosis) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _on_term(self) -> None:
        self._told_to_end = True
        self._over(Diagnosis("", ""))  # the reason is asked for while the engine is being stopped

    async def _keep_engine(self) -> None:
        """Run the engine; one that crashes after it was ready is started again, as often as the plan allows."""
        caches = self._caches = await asyncio.to_thread(Caches, self._plan)
        line = None
        while True:
            life = self._life = Life(
                self._plan, self._paths, self._runtime, caches, self._report, self._ask, self._announce
            )
            self._routes.engine = life.socket
            self._front.on_trouble = life.look
            try:
                end = await life.run(line)
            except (LauncherError, OSError) as error:
                end = failure(error)
            self._engine_version = life.version or self._engine_version
            self._idle.pause(self._gateway.usage, time.time())
            count, limit = len(self._restarts), self._plan.limits.engine_restarts
            crashed = record.Restart(time.time(), end.reason, end.message)
            again = life.ready and not life.out_of_memory and count < limit
            if again:
                self._routes.ready = False
                self._report.restarting()
            await asyncio.sleep(_TERM_SETTLES_S)
            if await self._nodes_are_taken():
                self._on_term()
                return
            if not again:
                self._over(_after(count, end))
                return
            await life.clear_away()
            self._restarts.append(crashed)
            self._report.restarted(count + 1)
            line = (
                f"launcher: the engine stopped ({end.reason}) and is started again ({count + 1} of {limit})"
            )

    async def _nodes_are_taken(self) -> bool:
        # Of a job that is preempted Slurm ends the steps first, and this process only when the grace is over.
        several = self._plan.resources.nodes > 1
        return several and await asyncio.to_thread(self._scheduler.why_ending, self._job_id) is not None

    async def _ask(self) -> str | None:
        return await ask(
            self._url, self._engine_module.probe(self._plan), self._key, self._nonce, _PROBE_TIMEOUT_S
        )

    def _announce(self) -> None:
        now = time.time()
        first = not self._answered.is_set()
        self._routes.ready = True
        self._idle.go(now)
        if first:
            self._answered.set()
            self._routes.page_starting = self._plan.page
            self._connect()
        else:
            self._restarts[-1].ready_after_s = round(now - self._restarts[-1].at, 3)
        self._report.ready()
        if first and self._report.last_start is not None:
            with contextlib.suppress(OSError, StorageError):  # a hint for the next time, and no more
                starts.remember(self._plan, self._report.last_start)

    def _connect(self) -> None:
        plan = self._plan
        host = public_host(plan.network)
        origin = f"http://{host}:{self._port}"
        Connection(
            plan.id,
            host,
            self._port,
            f"{origin}/v1",
            f"{origin}/" if plan.page else None,
            plan.model.served_name,
            self._key,
            self._ends_at,
            self._job_id,
            proves=True,
        ).write(self._paths.connection)

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.time()
            if now >= self._ends_at - _LAST_MINUTES_S:
                self._report.ends_soon()
            # What Slurm ends itself; but a batch's first component may last longer than its session.
            if now >= self._ends_at and (self._plan.cluster.scheduler == "local" or self._first_of_batch()):
                self._over(ending("time-limit"))
            idle = self._idle.reading(self._gateway.usage, now)
            self._report.idle(idle)
            if idle is not None and now >= idle.stops_at:
                self._over(ending("idle"))
            self._report.beat()

    def _first_of_batch(self) -> bool:
        place = member_of(self._job_id)
        return place is not None and place[1] == 0

    async def _watch_end(self) -> None:
        while True:  # an admin may move a job's end
            await asyncio.sleep(_END_EVERY_S)
            ends_at = await asyncio.to_thread(
                self._scheduler.ends_at, self._plan, self._job_id, self._started_at
            )
            if abs(ends_at - self._ends_at) > 1:
                self._ends_at = ends_at
                self._report.ends_at(ends_at)
                if self._answered.is_set():
                    self._connect()

    async def _remember(self) -> None:
        found, snapshot = self._found, self._plan.model.snapshot
        found.hardware = await asyncio.to_thread(record.hardware, self._plan.resources.nodes)
        found.program = await asyncio.to_thread(record.program, self._plan)
        await self._answered.wait()  # hashing must not slow the start
        if self._life is not None and self._life.ahead is not None:
            found.read_ahead = dataclasses.asdict(self._life.ahead)
        found.model = await asyncio.to_thread(record.model, self._plan)
        folder = Path(snapshot) if snapshot else None
        found.weights = await asyncio.to_thread(record.weights, folder, self._enough)
        self._keep_record(over=False)
        if self._caches is not None:
            await asyncio.to_thread(self._caches.bring_back)

    async def _finish(self, end: Diagnosis) -> int:
        self._enough.set()
        if self._caches is not None:
            self._caches.stop()
        for secret in (self._paths.connection, self._paths.key):
            with contextlib.suppress(OSError):
                secret.unlink(missing_ok=True)
        self._routes.ready = False
        self._report.ending()
        stopped = asyncio.create_task(self._life.stop()) if self._life else None
        if self._told_to_end:
            end = await asyncio.to_thread(
                why_told, self._paths.stop, self._scheduler, self._job_id, self._ends_at
            )
        if self._plan.batch is not None and self._answered.is_set():
            await next_job(Path(self._plan.batch), self._paths.root, end.reason)
        self._report.ended(end)
        if self._batches is not None:
            await self._batches.stop()
        if stopped is not None:
            await stopped
        await self._gateway.stop(2.0)
        self._keep_record(over=True)
        return 1 if self._report.status.state == FAILED else 0

    def _keep_record(self, *, over: bool) -> None:
        usage = self._gateway.usage
        # The last word is said; a full disk must not turn it into a failure.
        with contextlib.suppress(OSError):
            record.write(
                self._plan,
                self._paths,
                self._report.status,
                engine_version=(self._life.version if self._life else None) or self._engine_version,
                found=self._found,
                started_at=self._started_at,
                phases=self._report.first_phases or self._report.status.phases,
                restarts=self._restarts,
                usage={
                    "requests": usage.requests,
                    "errors": usage.errors,
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "audio_s": round(usage.audio_s, 2),
                },
                over=over,
            )


def _after(restarts: int, end: Diagnosis) -> Diagnosis:
    if not restarts:
        return end
    times = {1: "once", 2: "twice"}.get(restarts, f"{restarts} times")
    return dataclasses.replace(end, message=f"{end.message} It had been started again {times}.")

"""One life of the engine: its process from the start to the end, its first answer, and why it is over.

Owns the process, its socket and its log. How often an engine is started again, and what the session says of it, is
`launcher.serve.supervise`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from launcher.engines import Diagnosis, engine
from launcher.serve import memory
from launcher.serve.caches import Caches
from launcher.serve.ending import ending
from launcher.serve.environment import inside, trouble
from launcher.serve.node import ENGINE_SOCKET, tail
from launcher.serve.others import Others, Tale, telling
from launcher.serve.process import Child, end_leftovers, until_lost
from launcher.serve.readahead import Ahead, ReadAhead
from launcher.serve.readiness import is_sign_of_life, until_listening, version
from launcher.serve.report import Report
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan

_TICK_S = 0.5
_PROBE_EVERY_S = 60.0
_PROBE_PAUSE_S = 5.0
_LEFTOVERS_GRACE_S = 3.0
_STOP_GRACE_S = 10.0  # Slurm's KillWait is 30 s by default; the rest of the ending needs its share
_REFUSALS = 5
_TAKEN = "address"  # the reason in causes.yml
_LOG = logging.getLogger("launcher.serve")


class Life:
    """One process of the engine on the socket of the session, in `runtime`.

    `ask` sends a first real request through the gateway and says why it was not answered; `on_ready` is called once,
    when it was. `ready` stays true after the end: this engine had answered.
    """

    def __init__(
        self,
        plan: Plan,
        paths: SessionPaths,
        runtime: Path,
        caches: Caches,
        report: Report,
        ask: Callable[[], Awaitable[str | None]],
        on_ready: Callable[[], None],
    ) -> None:
        self.socket = runtime / ENGINE_SOCKET
        self.ready = False
        self.version: str | None = None
        self.out_of_memory = False
        self._plan, self._log, self._runtime, self._report = plan, paths.engine_log, runtime, report
        self._paths = paths
        self._others: Others | None = None
        self._caches = caches
        self._ask, self._on_ready = ask, on_ready
        self._module = engine(plan.engine)
        self._child: Child | None = None
        self._log_from = 0
        self._kills = memory.kills()
        self._started_at = time.time()
        self._doubted = asyncio.Event()
        self._ahead: ReadAhead | None = None

    @property
    def ahead(self) -> Ahead | None:
        """What was read ahead of the engine, once that is done."""
        return self._ahead.done if self._ahead is not None else None

    def look(self) -> None:
        """Somebody's request did not reach the engine: probe now, not within a minute."""
        self._doubted.set()

    async def run(self, line: str | None = None) -> Diagnosis:
        """Start it and watch it until it is over, and say why; nothing of it is left then.

        `line` goes into the log before its own, behind what earlier lives have written; without it the log begins anew.
        Raises EngineError when the program cannot be started.
        """
        end = await self._run(line)
        if self._others is not None and not self.ready and end.reason == _TAKEN:
            # Between its choice and its use somebody else took the port where the nodes' processes meet.
            await self.clear_away()
            end = await self._run("launcher: the port was taken meanwhile; started again with another")
        return end

    async def _run(self, line: str | None) -> Diagnosis:
        self._report.phase("container" if self._plan.environment.kind == "container" else "weights")
        await asyncio.to_thread(_clear, self.socket)
        self._log_from = _write(self._log, line) if line is not None else 0
        cache = self._caches.folder
        place = None
        if self._plan.resources.nodes > 1:
            self._others = Others(self._plan, self._paths)
            place = await asyncio.to_thread(self._others.place)
        wanted = self._module.command(self._plan, self.socket, cache, place)
        command = inside(wanted, self._plan, self._runtime, cache, os.environ)
        self._child = await Child.start(
            command.argv,
            command.env,
            self._log,
            cwd=Path(self._plan.work_dir or self._runtime),
            append=line is not None,
        )
        self._started_at = time.time()
        if self._others is not None and place is not None:
            await self._others.start(place, append=line is not None)
        if self._plan.model.snapshot is not None:
            self._ahead = ReadAhead(Path(self._plan.model.snapshot))
        watches = [
            asyncio.create_task(watch(self._child))
            for watch in (self._until_exit, self._until_others_exit, self._until_lost, self._serve)
        ]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            return next(watch for watch in watches if watch.done()).result()
        finally:
            if self._ahead is not None:
                self._ahead.stop()
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def stop(self) -> None:
        """End the process with everything it started, and those on other nodes."""
        parts = [self._child.stop(_STOP_GRACE_S)] if self._child is not None else []
        if self._others is not None:
            parts.append(self._others.stop())
        await asyncio.gather(*parts)

    async def clear_away(self) -> None:
        """End what is left of an engine that is over: vLLM's processes can outlive the one that started them."""
        if self._child is not None and self._child.exit_code is None:
            await self.stop()
        elif self._others is not None:  # the group of one that is over gets the time below
            await self._others.stop()
        await end_leftovers(_LEFTOVERS_GRACE_S)

    async def _until_exit(self, child: Child) -> Diagnosis:
        code = await child.wait()
        if self._others is None:
            return self._explained(code)
        await self._others.settle(child)
        return self._explained_of_all(self._others, child)

    async def _until_others_exit(self, child: Child) -> Diagnosis:
        if self._others is None:
            await asyncio.Event().wait()  # there are none, for good
        assert self._others is not None
        await self._others.wait()
        await self._others.settle(child)
        return self._explained_of_all(self._others, child)

    def _explained_of_all(self, others: Others, first: Child) -> Diagnosis:
        """Which of the nodes' processes tells why: often one fails, and all others notice."""
        code = first.exit_code
        here = [Tale(None, self._explained(code), first.over_at)] if code is not None else []
        elapsed_s = time.time() - self._started_at

        def explain(text: str, code: int | None) -> Diagnosis:
            found = trouble(text, code) if code is not None else None
            return found or self._module.explain(text, code, self.ready, elapsed_s)

        return telling([*here, *others.explained(explain)]) or self._explained(None)

    async def _until_lost(self, child: Child) -> Diagnosis:
        # vLLM can wait for a process of its own that has died, without a word and without an end.
        await until_lost(self._module.lost, child)
        return self._explained(child.exit_code)

    def _explained(self, code: int | None) -> Diagnosis:
        elapsed_s = time.time() - self._started_at
        said = tail(self._log, since=self._log_from)
        if code is not None and (found := trouble(said, code)) is not None:
            return found
        self.out_of_memory = memory.kills() > self._kills
        if self.ready and self.out_of_memory:
            return ending("out-of-memory")
        return self._module.explain(said, code, self.ready, elapsed_s)

    async def _serve(self, child: Child) -> Diagnosis:
        follow = asyncio.create_task(self._follow_log())
        try:
            if (failed := await self._until_ready()) is not None:
                return failed
        finally:
            follow.cancel()
        self.ready = True
        if self._ahead is not None:
            self._ahead.stop()
        self._on_ready()
        self.version = await version(self.socket)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), _PROBE_EVERY_S)
            # One lost request is no illness.
            if is_sign_of_life(why := await self._ask()) or is_sign_of_life(why := await self._ask()):
                self._report.healthy()
            else:
                self._report.unhealthy(why or "")
            await asyncio.sleep(_PROBE_PAUSE_S)
            self._doubted.clear()  # a probe that fails is a doubt too, and must not call for the next one

    async def _until_ready(self) -> Diagnosis | None:
        refusals = 0
        why: str | None = "nothing listens yet"
        try:
            async with asyncio.timeout(self._plan.limits.start_timeout_s):
                await until_listening(self.socket, self._module.health())
                self._report.phase("probe")
                while (why := await self._ask()) is not None:
                    _LOG.warning("first request: %s", why)
                    refusals = refusals + 1 if why.startswith("HTTP 4") else 0
                    if refusals >= _REFUSALS:
                        return Diagnosis(
                            "probe-refused",
                            f"The engine refuses a first request ({why}).",
                            "Is this a model that answers requests of this kind? See engine.log.",
                        )
                    await asyncio.sleep(1.0)
        except TimeoutError:
            if self._others is not None and (silent := self._others.silent()):
                why = f"{', '.join(silent)} did not begin: launcher logs ID --of nodes"
            minutes = self._plan.limits.start_timeout_s / 60
            return Diagnosis(
                "start-timeout",
                f"The model did not answer within {minutes:g} minutes ({why}).",
                "Look at engine.log; the site can raise session.start_timeout_minutes.",
            )
        return None

    async def _follow_log(self) -> None:
        offset = self._log_from
        while True:
            with contextlib.suppress(OSError), self._log.open("rb") as log:
                log.seek(offset)
                lines = log.read(1 << 20)
                offset += len(lines)
                for line in lines.decode("utf-8", "replace").splitlines():
                    if (phase := self._module.phase(line)) is not None:
                        self._report.phase(phase)
            await asyncio.sleep(_TICK_S)


def _clear(socket: Path) -> None:
    # A killed engine leaves its socket; whatever else stands there was put there by a program of this user.
    if socket.is_dir() and not socket.is_symlink():
        shutil.rmtree(socket)
    socket.unlink(missing_ok=True)


def _write(log: Path, line: str) -> int:
    """Append `line`; the size of the log after it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        with contextlib.suppress(OSError):  # a full disk keeps no engine from starting
            os.write(descriptor, f"\n{line}\n".encode())
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)

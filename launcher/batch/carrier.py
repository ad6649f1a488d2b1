"""Carries batches to their end: a program for each that runs, watched, ended, begun again; what it left, handed out.

Owns the course of a batch's states. Everything that must outlive this process is in the batch's folder, and the run's
output is its own journal: whatever is killed when, who looks after the folder next goes on with the next line.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.batch.batches import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    Asked,
    Batches,
    Place,
    State,
)
from launcher.batch.files import Bounds, Files
from launcher.batch.journal import cut
from launcher.batch.passes import Passes
from launcher.batch.report import PENDING, Status
from launcher.batch.runner import Ended, Runner

_LOG = logging.getLogger("launcher.gateway")
_DRAIN_S = 600.0  # OpenAI's promise: what is in flight when a batch is cancelled may take so long
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_CRASHES = 5
_SWEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often, in seconds, a run is looked at, and the folder for batches that another gateway has made or left;
    and for how long the key of a batch may be unknown before the batch ends."""

    look_s: float = 1.0
    folder_s: float = 5.0
    missed_s: float = 5.0


class Carrier:
    """Looks after all batches of `batches`; `url` is where one's requests go, `touch` keeps what serves them awake."""

    def __init__(
        self,
        batches: Batches,
        files: Files,
        passes: Passes,
        url: Callable[[Asked], str],
        touch: Callable[[], None],
        bounds: Bounds,
        rhythm: Rhythm,
    ) -> None:
        self._batches, self._files, self._passes = batches, files, passes
        self._url, self._touch = url, touch
        self._bounds, self._rhythm = bounds, rhythm
        self._running: Counter[str] = Counter()  # by owner
        self._carried: dict[Path, asyncio.Task[None]] = {}
        self._wake: dict[Path, asyncio.Event] = {}
        self._looking: asyncio.Task[None] | None = None
        self._missed: dict[str, float] = {}  # since when the key of a batch is not known
        self._stopped = False

    def start(self) -> None:
        """Go on with what is not finished; to be called in the loop, once the gateway answers."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def stop(self) -> None:
        """Break off: the next gateway goes on."""
        self._stopped = True
        tasks = [task for task in (self._looking, *self._carried.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def carry(self, asked: Asked, place: Place) -> None:
        """See to this batch, if nobody here does yet."""
        if place.folder not in self._carried and not self._stopped:
            self._wake[place.folder] = asyncio.Event()
            task = asyncio.get_running_loop().create_task(self._guarded(asked, place))
            self._carried[place.folder] = task
            task.add_done_callback(lambda _: self._put_down(place))

    def wake(self, place: Place) -> None:
        """Something about this batch has changed."""
        if (event := self._wake.get(place.folder)) is not None:
            event.set()

    def _put_down(self, place: Place) -> None:
        self._carried.pop(place.folder, None)
        self._missed.pop(place.folder.name, None)
        self._wake.pop(place.folder, None)

    async def _look(self) -> None:
        swept = 0.0
        while True:
            try:
                for asked, place in await asyncio.to_thread(self._batches.unfinished):
                    self.carry(asked, place)
                if time.monotonic() - swept > _SWEEP_S:
                    swept = time.monotonic()
                    await asyncio.to_thread(self._files.sweep)
            except OSError as error:  # the file system will be back
                _LOG.warning("batches cannot be read: %s", error.strerror)
            except Exception:
                _LOG.exception("a batch cannot be read")
            await asyncio.sleep(self._rhythm.folder_s)

    async def _guarded(self, asked: Asked, place: Place) -> None:
        try:
            await self._carry(asked, place)
        except OSError as error:  # `_look` comes back to it
            _LOG.warning("%s: %s", asked.id, error.strerror)
            await asyncio.sleep(self._rhythm.folder_s)
        except Exception:
            _LOG.exception("%s cannot be carried", asked.id)
            await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _carry(self, asked: Asked, place: Place) -> None:
        lock = await asyncio.to_thread(_locked, place.lock)
        if lock is None:  # another gateway sees to it, until it ends
            return
        try:
            state = await asyncio.to_thread(place.read_state)
            if state.final:
                return
            if not state.end:
                why, state, ended = await self._run(asked, place, state)
                state = await self._decided(asked, place, state, why, ended)
            await self._end(asked, place, state)
        finally:
            os.close(lock)

    async def _run(self, asked: Asked, place: Place, state: State) -> tuple[str, State, Ended | None]:
        """Until the run has ended by itself, or `_over` says why it must; the name of the final status."""
        while True:
            if why := await self._over(asked, place):
                return why, state, None
            mine = self._running[asked.owner]
            if mine < self._bounds.at_once and self._running.total() < self._bounds.at_once_all:
                break
            await self._pause(place, self._rhythm.look_s)
        self._running[asked.owner] += 1
        try:
            crashes, pause_s = 0, _FIRST_PAUSE_S
            while not (why := await self._over(asked, place)):
                before = state
                state, ended = await self._one_run(asked, place, state)
                if ended is not None and ended.status:
                    return ended.status, state, ended
                if await self._over(asked, place):
                    continue
                if ended is not None:  # it has said why it cannot go on now, and may later
                    _LOG.warning("%s waits (%s): %s", asked.id, ended.code, ended.message)
                    if state.errors != ended.told:  # its owner may know what to do
                        state = dataclasses.replace(state, errors=ended.told)
                        await asyncio.to_thread(place.write_state, state, durable=False)
                # What was answered meanwhile shows that it is not the batch that ends its run.
                moved = (state.completed, state.failed) != (before.completed, before.failed)
                crashes = 0 if moved or ended is not None else crashes + 1
                if crashes >= _CRASHES:
                    return FAILED, state, Ended(FAILED, "run_failed", f"The run has ended {crashes} times.")
                await self._pause(place, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            return why, state, None
        finally:
            self._running[asked.owner] -= 1

    async def _one_run(self, asked: Asked, place: Place, state: State) -> tuple[State, Ended | None]:
        """Start the program and watch it; what it said at its end, if it came to one."""
        self._touch()
        key = self._passes.open(asked.key, asked.owner)
        before_s, begun = state.running_s, time.monotonic()
        try:
            async with Runner(place, self._url(asked), key) as runner:
                asking_since: float | None = None
                while not await runner.over(self._rhythm.look_s, self._wake[place.folder]):
                    self._touch()
                    state = await self._progress(place, state, before_s + time.monotonic() - begun)
                    if asking_since is None and await self._over(asked, place):
                        asking_since = time.monotonic()
                        runner.ask_to_end()
                    if asking_since is not None and time.monotonic() - asking_since > _DRAIN_S:
                        break
        finally:
            self._passes.close(key)
        running_s = before_s + time.monotonic() - begun
        state = await self._progress(place, state, running_s)
        return dataclasses.replace(state, running_s=round(running_s, 3)), runner.ended

    async def _progress(self, place: Place, state: State, running_s: float) -> State:
        """Take over how far the run says it is."""
        told = await asyncio.to_thread(Status.read, place.run / "status.json")
        moves = told.answered > state.completed or told.failed > state.failed
        now = dataclasses.replace(
            state,
            errors=() if moves else state.errors,  # why it waited
            total=max(told.total, state.total),
            completed=max(told.answered, state.completed),
            failed=max(told.failed, state.failed),
            prompt_tokens=max(told.prompt_tokens, state.prompt_tokens),
            completion_tokens=max(told.completion_tokens, state.completion_tokens),
        )
        if state.status == VALIDATING and told.state not in (PENDING, VALIDATING):
            now = now.now(IN_PROGRESS)
        if now != state:
            now = dataclasses.replace(now, running_s=round(running_s, 3))
            await asyncio.to_thread(place.write_state, now, durable=now.status != state.status)
        return now

    async def _over(self, asked: Asked, place: Place) -> str:
        """Why the batch must end now; "" while it need not."""
        if await asyncio.to_thread(place.cancel.exists):
            return CANCELLED
        if time.time() >= asked.expires_at:
            return EXPIRED
        if self._passes.whose(asked.key, asked.owner) is not None:
            self._missed.pop(asked.id, None)
            return ""
        # A file of keys that cannot be read for a moment ends nothing.
        missed = self._missed.setdefault(asked.id, time.monotonic())
        return FAILED if time.monotonic() - missed > self._rhythm.missed_s else ""

    async def _pause(self, place: Place, seconds: float) -> None:
        event = self._wake[place.folder]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        event.clear()

    async def _decided(
        self, asked: Asked, place: Place, state: State, why: str, ended: Ended | None
    ) -> State:
        """No run begins any more: what was written may be handed out from now on."""
        if why == FAILED and ended is None:
            ended = Ended(FAILED, "key_ended", f'The key "{asked.key}", which made this batch, has ended.')
        if why == EXPIRED:
            state = await self._expire(place, state)
        if why == CANCELLED:
            seen = await asyncio.to_thread(place.seen)
            state = dataclasses.replace(state, times={**state.times, **seen.times})
        if why == COMPLETED:
            state = (state.now(IN_PROGRESS) if state.status == VALIDATING else state).now(FINALIZING)
        state = dataclasses.replace(state, end=why, errors=ended.told if ended is not None else ())
        await asyncio.to_thread(place.write_state, state)
        return state

    async def _end(self, asked: Asked, place: Place, state: State) -> None:
        """Hand out what there is, and say the last word."""
        state = dataclasses.replace(
            state,
            output_file_id=await asyncio.to_thread(self._hand_out, asked, place.output, "output"),
            error_file_id=await asyncio.to_thread(self._hand_out, asked, place.errors, "error"),
        )
        await asyncio.to_thread(place.write_state, state.now(state.end))
        await asyncio.to_thread(place.tidy)
        _LOG.info("%s: %s, %d of %d answered", asked.id, state.end, state.completed, state.total)

    async def _expire(self, place: Place, state: State) -> State:
        """Report each line that was not answered as too late."""
        for _ in range(_CRASHES):
            async with Runner(place, "", "", expire=True) as runner:
                while not await runner.over(self._rhythm.look_s, asyncio.Event()):
                    pass
            if runner.ended is not None and runner.ended.status:
                break
            await asyncio.sleep(_FIRST_PAUSE_S)
        return await self._progress(place, state, state.running_s)

    def _hand_out(self, asked: Asked, path: Path, kind: str) -> str | None:
        if asked.output is not None:  # it is where it was asked for
            return None
        file_id = "file-" + hashlib.sha256(f"{asked.id} {kind}".encode()).hexdigest()[:24]
        if self._files.get(asked.owner, file_id) is not None:  # handed out before a kill
            return file_id
        try:
            cut(path)  # of a program that was killed in the middle of one
            if not path.stat().st_size:
                return None
        except FileNotFoundError:
            return None
        name = f"{asked.id}_{kind}.jsonl"
        return self._files.adopt(asked.owner, file_id, path, name, asked.output_lasts_s).id


def _locked(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass  # a file system without locks: there a batch has one gateway by the folder's being one gateway's
    return descriptor

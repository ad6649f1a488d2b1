"""The sessions of one batch inside its job: each is started, and what is left of those that end is given back.

On Slurm this runs in the first component of a heterogeneous job, beside the first session; each other session is a
step in a component of its own. Whoever ends a member leaves `stop.json` in its directory: one that waits for its
turn is then not started, and HUP makes this process look again. Owns no state of a session but the last word of one
that could not say it itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LauncherError, SessionError
from launcher.schedulers import scheduler
from launcher.schedulers.step import component
from launcher.serve.node import MEMBER_ID, batch_id
from launcher.serve.process import Child, adopt_orphans
from launcher.sessions.job import RUNNING, read_job_id, write_job_id
from launcher.sessions.members import Members
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.state import ended
from launcher.sessions.status import FAILED, Status, ask_end, asked_end

TOGETHER = "together"
_STOP_GRACE_S = 75.0  # an engine and its page get theirs from the session's own process
_AGAIN_S = 10.0  # Slurm did not answer


async def carry(root: Path) -> int:
    """Run all sessions of the batch whose first is in `root` until all are over; 1 where one FAILED, else 0."""
    require_own(root, "places.sessions")
    members = Members.read(SessionPaths(root).members)
    if members is None:
        raise SessionError(f"{root} is not the first of a batch.", "Launch the batch again.")
    adopt_orphans()
    first = Plan.read(SessionPaths(root).plan)
    base = batch_id(first)
    found = []
    for place, path in enumerate(members.roots):
        try:
            found.append(_Member(SessionPaths(Path(path)), base, place))
        except SessionError as error:  # somebody deleted its directory while the job waited
            print(f"launcher: {error}", flush=True)
            if place:
                scheduler(first.cluster.scheduler).cancel(f"{base}+{place}")
    batch = _Batch(found, members)
    return await batch.run()


class _Member:
    """One session of the batch, and the process or step that runs it."""

    def __init__(self, paths: SessionPaths, base: str, index: int) -> None:
        self.paths, self.index, self.job_id = paths, index, f"{base}+{index}"
        self.plan = Plan.read(paths.plan)
        self.slurm = self.plan.cluster.scheduler == "slurm"
        self.child: Child | None = None
        self.over = False
        self._since = time.time()

    @property
    def here(self) -> bool:
        """Whether its process is a child of this one, and no step in another component."""
        return not self.slurm or self.index == 0

    def unwanted(self) -> bool:
        """Whether its end was asked for, in this job."""
        return self.paths.stop.exists() and read_job_id(self.paths.job) == self.job_id

    def failed(self) -> bool:
        own = Status.read(self.paths.status)
        return own is not None and own.state == FAILED

    async def start(self) -> None:
        script = [str(self.paths.job_script)]
        argv = script if self.here else component(self.plan, script, self.index)
        env = {**os.environ, MEMBER_ID: self.job_id}
        self.child = await Child.start(argv, env, self.paths.job_log, append=True)

    def leave(self) -> None:
        """Say the last word where the session could not, and give its component back."""
        asks = scheduler(self.plan.cluster.scheduler)
        job = asks.jobs([self.job_id]).get(self.job_id)
        # Of a component that Slurm has ended, Slurm knows the reason.
        if job is not None and job.state == RUNNING and job.reason is None:
            own = Status.read(self.paths.status)
            self._say(own if own and own.job_id == self.job_id and own.updated_at >= self._since else None)
            write_job_id(self.paths.job, self.job_id, over=True)
            if not self.here:
                asks.cancel(self.job_id)

    def _say(self, own: Status | None) -> None:
        if own is not None and own.final:
            return
        asked = asked_end(self.paths.stop) if self.unwanted() else None
        reason = asked or (own.reason if own and own.ended else "job-exit")
        for secret in self.paths.secrets:
            secret.unlink(missing_ok=True)
        ended(self.plan, own, reason, self.job_id).write(self.paths.status)

    async def end(self) -> None:
        """End the session, and no other."""
        if self.over:
            return
        if not self.here:
            await asyncio.to_thread(scheduler("slurm").cancel, self.job_id)
        elif self.child is not None:
            await self.child.stop(_STOP_GRACE_S)


class _Batch:
    def __init__(self, members: Sequence[_Member], batch: Members) -> None:
        self._members, self._together = members, batch.together
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_all)
        loop.add_signal_handler(signal.SIGHUP, self._look)
        await asyncio.gather(*(self._carry(member) for member in self._members))
        await asyncio.gather(*self._tasks)
        return 1 if any(member.failed() for member in self._members) else 0

    async def _carry(self, member: _Member) -> None:
        try:
            if not member.unwanted():
                await member.start()
                assert member.child is not None
                self._look()  # HUP may have come while it was being started
                await member.child.wait()
        except (LauncherError, OSError) as error:  # one that is in trouble must not take the others with it
            _tell(member, error)
        member.over = True
        if self._together and not self._ending:
            self._end_the_others()
        while not self._ending:
            try:
                await asyncio.to_thread(member.leave)
                break
            except (LauncherError, OSError) as error:
                _tell(member, error)
            if all(other.over for other in self._members):
                break
            await asyncio.sleep(_AGAIN_S)

    def _look(self) -> None:
        for member in self._members:
            if member.here and member.unwanted():
                self._end(member)

    def _end_all(self) -> None:
        # Slurm tells the steps itself.
        self._ending = True
        for member in self._members:
            if member.here:
                self._end(member)

    def _end_the_others(self) -> None:
        self._together = False
        for member in self._members:
            if not member.over:
                self._end(member, TOGETHER)

    def _end(self, member: _Member, why: str | None = None) -> None:
        async def end() -> None:
            try:
                if why is not None:
                    ask_end(member.paths.stop, why)
                await member.end()
            except (LauncherError, OSError) as error:
                _tell(member, error)  # as in `_carry`: the others go on, or end as they should

        task = asyncio.create_task(end())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell(member: _Member, error: Exception) -> None:
    print(f"launcher: {member.plan.id}: {error}", flush=True)

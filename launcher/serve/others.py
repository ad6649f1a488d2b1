"""The engine's processes on the session's other nodes, as the first node sees them: one step of Slurm and their logs.

Starts and ends them together, and says what each one's log tells. What such a process does there is
`launcher.serve.rank`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from launcher.engines import Diagnosis, Place
from launcher.engines.causes import SEE_LOG, one_line, quoted_end
from launcher.schedulers import step
from launcher.serve.environment import NOT_STARTED, WITHHELD
from launcher.serve.meeting import first_place
from launcher.serve.node import tail
from launcher.serve.process import Child
from launcher.serve.rank import STOP_GRACE_S, ends
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan

# After theirs: the engines there end first, then the step.
_STOP_GRACE_S = STOP_GRACE_S + 5.0
# One that has lost another ends a moment after it: its log shall be whole when it is read.
_SETTLES_S = 3.0
_LEFT_ALONE = "network"
# What also those say that were only left alone by the one that failed; the second hardly means anything else.
_VAGUE = ("engine-exit", _LEFT_ALONE)


class Tale(NamedTuple):
    """What one process tells of the end: on which node (None: the first), and when it was over itself, if it is."""

    where: str | None
    found: Diagnosis
    at: float | None


class Others:
    """The processes on all nodes but the first, for one life of the engine."""

    def __init__(self, plan: Plan, paths: SessionPaths) -> None:
        self._plan, self._paths = plan, paths
        self.nodes = step.job_nodes(plan.resources.nodes)
        self._child: Child | None = None
        self._from: dict[Path, int] = {}

    def place(self) -> Place:
        """Where the first node's process stands, and all of them meet; asks Slurm for an address."""
        return first_place(self._plan.resources.nodes, step.address_of(self.nodes[1]))

    async def start(self, place: Place, *, append: bool) -> None:
        """Start them; their logs are made new unless `append`. Raises EngineError where srun is missing."""
        for log in (self._paths.nodes_log, *map(self._paths.rank_log, range(1, place.nodes))):
            self._from[log] = _begun(log, append=append)
        program = [self._plan.launcher, "rank", str(self._paths.root)]
        argv = step.elsewhere(self._plan, [*program, f"--address={place.address}", f"--port={place.port}"])
        # What goes with a step goes over the network: without the secrets that nobody there needs.
        env = {name: value for name, value in os.environ.items() if name not in WITHHELD}
        self._child = await Child.start(argv, env, self._paths.nodes_log, append=True)

    async def wait(self) -> int:
        """The exit code of the step, which is over as soon as one of them has failed."""
        assert self._child is not None
        return await self._child.wait()

    @property
    def exit_code(self) -> int | None:
        """None while they run."""
        return self._child.exit_code if self._child is not None else None

    async def settle(self, first: Child) -> None:
        """Wait a moment for those that end because another has."""
        assert self._child is not None
        both = asyncio.gather(first.wait(), self._child.wait())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(both, _SETTLES_S)

    def explained(self, explain: Callable[[str, int | None], Diagnosis]) -> list[Tale]:
        """What `explain` makes of each one's log in this life and its exit code.

        Where none has written anything, why the step could not start them.
        """
        code, over_at = self.exit_code, self._child.over_at if self._child is not None else None
        said, found = self._said(self._paths.nodes_log), []
        known = ends(said)
        for rank, node in enumerate(self.nodes):
            if rank and (text := self._said(log := self._paths.rank_log(rank))):
                own, at = known.get(rank, (code, over_at))
                found.append(Tale(f"{node} ({log.name})", explain(text, own), at))
        if code and (not found or code == NOT_STARTED):
            found.append(Tale(", ".join(self.nodes[1:]), _not_started(said), over_at))
        return found

    def silent(self) -> list[str]:
        """The nodes whose process has written nothing yet."""
        return [
            node
            for rank, node in enumerate(self.nodes)
            if rank and not self._said(self._paths.rank_log(rank))
        ]

    def _said(self, log: Path) -> str:
        return tail(log, since=self._from.get(log, 0))

    async def stop(self) -> None:
        """End them all: TERM, which srun passes on, and KILL for the step that does not end."""
        if self._child is not None:
            await self._child.stop(_STOP_GRACE_S)


def telling(tales: Sequence[Tale]) -> Diagnosis | None:
    """The one of them, the first node's first, that names a cause; else that of the process that was over first.

    One that could not reach the others had lost them, whenever it was over: who says anything else, was before it.
    """
    named = [tale for tale in tales if tale.found.reason not in _VAGUE]
    over = [tale for tale in tales if tale.at is not None]
    over.sort(key=lambda tale: (tale.found.reason == _LEFT_ALONE, tale.at))
    if not (chosen := named or over or tales):
        return None
    told = chosen[0]
    found = told.found
    if told.where is not None:
        found = dataclasses.replace(found, message=f"On {told.where}: {found.message}")
    rest = [tale.where or "the first node (engine.log)" for tale in tales if tale is not told]
    if not named and rest:
        found = dataclasses.replace(found, hint=f"{found.hint or SEE_LOG} Look too at {', '.join(rest)}.")
    return found


def _begun(log: Path, *, append: bool) -> int:
    """The size of `log`, which is made new unless `append`.

    Made here, not on the other node: NFS remembers for half a minute that there was no such file.
    """
    made = os.O_CREAT | (0 if append else os.O_TRUNC)
    descriptor = os.open(log, os.O_WRONLY | made | os.O_NOFOLLOW, 0o600)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _not_started(said: str) -> Diagnosis:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line.removeprefix("launcher: ") for line in lines if line.startswith("launcher: ")]
    why = one_line((ours or lines or ["srun says nothing."])[0])
    return Diagnosis(
        "nodes",
        f"The engine could not be started there: {why.rstrip('.')}.",
        "Its nodes must see the launcher and places.sessions. All of it: launcher logs ID --of nodes.",
        quote=quoted_end(said),
    )

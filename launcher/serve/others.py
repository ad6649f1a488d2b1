"""The engine's processes on the session's other nodes, as the first node sees them: one step of Slurm and their logs.

Starts and ends them together, and says what each one's log tells. What such a process does there is
`launcher.serve.rank`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.engines import Diagnosis, Place
from launcher.engines.causes import one_line, quoted_end
from launcher.schedulers import step
from launcher.serve.environment import NOT_STARTED
from launcher.serve.meeting import first_place
from launcher.serve.node import tail
from launcher.serve.process import Child
from launcher.serve.rank import STOP_GRACE_S
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan

# After theirs: the engines there end first, then the step.
_STOP_GRACE_S = STOP_GRACE_S + 5.0
# One that has lost another ends a moment after it: its log shall be whole when it is read.
_SETTLES_S = 3.0
# What also those say that were only left alone by the one that failed.
_VAGUE = ("engine-exit", "network")


class Others:
    """The processes on all nodes but the first, for one life of the engine."""

    def __init__(self, plan: Plan, paths: SessionPaths) -> None:
        self._plan, self._paths = plan, paths
        self.nodes = step.job_nodes()
        self._child: Child | None = None
        self._from: dict[Path, int] = {}

    def place(self) -> Place:
        """Where the first node's process stands, and all of them meet; asks Slurm for an address."""
        return first_place(self._plan.resources.nodes, step.address_of(self.nodes[1]))

    async def start(self, place: Place, *, append: bool) -> None:
        """Start them; their logs are made new unless `append`. Raises EngineError where srun is missing."""
        logs = [self._paths.nodes_log, *map(self._paths.rank_log, range(1, place.nodes))]
        for log in logs:
            if not append:
                log.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._from[log] = log.stat().st_size
        program = [self._plan.launcher, "rank", str(self._paths.root)]
        argv = step.elsewhere(self._plan, [*program, f"--address={place.address}", f"--port={place.port}"])
        self._child = await Child.start(argv, os.environ, self._paths.nodes_log, append=True)

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

    def explained(self, explain: Callable[[str, int | None], Diagnosis]) -> dict[str, Diagnosis]:
        """What `explain` makes of each one's log in this life and the step's exit code, by the node's name.

        Where none has written anything, why the step could not start them.
        """
        code, found = self.exit_code, {}
        for rank, node in enumerate(self.nodes[: self._plan.resources.nodes]):
            if rank and (text := self._said(self._paths.rank_log(rank))):
                found[f"{node} ({self._paths.rank_log(rank).name})"] = explain(text, code)
        if code and (not found or code == NOT_STARTED):
            found |= {", ".join(self.nodes[1:]): _not_started(self._said(self._paths.nodes_log))}
        return found

    def _said(self, log: Path) -> str:
        return tail(log, since=self._from.get(log, 0))

    async def stop(self) -> None:
        """End them all: TERM, which srun passes on, and KILL for the step that does not end."""
        if self._child is not None:
            await self._child.stop(_STOP_GRACE_S)


def telling(first: Diagnosis | None, others: Mapping[str, Diagnosis]) -> Diagnosis | None:
    """The one of several diagnoses that names a cause; else the first node's, and where that has none another's."""
    there = [
        dataclasses.replace(found, message=f"On {where}: {found.message}") for where, found in others.items()
    ]
    if first is None or first.reason in _VAGUE:
        for found in there:
            if found.reason not in _VAGUE:
                return found
    return first or next(iter(there), None)


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

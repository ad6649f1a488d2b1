"""A child of the job: started in a group of its own, with a private log, and ended with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from launcher.errors import EngineError

_LIBC = ctypes.CDLL(None, use_errno=True)
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)  # as the job had it, before ours was raised
_LOST_EVERY_S = 5.0
_SPARED: set[int] = set()
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that none can outlive the job."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """One program of the session: the engine or the page."""

    _known: ClassVar[weakref.WeakSet[Child]] = weakref.WeakSet()
    _starting: ClassVar[int] = 0

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.over_at: float | None = None  # when somebody who waited for its end saw it
        Child._known.add(self)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        niceness: int = 0,
        cwd: Path | None = None,
        append: bool = False,
    ) -> Child:
        """Start `argv` with its output in `log` (0600), which is made new unless `append`.

        Raises EngineError when it cannot be started.
        """

        def prepare() -> None:
            # Without its supervisor an engine would answer without a gateway: it goes when the supervisor is killed.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, _FILES)
            if niceness:
                os.nice(niceness)

        made = os.O_CREAT | (0 if append else os.O_TRUNC)
        descriptor = os.open(log, os.O_WRONLY | made | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        Child._starting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=prepare,
            )
        except OSError as error:
            if cwd is not None and str(error.filename) == str(cwd):
                raise EngineError(
                    f"The engine cannot run in the folder {cwd}: {error.strerror}.",
                    "Name one that compute nodes see with --work-dir, or leave it out.",
                    "engine-missing",
                ) from error
            raise EngineError(
                f"{argv[0]} cannot be started: {error.strerror}.", "Check the environment.", "engine-missing"
            ) from error
        else:
            return cls(process)
        finally:
            Child._starting -= 1
            os.close(descriptor)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        code = await self._process.wait()
        self.over_at = self.over_at or time.time()
        return code

    async def stop(self, grace_s: float) -> None:
        """TERM to the whole group, then KILL after `grace_s`."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_s)
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    @classmethod
    def strangers(cls) -> list[int] | None:
        """Processes handed to this one that no living child started; None while a child is just being started.

        A child leads a session of its own, which all its descendants are in, unless they made one for themselves.
        What the supervisor runs for a moment, such as scontrol, stays in the supervisor's own.
        """
        if cls._starting:
            return None
        ours = {os.getsid(0), *(child.pid for child in cls._known if child.exit_code is None)}
        return [pid for pid in _children() if _session(pid) not in ours]


async def until_lost(lost: Callable[[int], bool], child: Child) -> None:
    """Return once `lost` says of `child` that it waits in vain for a process of its own that has died."""
    seen = 0
    while seen < 2:  # twice: the first may be a process that is just being replaced
        await asyncio.sleep(_LOST_EVERY_S)
        seen = seen + 1 if await asyncio.to_thread(lost, child.pid) else 0


async def end_leftovers(grace_s: float) -> None:
    """End what a child that is over has left behind, and nothing that belongs to a living one."""
    await _end(Child.strangers, grace_s)


async def end_orphans(grace_s: float = 1.0) -> None:
    """End every descendant that was handed to this process and not spared."""
    await _end(lambda: [pid for pid in _children() if _session(pid) not in _SPARED], grace_s)


def spare(pid: int) -> None:
    """Let `pid` and all of its session outlive this one: a job that was submitted where this one ends."""
    if (session := _session(pid)) is not None:
        _SPARED.add(session)


async def _end(orphans: Callable[[], list[int] | None], grace_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = asyncio.get_running_loop().time() + grace_s
        while (found := orphans()) != [] and asyncio.get_running_loop().time() <= deadline:
            for pid in found or ():  # again each time: the end of one hands us its own children
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            await asyncio.sleep(0.05)
            _reap(found or ())


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:  # each by its number: the end of a living child is asyncio's to collect
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _children() -> list[int]:
    pid = os.getpid()
    children: set[int] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            children.update(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    return sorted(children)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None

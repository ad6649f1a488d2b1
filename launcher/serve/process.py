"""A child of the job: started in a group of its own, with a private log, and ended with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.errors import EngineError

_LIBC = ctypes.CDLL(None, use_errno=True)
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)  # as the job had it, before ours was raised
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own, so that none can outlive the job."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """One program of the session: the engine or the page."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        niceness: int = 0,
        cwd: Path | None = None,
    ) -> Child:
        """Start `argv` with its output in `log` (0600, made new); raises EngineError when it cannot be started."""

        def prepare() -> None:
            # Without its supervisor an engine would answer without a gateway: it goes when the supervisor is killed.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, _FILES)
            if niceness:
                os.nice(niceness)

        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
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
            raise EngineError(
                f"{argv[0]} cannot be started: {error.strerror}.", "Check the environment.", "engine-missing"
            ) from error
        finally:
            os.close(descriptor)
        return cls(process)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

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


async def end_orphans(grace_s: float = 1.0) -> None:
    """End what the children left behind: descendants that were handed to this process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = asyncio.get_running_loop().time() + grace_s
        while orphans := _children():
            if asyncio.get_running_loop().time() > deadline:
                break
            for pid in orphans:  # again each time: the end of one hands us its own children
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            await asyncio.sleep(0.05)
            _reap()


def _children() -> list[int]:
    pid = os.getpid()
    children: set[int] = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            children.update(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    return sorted(children)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass

"""Starts the program of one batch, hears how it ended, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from launcher.batch.batches import Place

_GRACE_S = 3.0
_SAID_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the batch's last status, or "" where it may go on; `errors` as in State."""

    status: str
    code: str = ""
    message: str = ""
    errors: tuple[Mapping[str, Any], ...] = ()

    @property
    def told(self) -> tuple[Mapping[str, Any], ...]:
        """What OpenAI's `errors` say of it."""
        if self.errors or not self.message:
            return self.errors
        return ({"code": self.code, "message": self.message, "line": None, "param": None},)


class Runner:
    """The program in `place`, which asks `url` with `key`; an async context manager, behind which it is no more.

    `expire`: it sends nothing, but reports what is left as too late.
    """

    def __init__(self, place: Place, url: str, key: str, *, expire: bool = False) -> None:
        self._place = place
        self._said = {"url": url, "key": key, "expire": expire}
        self._process: asyncio.subprocess.Process | None = None
        self._over: asyncio.Task[None] | None = None
        self.ended: Ended | None = None  # None: it was killed

    async def __aenter__(self) -> Self:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        log = os.open(self._place.log, flags, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "launcher.batch.program",
                str(self._place.folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_SAID_BYTES,
                cwd=self._place.folder,  # Python looks for modules there first
                process_group=0,  # Ctrl-C is the gateway's; but of its session, or it would pass for an engine's orphan
            )
        finally:
            os.close(log)
        assert self._process.stdin is not None
        self._process.stdin.write(
            json.dumps(self._said).encode() + b"\n"
        )  # and it stays open as long as we live
        self._over = asyncio.create_task(self._hear(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        process, over = self._process, self._over
        assert process is not None
        assert process.stdin is not None
        assert over is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(over), _GRACE_S)
        if not over.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await over

    async def over(self, timeout_s: float, wake: asyncio.Event) -> bool:
        """Whether it has ended; looks for so long, or until `wake` is set."""
        assert self._over is not None
        woken = asyncio.ensure_future(wake.wait())
        await asyncio.wait({self._over, woken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        wake.clear()
        return self._over.done()

    def ask_to_end(self) -> None:
        """Take no more lines; what is in flight may end."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        said = await process.stdout.read()
        await process.wait()
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(said)
            self.ended = Ended(
                told["status"],
                told.get("code") or "",
                told.get("message") or "",
                tuple(told.get("errors") or ()),
            )

"""Ready means one thing: a real request through our own gateway, with the key, was answered.

Owns asking; what follows from the answer is `launcher.serve.supervise`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import aiohttp

from launcher.engines import Probe

_BUSY = "HTTP 429"
_POLL_S = 0.1


async def until_listening(socket: Path, path: str) -> None:
    """Return once the engine answers 200 on `path`; it may take for ever, the caller sets the limit."""
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=10)
    ) as client:
        while True:
            if socket.exists():
                try:
                    async with client.get(f"http://engine{path}") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
            await asyncio.sleep(_POLL_S)


async def ask(url: str, probe: Probe, key: str, nonce: str, timeout_s: float) -> str | None:
    """Send `probe` through the gateway at `url`; None when it was answered, else why not, in a few words."""
    headers = {"Authorization": f"Bearer {key}", "X-Launcher-Probe": nonce}
    started = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as client,
            client.post(f"{url}{probe.path}", headers=headers, **_body(probe)) as answer,
        ):
            if answer.status != 200:
                return f"HTTP {answer.status}"
            data = await answer.json()
    except TimeoutError:
        return f"no answer within {time.monotonic() - started:.0f} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return type(error).__name__
    return None if isinstance(data, dict) and data.get(probe.field) else "the answer is empty"


def is_sign_of_life(why: str | None) -> bool:
    """Whether what `ask` said of an engine that was ready is no illness: an answer, or more to do than it takes."""
    return why in (None, _BUSY)


def _body(probe: Probe) -> dict[str, Any]:
    if probe.sound is None:
        return {"json": dict(probe.body)}
    form = aiohttp.FormData({name: str(value) for name, value in probe.body.items()})
    form.add_field("file", probe.sound, filename="second.wav", content_type="audio/wav")
    return {"data": form}


async def version(socket: Path) -> str | None:
    """The engine's own version, where it tells one."""
    with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, KeyError, TimeoutError):
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=5)
            ) as client,
            client.get("http://engine/version") as answer,
        ):
            return str((await answer.json())["version"])
    return None

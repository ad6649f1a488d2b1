"""By hand: an answer that is silent for ten minutes, through Apache with its real timeout of 60 s, on all four ways.

    python -m tests.portal.ten_minutes [--minutes 10] [--timeout-s 60] [--heartbeat-s S]

Prints each stream's first and last event, its heartbeats and its longest silence; the exit code is 0 when all four came
whole. The engine is the simulated one: it says nothing between the first event and the last ones. The suite has the
same in small (test_session.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from launcher.gateway import exchange
from tests.portal.apache import Portal
from tests.portal.behind import WAYS, browser, log_in, root
from tests.programs.front import RunningGateway, SimulatedEngine, chat


@dataclass
class Heard:
    """What came of one stream, with the seconds since its start."""

    way: str
    heartbeats: int = 0
    events: list[float] = field(default_factory=list)
    longest_silence_s: float = 0.0
    done: bool = False
    trouble: str = ""

    def __str__(self) -> str:
        ends = f"events at {self.events[0]:.1f} … {self.events[-1]:.1f} s" if self.events else "no event"
        silence = f"longest silence {self.longest_silence_s:.1f} s"
        how = "whole" if self.done else f"CUT {self.trouble}"
        return f"{self.way:12} {how}: {len(self.events)} {ends}, {self.heartbeats} heartbeats, {silence}"


async def _listen(portal: Portal, way: str, port: int, limit_s: float) -> Heard:
    heard = Heard(way)
    async with browser(portal) as client:
        at = root(portal, way, port)
        await log_in(client, at)
        begun = last = time.monotonic()
        try:
            async with client.post(
                f"{at}v1/chat/completions",
                data=chat(stream=True),
                headers={"Origin": portal.url},
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as answer:
                async for line in answer.content:
                    now = time.monotonic()
                    heard.longest_silence_s, last = max(heard.longest_silence_s, now - last), now
                    heard.heartbeats += line.startswith(b":")
                    if line.startswith(b"data: "):
                        heard.events.append(now - begun)
                        heard.done = line.strip() == b"data: [DONE]"
        except (aiohttp.ClientError, TimeoutError) as error:
            heard.trouble = f"after {time.monotonic() - begun:.1f} s by {error!r}"
    return heard


async def _all(minutes: float, timeout_s: int) -> list[Heard]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iod")))
        engine = SimulatedEngine(folder, "--first-token-ms", str(round(minutes * 60_000)))
        stack.callback(engine.close)
        gateway = RunningGateway(engine=engine.socket)
        stack.callback(gateway.close)
        portals = {
            "http": stack.enter_context(Portal(timeout_s=timeout_s)),
            "https": stack.enter_context(Portal(scheme="https", timeout_s=timeout_s)),
        }
        print(
            f"{minutes:g} min of silence, Apache's timeout {timeout_s} s, heartbeat {exchange.HEARTBEAT_S:g} s"
        )
        limit_s = minutes * 60 + 120
        ways = ((portals["https" if way.endswith("https") else "http"], way) for way in WAYS)
        return await asyncio.gather(*(_listen(portal, way, gateway.port, limit_s) for portal, way in ways))


def main() -> int:
    """Run it; 0 when every stream came whole."""
    parser = argparse.ArgumentParser(description="A stream that is silent for minutes, through the portal.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--timeout-s", type=int, default=60, help="Apache's Timeout (default 60, as OOD's)")
    parser.add_argument("--heartbeat-s", type=float, help="instead of the gateway's own")
    given = parser.parse_args()
    if given.heartbeat_s is not None:
        exchange.HEARTBEAT_S = given.heartbeat_s
    found = asyncio.run(_all(given.minutes, given.timeout_s))
    print(*found, sep="\n")
    return 0 if all(heard.done for heard in found) else 1


if __name__ == "__main__":
    sys.exit(main())

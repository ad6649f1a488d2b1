"""Taking a replica out of service so that nobody notices: no new requests, the running ones to their end, then its job.

Owns what is asked of the sessions themselves: whether they are empty, whoever sends them requests, and that one that
shall stay does not end for idleness. When a replica leaves, and what takes over from it, is decided in
`launcher.fleet.scale`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from launcher.errors import LauncherError
from launcher.fleet.replicas import Member
from launcher.fleet.sight import Sighted
from launcher.gateway.fetch import fetch
from launcher.gateway.place import Place
from launcher.gateway.upstream import Upstreams

_LOG = logging.getLogger("launcher.fleet")
# Another gateway on the same state reads every second who leaves, and what it has sent by then is on its way.
_HEARD_S = 3.0
# So long a session that cannot be asked is believed to answer somebody.
_DEAF_S = 60.0
_AWAKE_SHARE = 0.5
# One that is still there so long after it was ended was not: its scheduler may have lost the word.
_AGAIN_S, _TROUBLE_S = 120.0, 5.0


class Handover:
    """Ends replicas that have left; a clock that is set anew neither hurries nor holds it up."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._left: dict[str, float] = {}  # since when each is known to leave
        self._deaf: dict[str, float] = {}
        self._ending: dict[str, float] = {}  # since when each is being ended, or tried to be
        self._nudged: dict[str, float] = {}  # a Unix time, as a session's idle time is
        self._thread = ThreadPoolExecutor(4, "stop")

    def known(self, members: Collection[Member]) -> None:
        """Take in who leaves; what is no longer there is forgotten."""
        now, living = time.monotonic(), {member.id for member in members}
        for memory in (self._left, self._deaf, self._nudged, self._ending):
            for name in memory.keys() - living:
                del memory[name]
        for member in members:
            if member.leaving:
                self._left.setdefault(member.id, now)

    async def stop(self, member: Member, reason: str, successor: str | None = None) -> None:
        """End the member's session if nobody's request runs there; asked again later otherwise.

        The session then says why: its `successor`, why it left, or else `reason`.
        """
        now = time.monotonic()
        if now - self._ending.get(member.id, -math.inf) < _AGAIN_S or member.sighted is None:
            return
        self._ending[member.id] = now
        try:
            if member.leaving and not await self._empty(member.id, member.sighted):
                self._ending.pop(member.id, None)
                return
            _LOG.info("%s is ended: %s", member.id, reason)
            why = {
                "reason": "endpoint",
                "words": f"Its endpoint has ended it: {member.row.reason or reason}.",
            }
            if successor is not None:
                why = {"reason": "handed-over", "words": f"It was handed over to session {successor}."}
            ended = partial(member.sighted.session.stop, wait=False, **why)
            await asyncio.get_running_loop().run_in_executor(self._thread, ended)
        except (LauncherError, OSError) as error:
            _LOG.warning("%s cannot be stopped: %s", member.id, error)
            self._ending[member.id] = now - _AGAIN_S + _TROUBLE_S

    async def keep_awake(self, member: Member) -> None:
        """Let a session that shall stay not end for idleness; it is told so when half of its idle time is over."""
        sighted = member.sighted
        if sighted is None or sighted.status.idle is None or not member.answering:
            return
        idle, now = sighted.status.idle, time.time()
        since = max(idle.since, self._nudged.get(member.id, 0.0))
        if now - since < idle.limit_s * _AWAKE_SHARE:
            return
        self._nudged[member.id] = now
        await fetch(self._upstreams, _place(sighted), "/keep-alive", "POST")

    def close(self) -> None:
        """Wait for what is being stopped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _empty(self, name: str, sighted: Sighted) -> bool:
        now = time.monotonic()
        if now - self._left.setdefault(name, now) < _HEARD_S:
            return False
        if sighted.address is None or sighted.connection is None:
            said = b""
        else:
            said = await fetch(self._upstreams, _place(sighted), "/status")
        try:
            usage = json.loads(said)["usage"]
            running = int(usage["in_flight"]) + int(usage["websockets"])
        except (ValueError, KeyError, TypeError):
            return now - self._deaf.setdefault(name, now) >= _DEAF_S
        self._deaf.pop(name, None)
        return running == 0


def _place(sighted: Sighted) -> Place:
    assert sighted.address is not None
    assert sighted.connection is not None
    return Place(sighted.address, sighted.connection.key, sighted.connection.proves)

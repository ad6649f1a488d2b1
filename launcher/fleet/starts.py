"""Starting one replica: the claim comes first, its session's id is written down next, and the job is submitted last.

So whoever is killed when, at most one job is started for a slot, and it is found again by its id. Blocks, in threads of
its own for each cluster: one that does not answer must not hold up another one's starts, nor one slow `sbatch` those
behind it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from launcher.api.remote.far import LostError
from launcher.api.session import Session
from launcher.errors import LauncherError
from launcher.fleet.offers import wanted_of
from launcher.fleet.scene import Offer, Start
from launcher.fleet.sight import Source
from launcher.fleet.store import Store
from launcher.settings.schema import Settings

_LOG = logging.getLogger("launcher.fleet")
_NAME_MAX = 26  # with the rest at most 40, which a session's name may have
_AGAIN_S = 2.0
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a start: the session, or why there is none. `lost`: another gateway had the claim by then."""

    session: Session | None
    trouble: Exception | None = None
    lost: bool = False


class Starts:
    """Submits replicas for `gateway`, which holds the claims."""

    def __init__(self, settings: Settings, store: Store, gateway: str, sources: Mapping[str, Source]) -> None:
        self._settings, self._store, self._gateway, self._sources = settings, store, gateway, sources
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._closing = threading.Event()

    async def start(self, offer: Offer, slot: int, start: Start) -> Started:
        """Submit a replica for a slot that this gateway has claimed; the slot is free again where it failed."""
        thread = self._threads.get(start.cluster)
        if thread is None:
            # Where the site allows so many sessions, each start must see the one before.
            count = _AT_ONCE if self._settings.limits.sessions is None else 1
            thread = ThreadPoolExecutor(count, f"start {start.cluster}"[:40])
            self._threads[start.cluster] = thread
        loop = asyncio.get_running_loop()
        started = await loop.run_in_executor(thread, self._start, offer, slot, start)
        if started.session is not None:
            self._sources[start.cluster].add(started.session)
        return started

    def close(self) -> None:
        """Wait for what is being submitted: half a start would be a job that nobody looks after."""
        self._closing.set()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)

    def _start(self, offer: Offer, slot: int, start: Start) -> Started:
        written: str | None = None
        try:
            launcher = self._sources[start.cluster].launcher
            wanted = self._wanted(offer, start)
            if hasattr(launcher, "far"):
                # The launcher there makes the id: what is known before is how it begins.
                written = str(wanted["name"])
                if not self._plan(offer, slot, start, written):
                    return Started(None, lost=True)
                session = launcher.launch(offer.model, door="python", **wanted)
            else:
                plan = launcher.plan(offer.model, door="python", **wanted)
                written = plan.id
                if not self._plan(offer, slot, start, written):
                    return Started(None, lost=True)
                session = launcher.submit(plan)
        except LostError as error:
            # It may have been done: the row stays until the session is seen, or was not to be seen for long.
            return Started(None, error)
        except Exception as error:
            self._release(offer.name, slot, written)
            if not isinstance(error, LauncherError | OSError):
                _LOG.exception("%s could not be started", offer.name)
            return Started(None, error)
        # From here on there is a job: the slot is its own, whatever else goes wrong.
        if self._still_ours(offer.name, slot, written):
            return Started(session)
        # This process was stopped for so long that somebody else has started another one meanwhile.
        try:
            session.stop(wait=False)
        except (LauncherError, OSError) as error:
            _LOG.warning("session %s is one too many and cannot be stopped: %s", session.id, error)
        return Started(None, lost=True)

    def _plan(self, offer: Offer, slot: int, start: Start, session: str) -> bool:
        return self._store.planned(
            offer.name, slot, self._gateway, session, start.cluster, start.profile, start.replaces
        )

    def _still_ours(self, model: str, slot: int, session: str) -> bool:
        wanted = (model, slot, session)
        while True:
            try:
                return any((row.model, row.slot, row.session) == wanted for row in self._store.replicas())
            except LauncherError:  # nothing else is started either while the state is away
                if self._closing.wait(_AGAIN_S):
                    return True

    def _release(self, model: str, slot: int, session: str | None) -> None:
        try:
            self._store.release(model, slot, session)
        except LauncherError as error:  # the row lapses by itself
            _LOG.warning("%s", error)

    def _wanted(self, offer: Offer, start: Start) -> dict[str, Any]:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", offer.name)[:_NAME_MAX].strip("-.") or "model"
        name = f"{plain}-{secrets.token_hex(3)}"
        return {**wanted_of(offer, start.profile, self._settings), "name": name}

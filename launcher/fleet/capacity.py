"""How many more replicas of a profile would start at once on a cluster, as far as idle hardware tells.

Owns when a cluster is asked for that: two programs of Slurm every half minute, and only where there is a choice
between clusters or profiles. What is not known is left out, and believed to be enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from launcher.errors import LauncherError
from launcher.fleet.scene import Offer
from launcher.planning.soonest import fitting
from launcher.planning.times import hours_by_default
from launcher.schedulers.supply import Supply, supply
from launcher.settings.schema import Profile, Settings

_EVERY_S = 30.0
_BELIEVED_S = 120.0


class Capacity:
    """What is free for the profiles among which `offers` may choose; `free` is for one thread, the event loop's."""

    def __init__(self, settings: Settings, offers: Iterable[Offer]) -> None:
        self._settings = settings
        # Of one that has no choice, the only place is taken whatever is free.
        places = {where for offer in offers if len(offer.profiles) > 1 for where in offer.profiles}
        self._profiles: dict[str, list[Profile]] = {}
        for where in sorted(places, key=lambda where: (where.cluster, where.profile)):
            cluster = settings.clusters[where.cluster]
            if cluster.scheduler == "slurm" and not cluster.remote:
                self._profiles.setdefault(where.cluster, []).append(settings.profiles[where.profile])
        self._known: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._asked_at: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(max(1, len(self._profiles)), "capacity")

    def free(self, cluster: str) -> Mapping[str, int]:
        """By profile, as it was at the last look; begins another one where that was long ago."""
        if cluster not in self._profiles:
            return {}
        now = time.monotonic()
        if now - self._asked_at.get(cluster, -_EVERY_S) >= _EVERY_S:
            self._asked_at[cluster] = now
            self._threads.submit(self._look, cluster)
        seen_at, found = self._known.get(cluster, (0.0, {}))
        return found if now - seen_at < _BELIEVED_S else {}

    def close(self) -> None:
        """Ask no more; a program that still runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, cluster: str) -> None:
        try:
            supplies = supply(self._settings.clusters[cluster])
        except (LauncherError, OSError):  # who follows the sessions there says that it does not answer
            return
        found = {}
        for profile in self._profiles[cluster]:
            life_s = hours_by_default(profile, self._settings) * 3600
            count = starts_at_once(profile, fitting(profile, supplies), life_s, time.time())
            if count is not None:
                found[profile.name] = count
        self._known[cluster] = (time.monotonic(), found)


def starts_at_once(profile: Profile, found: Supply | None, life_s: float, now: float) -> int | None:
    """How many jobs of `profile` the idle part of the nodes would carry for `life_s`; None where that is not known."""
    if found is None or profile.constraint or profile.reservation or profile.sbatch_args:
        return None  # which nodes would do is more than the supply tells
    if not found.available:
        return 0
    jobs, whole = 0, 0
    for room in found.room:
        if room.until is not None and room.until - now < life_s:
            continue
        fits = room.cpus // (profile.cpus or 1)
        if profile.gpus:
            fits = min(fits, room.gpus // profile.gpus)
        if profile.memory_gb:
            fits = min(fits, int(room.memory_gb // profile.memory_gb))
        jobs += fits * room.nodes
        whole += room.nodes if fits else 0
    return jobs if profile.nodes == 1 else whole // profile.nodes

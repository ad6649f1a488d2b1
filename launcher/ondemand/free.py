"""What is free at this minute, for the form's list of hardware: one question to each cluster, and little patience.

The form comes without it when a cluster does not answer in time; when it would start is `launcher.planning.soonest`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from launcher.errors import LauncherError
from launcher.schedulers.supply import Supply, supply
from launcher.settings.schema import Cluster, Profile

PATIENCE_S = 1.0


def free_now(clusters: Iterable[Cluster], profiles: Sequence[Profile]) -> dict[str, str]:
    """For each profile whose cluster answered, words such as `3 of 16 GPUs free at 14:05`."""
    answers: dict[str, list[Supply]] = {}

    def ask(cluster: Cluster) -> None:
        try:
            answers[cluster.name] = supply(cluster, timeout_s=PATIENCE_S)
        except LauncherError:
            return

    # Threads of their own, which the end of the process does not wait for.
    asking = [threading.Thread(target=ask, args=(cluster,), daemon=True) for cluster in clusters]
    until = time.monotonic() + PATIENCE_S
    for thread in asking:
        thread.start()
    # Loaded while the clusters answer.
    from launcher.planning.soonest import fitting, idle_words

    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    # The time of day, because OOD keeps a form for up to six hours.
    clock = time.strftime("%H:%M")
    known = dict(answers)
    said = {}
    for profile in profiles:
        found = fitting(profile, known[profile.cluster]) if profile.cluster in known else None
        if found is not None:
            words = idle_words(profile, found)
            said[profile.name] = f"{words}{' free' if found.available else ''} at {clock}"
    return said

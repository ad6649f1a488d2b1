"""What former starts teach: how long a job waited in the queue, how long a model took to answer, and what failed.

Owns the samples and what is expected after them; it starts nothing and asks no scheduler. The samples come from the
sessions' own files when the endpoint starts, and from what it sees itself from then on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.sessions import registry
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED, READY, Status

# Of a place that nobody has used: a large model from a shared file system, and a queue that lets one in soon.
UNKNOWN_QUEUE_S = 600.0
UNKNOWN_START_S = 600.0
# The more samples, the older the news: the queue of last month says nothing of today's.
SAMPLES = 40
_SESSIONS_READ = 400
_QUANTILE = 0.9
_LONGEST_S = 7 * 86400.0
_PAUSE_FIRST_S, _PAUSE_LONGEST_S = 30.0, 1800.0
# Failures so far apart are not in a row; a replica that fails so soon after its first answer has not really started.
_FORGOTTEN_S, _SOON_S = 2 * 3600.0, 300.0
_SKEW_S = 60.0  # the clocks of a node and of where the job was submitted may differ; more says that one was set anew
# What ends a session although the model could start there: it says nothing against the place.
_NOBODYS_FAULT = frozenset(
    {"user", "handed-over", "endpoint", "idle", "time-limit", "cancelled", "together", "preempted"}
)


@dataclass(frozen=True, slots=True)
class Lead:
    """What to expect of a start, in seconds: nine of ten former ones waited and took no longer."""

    queue_s: float
    start_s: float

    @property
    def total_s(self) -> float:
        """From `sbatch` to the first answer."""
        return self.queue_s + self.start_s


class Learnt:
    """Starts and failures by place, the latest ones; a place is a cluster and a profile on it.

    The queue does not care which model waits in it, so waits are kept by place; how long a model takes to answer is
    kept by model and place. What was never seen is expected to be as elsewhere, then as `UNKNOWN_QUEUE_S` and
    `UNKNOWN_START_S`.
    """

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], _Past] = {}
        self._starts: dict[tuple[str, str, str], _Past] = {}
        self._failures: dict[tuple[str, str, str], _Failures] = {}

    def started(self, model: str, cluster: str, profile: str, queue_s: float | None, start_s: float) -> None:
        """A session of `model` answered, `start_s` after its job began; `queue_s` None: its wait is not known."""
        if queue_s is not None and 0 <= queue_s <= _LONGEST_S:
            self._queues.setdefault((cluster, profile), _Past()).add(queue_s)
        if 0 <= start_s <= _LONGEST_S:
            self._starts.setdefault((model, cluster, profile), _Past()).add(start_s)
        if (failures := self._failures.get((model, cluster, profile))) is not None:
            failures.paused_until = 0.0

    def failed(self, model: str, cluster: str, profile: str, now: float, *, answered: bool = False) -> None:
        """A start was refused, or ended before it `answered` or soon after; each one in a row doubles the pause.

        The first that had answered pauses nothing: the model can start there, and whatever killed it may be gone.
        """
        failures = self._failures.setdefault((model, cluster, profile), _Failures())
        if now - failures.last_at > _FORGOTTEN_S:
            failures.times, failures.spared = 0, False
        if answered and not failures.times and not failures.spared:
            failures.last_at, failures.spared = now, True
            return
        pause_s = min(_PAUSE_FIRST_S * 2 ** min(failures.times, 16), _PAUSE_LONGEST_S)
        failures.times, failures.last_at, failures.paused_until = failures.times + 1, now, now + pause_s

    def paused_until(self, model: str, cluster: str, profile: str) -> float:
        """Until when nothing should be started there, a Unix time; 0 where nothing is against it."""
        failures = self._failures.get((model, cluster, profile))
        return 0.0 if failures is None else failures.paused_until

    def paused(self, names: Iterable[str], cluster: str, profile: str, now: float) -> bool:
        """Whether nothing should be started there now, of what is called so: a model, or an offer."""
        left_s = (self.paused_until(name, cluster, profile) - now for name in names)
        return any(
            0 < left <= _PAUSE_LONGEST_S for left in left_s
        )  # longer: the clock was set back meanwhile

    def lead(self, model: str, cluster: str, profile: str) -> Lead:
        """What to expect of the next start of `model` there."""
        queue_s = self._high_queue(cluster, profile)
        start_s = self._high_start(model, cluster, profile)
        return Lead(
            UNKNOWN_QUEUE_S if queue_s is None else queue_s, UNKNOWN_START_S if start_s is None else start_s
        )

    def _high_queue(self, cluster: str, profile: str) -> float | None:
        if (own := self._queues.get((cluster, profile))) is not None:
            return own.high
        return _together(past for (where, _), past in self._queues.items() if where == cluster)

    def _high_start(self, model: str, cluster: str, profile: str) -> float | None:
        if (own := self._starts.get((model, cluster, profile))) is not None:
            return own.high
        return _together(past for (which, _, _), past in self._starts.items() if which == model)

    @classmethod
    def read(cls, sessions: Path) -> Learnt:
        """What the files of the latest sessions in the folder `sessions` teach; what cannot be read is passed over."""
        learnt = cls()
        try:
            entries = registry.entries(sessions)
        except OSError:
            return learnt
        for paths in entries[-_SESSIONS_READ:]:
            try:
                learnt.learn(Plan.read(paths.plan), Status.read(paths.status))
            except (LauncherError, OSError):
                continue
        return learnt

    def learn(self, plan: Plan, status: Status | None, model: str | None = None) -> None:
        """Take in one session of any age, as its files tell it; `model`: what it was asked for by, if not by its id."""
        if status is None:
            return
        place = (model or plan.model.id, plan.cluster.name, plan.resources.profile)
        probed = any(phase.name == "probe" for phase in status.phases)
        if status.state == FAILED and not probed:
            self.failed(*place, status.since)
        answered = status.state == READY or (status.ended and status.reason in _NOBODYS_FAULT and probed)
        # The phases of a crashed engine are those of its restart; the session's own start is not told any more.
        if not answered or not status.phases or status.engine_restarts:
            return
        first, last = status.phases[0], status.phases[-1]
        # A job that ran again has waited twice, and only the first wait was a queue of its own.
        waited = None if status.restarts else first.started_at - plan.created_at
        if waited is not None and -_SKEW_S < waited < 0:
            waited = 0.0
        self.started(*place, waited, last.started_at + last.elapsed_s - first.started_at)

    def ended(self, plan: Plan, status: Status, model: str, *, answered: bool) -> None:
        """A session is over whose start was watched, and which `answered` or did not."""
        lasted_s = 0.0
        if answered and status.phases:
            lasted_s = status.since - status.phases[-1].started_at - status.phases[-1].elapsed_s
        if status.state == FAILED and lasted_s < _SOON_S:
            place = (model, plan.cluster.name, plan.resources.profile)
            self.failed(*place, status.since, answered=answered)


@dataclass(slots=True)
class _Failures:
    times: int = 0
    spared: bool = False
    last_at: float = 0.0
    paused_until: float = 0.0


def high(samples: Collection[float]) -> float:
    """A value that nine of ten `samples` did not exceed; few are trusted less: a single one counts double."""
    ordered = sorted(samples)
    return ordered[math.ceil(_QUANTILE * len(ordered)) - 1] * (1 + 1 / len(ordered))


class _Past:
    """The latest samples of one kind, and what is expected after them: it is asked far more often than it changes."""

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=SAMPLES)
        self.high = 0.0

    def add(self, sample: float) -> None:
        self.samples.append(sample)
        self.high = high(self.samples)


def _together(pasts: Iterable[_Past]) -> float | None:
    samples = [sample for past in pasts for sample in past.samples]
    return high(samples) if samples else None

"""What a decision about replicas rests on, and what it may be: data only.

Times are Unix times in seconds; `fleet.scale` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STARTING, READY, LEAVING, LOST = "STARTING", "READY", "LEAVING", "LOST"


@dataclass(frozen=True, slots=True)
class Where:
    """A place to start a replica: a profile of a cluster."""

    profile: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that settings allow to be started; `profiles` in the order of preference.

    `minimum` replicas are kept ready, `maximum` are never exceeded but by those that are being replaced. Without
    requests for `idle_s` seconds what is above the minimum stops; 0: never for that. More than
    `in_flight_per_replica` requests at once and replica ask for another one. `wanted` are fields of a launch request.
    """

    name: str
    model: str
    profiles: tuple[Where, ...]
    minimum: int = 0
    maximum: int = 1
    idle_s: float = 1800.0
    hours: float | None = None
    in_flight_per_replica: int = 32
    groups: frozenset[str] = frozenset()
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    wanted: Mapping[str, object] = field(default_factory=dict)

    @property
    def paused_as(self) -> frozenset[str]:
        """By what a place may be paused: its model fails there for everybody, its own fields for itself alone."""
        return frozenset((self.model, self.name))


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica as it is seen now; times are Unix times.

    `state`: STARTING until the first answer, READY, LEAVING (takes no more) or LOST (its job is there, it does not
    answer). What has ended is not in the list. `began_at` None: the job still waits in the queue. `replaces` is the
    replica that it was started to succeed.
    """

    id: str
    cluster: str
    profile: str
    state: str
    submitted_at: float
    ready_at: float | None = None
    ends_at: float | None = None
    in_flight: int = 0
    last_used_at: float = 0.0
    began_at: float | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of one model; `fleet.load.Load` makes it.

    `waiting` requests are held, or were refused and are expected again. `steady` is the fewest of `waiting +
    in_flight` in the last half minute, `busiest` the most in the last minutes (`calm_s`); None: as now. What was before
    `watched_from` is not known: a gateway that has just started knows nobody who was there a minute ago.
    """

    waiting: int = 0
    in_flight: int = 0
    last_asked_at: float = 0.0
    steady: int | None = None
    busiest: int | None = None
    watched_from: float = 0.0

    @property
    def load(self) -> int:
        """Requests that want an answer now."""
        return self.waiting + self.in_flight


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """A cluster as it is seen now; `healthy` False when it has not answered for a while, not for one missed answer.

    `refused_until`: it refused a job and is not asked again before. `free` tells for a profile how many replicas would
    start at once there; what is not in it is not known, and believed to be enough.
    """

    name: str
    healthy: bool = True
    refused_until: float | None = None
    reason: str | None = None
    free: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Submit one replica; `replaces` is the one that it succeeds."""

    profile: str
    cluster: str
    reason: str
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Give no more requests to this replica; those that it has go on."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this replica: it has no request, or never had one."""

    replica: str
    reason: str


Action = Start | Leave | Stop

"""The replicas of the endpoint: rows of the state joined with what is seen of their sessions. Plain data.

A replica's id is what its row has as `session`: the session's id, or the beginning of it where a launcher far away
makes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from launcher.fleet.scene import LEAVING, LOST, READY, STARTING, Seen
from launcher.fleet.sight import Sighted
from launcher.fleet.store import LEAVING as ROW_LEAVING
from launcher.fleet.store import Replica
from launcher.sessions import status as of
from launcher.sessions.status import Status

_PROBED_S = 10.0  # so soon after it was ready a session was used by nobody but itself
_SILENT = "no-beat"  # its files are old, which says nothing of what it answers


@dataclass(frozen=True, slots=True)
class Member:
    """One living row, and its session where that was found."""

    row: Replica
    sighted: Sighted | None

    @property
    def id(self) -> str:
        """What it is called in decisions, and its lane."""
        return self.row.session or f"{self.row.model}+{self.row.slot}"

    @property
    def leaving(self) -> bool:
        """Whether it takes no more requests."""
        return self.row.state == ROW_LEAVING

    @property
    def ended(self) -> Status | None:
        """Its last status, once it is over for good; None while it lives, or may run again."""
        status = self.sighted.status if self.sighted is not None else None
        return status if status is not None and status.ended and status.final else None

    @property
    def answering(self) -> bool:
        """Whether requests can go there."""
        return self.sighted is not None and answering(self.sighted)

    @property
    def used_at(self) -> float:
        """When somebody last used the session, by whatever way, as it says itself; 0: not since it was ready."""
        status = self.sighted.status if self.sighted is not None else None
        if (
            status is None
            or status.idle is None
            or status.idle.since <= (_ready_at(status) or 0.0) + _PROBED_S
        ):
            return 0.0
        return status.idle.since

    def seen(self, in_flight: int, used_at: float) -> Seen:
        """As the rules want it."""
        status = self.sighted.status if self.sighted is not None else None
        ready_at = _ready_at(status) if self.answering or self.leaving else None
        return Seen(
            id=self.id,
            cluster=self.row.cluster,
            profile=self.row.profile,
            state=self._state(),
            submitted_at=self.row.claimed_at,
            ready_at=ready_at,
            ends_at=_ends_at(self.sighted),
            in_flight=in_flight,
            last_used_at=used_at,
            began_at=_began_at(status),
            replaces=self.row.replaces,
        )

    def _state(self) -> str:
        if self.leaving:
            return LEAVING
        if self.answering:
            return READY
        # One that cleans up is no different: its job may be one that Slurm has preempted, and which comes back.
        lost = self.sighted is not None and self.sighted.status.state in (of.READY, of.UNHEALTHY)
        return LOST if lost else STARTING


def joined(rows: Sequence[Replica], sighted: Mapping[str, Sighted]) -> list[Member]:
    """Each row with its session."""
    return [Member(row, found(row.session, sighted)) for row in rows]


def by_model(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Those of each model, in their order."""
    grouped: dict[str, list[Member]] = {}
    for member in members:
        grouped.setdefault(member.row.model, []).append(member)
    return grouped


def found(session: str | None, sighted: Mapping[str, Sighted]) -> Sighted | None:
    """The session with this id, or the one whose id begins with it."""
    if session is None:
        return None
    exact = sighted.get(session)
    if exact is not None:
        return exact
    return next((one for name, one in sighted.items() if name.startswith(f"{session}-")), None)


def answering(sighted: Sighted) -> bool:
    """Whether requests can go to the session: it is ready, and there is a way to it."""
    status = sighted.status
    well = status.state == of.READY or (status.state == of.UNHEALTHY and status.reason == _SILENT)
    return well and sighted.address is not None and sighted.connection is not None


def _began_at(status: Status | None) -> float | None:
    if status is None or status.state == of.PENDING:
        return None
    return status.phases[0].started_at if status.phases else status.since


def _ready_at(status: Status | None) -> float | None:
    if status is None:
        return None
    if status.phases:
        return status.phases[-1].started_at + status.phases[-1].elapsed_s
    return status.since


def _ends_at(sighted: Sighted | None) -> float | None:
    if sighted is None:
        return None
    if sighted.status.ends_at is not None:
        return sighted.status.ends_at
    return sighted.connection.ends_at if sighted.connection is not None else None

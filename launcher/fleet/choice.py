"""Which replica gets the next request. Pure: lanes in, a lane out; the front counts on them, the fleet makes them.

Owns the rule: the one with the fewest requests running is chosen, so that one that stalls gets no more; among those
that keep up, each gets requests in proportion to its measured speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.gateway.place import Place

_NEWEST = 0.1  # what the last answer counts for in the measured speed
_UNEQUAL = 32.0  # no lane counts as slower than the fastest by more
_REMEMBERED = 64  # requests for each lane, after which older ones count half


@dataclass(slots=True, eq=False)
class Lane:
    """A replica as the front sees it; one object for the whole life of the replica.

    `served` is the model's name there, `speed` in tokens a second for one request (None: not measured yet), `leaving`
    says that it takes no new requests, `used_at` is the wall clock's time of its last request. `given` counts its
    requests, the older ones less; below zero: none yet. `private`: its owner launched it by hand, for own requests.
    """

    replica: str
    place: Place
    served: str = ""
    cluster: str = ""
    in_flight: int = 0
    speed: float | None = None
    leaving: bool = False
    used_at: float = 0.0
    given: float = -1.0
    private: bool = False

    def open_to(self, own: bool) -> bool:
        """Whether requests with a key that is its owner's `own`, or is not, may go there."""
        return own or not self.private

    def measured(self, tokens: float, seconds: float) -> None:
        """An answer of so many tokens took so long."""
        if tokens > 0 and seconds > 0:
            now = tokens / seconds
            self.speed = now if self.speed is None else self.speed + _NEWEST * (now - self.speed)


def pick(lanes: Sequence[Lane]) -> Lane | None:
    """The lane for the next request, which counts as given; never a leaving one."""
    open_lanes = [lane for lane in lanes if not lane.leaving]
    if len(open_lanes) < 2:
        return open_lanes[0] if open_lanes else None
    known = [lane.speed for lane in open_lanes if lane.speed]
    usual = sum(known) / len(known) if known else 1.0
    # One that was slow once must be asked now and then, or nobody would see that it no longer is.
    least = max(known, default=0.0) / _UNEQUAL
    speeds = [max(lane.speed or usual, least) for lane in open_lanes]
    # A new lane begins where the others are: else it would get all requests until it has as many.
    level = min(
        (lane.given / speed for lane, speed in zip(open_lanes, speeds, strict=True) if lane.given >= 0),
        default=0.0,
    )
    best, lowest = open_lanes[0], float("inf")
    for lane, speed in zip(open_lanes, speeds, strict=True):
        if lane.given < 0:
            lane.given = level * speed
        cost = (lane.in_flight + 1) * (lane.given + 1) / speed
        if cost < lowest:
            best, lowest = lane, cost
    best.given += 1
    if sum(lane.given for lane in open_lanes) > _REMEMBERED * len(open_lanes):
        for lane in open_lanes:
            lane.given /= 2
    return best

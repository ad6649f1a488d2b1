"""Where a session would start soonest: what is idle, and when Slurm itself would start a job of each profile.

Owns the questions and how the answers are said; which profiles a model fits is `launcher.models.fit`'s business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from launcher.errors import LauncherError, SchedulerError
from launcher.planning.limits import too_many_gpus, within
from launcher.planning.times import hours_by_default
from launcher.schedulers import Scheduler, scheduler
from launcher.schedulers.slurm import hardware
from launcher.schedulers.supply import Supply, supply
from launcher.sessions.plan import Resources
from launcher.settings.schema import Profile, Settings

# Each `sbatch --test-only` makes the controller plan a job: a few at a time, whatever the number of profiles.
_AT_ONCE = 4
_NOW_S = 120.0  # a start so near is "now": the scheduler looks at its jobs every minute or so
_WORTH_S = 900.0  # nobody gives up hours of a session for less
_LEAST_H = 1 / 60
_SHORTER = (48.0, 24.0, 12.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)


@dataclass(frozen=True, slots=True)
class Start:
    """When a job of one profile would start; `hours` is what was asked about, times are Unix seconds.

    `starts_at` None: Slurm did not say, and `trouble` says why where that is known. `idle` is a sentence about what is
    free now, `shorter` the hours that would start clearly earlier, and when.
    """

    profile: str
    hours: float
    starts_at: float | None = None
    idle: str = ""
    trouble: str | None = None
    shorter: tuple[float, float] | None = None
    supply: Supply | None = None

    @property
    def now(self) -> bool:
        """Whether it would start at once."""
        return self.starts_at is not None and self.starts_at - time.time() <= _NOW_S

    @property
    def advice(self) -> str | None:
        """`4 h instead of 24 h would start now.`, where that is so."""
        if self.shorter is None:
            return None
        hours, at = self.shorter
        return f"{span(hours)} instead of {span(self.hours)} would start {when(at)}."

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {**asdict(self), "now": self.now, "advice": self.advice}


def soonest(
    settings: Settings,
    profiles: Sequence[Profile],
    hours: float | None = None,
    *,
    account: str | None = None,
    qos: str | None = None,
    shorter: bool = True,
    timeout_s: float = 15,
) -> list[Start]:
    """When a job of each of `profiles` would start, in their order; `hours` None: each profile's own.

    A changed copy of a profile (more GPUs, another partition) can be asked about. One `sinfo` and one `squeue` for
    each cluster, one `sbatch --test-only` for each profile, and with `shorter` up to two more where it would wait.
    Never raises for a cluster in trouble: the Start says it.
    """
    clusters = {profile.cluster: settings.clusters[profile.cluster] for profile in profiles}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = {
            name: pool.submit(supply, cluster, timeout_s=timeout_s)
            for name, cluster in clusters.items()
            if not cluster.remote
        }
        states = {name: _answer(future) for name, future in asked.items()}
        starts: list[Future[Start]] = []
        for profile in profiles:
            wanted_hours = hours if hours is not None else hours_by_default(profile, settings)
            if (cluster := clusters[profile.cluster]).remote:  # what the profile has is described there
                there = f"Its cluster knows: launcher --cluster {cluster.name} profiles"
                starts.append(pool.submit(Start, profile.name, wanted_hours, trouble=there))
                continue
            state = states[profile.cluster]
            given = within(profile, settings)
            trouble = None
            if given is None:
                trouble = too_many_gpus(profile.nodes * profile.gpus, settings).message
            elif wanted_hours > given.hours_max:
                trouble = f'Profile "{profile.name}" allows up to {span(given.hours_max)}.'
            elif isinstance(state, str):
                trouble = state
            if trouble is not None or isinstance(state, str):
                starts.append(pool.submit(Start, profile.name, wanted_hours, trouble=trouble))
                continue
            resources = _resources(profile, account, qos)
            mine = fitting(profile, state)
            begun = Start(profile.name, wanted_hours, idle=idle_sentence(profile, mine), supply=mine)
            where = scheduler(cluster.scheduler, cluster.ssh)
            starts.append(pool.submit(_start, begun, where, resources, shorter, timeout_s))
        return [start.result() for start in starts]


def fitting(profile: Profile, supplies: Sequence[Supply]) -> Supply | None:
    """The part of the supply that a job of `profile` would come from; None where the partition is unknown."""
    mine = [s for s in supplies if (s.partition == profile.partition if profile.partition else s.default)]
    if profile.gpus and profile.gpu_type:
        mine = [s for s in mine if (s.gpu_type or "").lower() == profile.gpu_type.lower()]
    elif profile.gpus:
        mine = [s for s in mine if s.gpus] or mine
    # Without a wish for a type any will do: the one with most to give.
    return max(mine, key=lambda s: (s.gpus_idle_node, s.gpus_idle, s.cpus_idle), default=None)


def idle_sentence(profile: Profile, found: Supply | None) -> str:
    """`3 of 8 a100 GPUs are idle, at most 2 on one node; 4 jobs wait.`"""
    if found is None:
        return "Slurm knows no such partition or GPU."
    if not found.available:
        return "The partition is closed or has no node in service."
    waiting = f"; {found.pending} job{'s wait' if found.pending > 1 else ' waits'}" if found.pending else ""
    if not profile.gpus:
        return f"{_part(found.cpus_idle, found.cpus, 'core')} idle{waiting}."
    kind = f"{found.gpu_type} GPU" if found.gpu_type else "GPU"
    spread = f", at most {found.gpus_idle_node} on one node" if found.gpus_idle > found.gpus_idle_node else ""
    return f"{_part(found.gpus_idle, found.gpus, kind)} idle{spread}{waiting}."


def idle_words(profile: Profile, found: Supply) -> str:
    """`3 of 8 GPUs`, `12 of 64 cores` or `closed`: what of `found` is idle, where there is room for no more."""
    if not found.available:
        return "closed"
    if profile.gpus:
        return f"{found.gpus_idle} of {found.gpus} GPUs"
    return f"{found.cpus_idle} of {found.cpus} cores"


def span(hours: float) -> str:
    """`4 h`, `15 min`."""
    return f"{hours:g} h" if hours >= 1 else f"{hours * 60:.0f} min"


def when(at: float, now: float | None = None) -> str:
    """`now`, `in 25 min`, `today at 18:40`, `on Tue 24 Nov at 09:00`: how one says a time to a person."""
    now = time.time() if now is None else now
    if at - now <= _NOW_S:
        return "now"
    if at - now < 3600:
        return f"in {round((at - now) / 60)} min"
    day, clock = time.localtime(at), time.strftime("%H:%M", time.localtime(at))
    if day[:3] == time.localtime(now)[:3]:
        return f"today at {clock}"
    return f"on {time.strftime('%a', day)} {day.tm_mday} {time.strftime('%b', day)} at {clock}"


def _start(begun: Start, where: Scheduler, resources: Resources, shorter: bool, timeout_s: float) -> Start:
    part = begun.supply
    if part is not None and part.hours_max is not None and begun.hours > part.hours_max + _LEAST_H:
        # sbatch takes such a job where EnforcePartLimits is off, and Slurm never starts it.
        most = span(part.hours_max)
        return replace(
            begun, trouble=f"Partition {part.partition} allows up to {most}, not {span(begun.hours)}."
        )

    def starts_at(hours: float) -> float | None:
        options = [*hardware(resources, hours), *resources.sbatch_args]
        return where.expected_start(options, timeout_s=timeout_s)

    try:
        at = starts_at(begun.hours)
    except SchedulerError as error:
        return replace(begun, trouble=str(error))
    if at is None:
        return replace(begun, trouble="Slurm does not say when it would start.")
    begun = replace(begun, starts_at=at)
    if begun.now:
        return begun
    if begun.supply is not None and begun.supply.pending and (hours := _gap_hours(resources, begun.supply)):
        return _in_gap(begun, hours, starts_at, shorter)
    return _before_reservation(begun, at, starts_at) if shorter else begun


def _in_gap(
    begun: Start, gap_hours: float, starts_at: Callable[[float], float | None], shorter: bool
) -> Start:
    # For each job in line `--test-only` adds its share of the partition's time, whatever is idle (Slurm's
    # job_scheduler.c, _delayed_job_start_time), and so never sees that backfill would start a short job in a gap.
    # Whether anything else than the line is in the way shows in the difference to the shortest job there is.
    hours = begun.hours if gap_hours >= begun.hours else _next_below(gap_hours)
    if hours is None or (hours < begun.hours and not shorter):
        return begun
    try:
        at = begun.starts_at if hours == begun.hours else starts_at(hours)
        least = starts_at(_LEAST_H)
    except SchedulerError:  # the answer to the main question stands
        return begun
    if at is None or least is None or at - least >= _WORTH_S:
        return begun
    now = time.time()
    return replace(begun, starts_at=now) if hours == begun.hours else replace(begun, shorter=(hours, now))


def _before_reservation(begun: Start, at: float, starts_at: Callable[[float], float | None]) -> Start:
    found: tuple[float, float] | None = None
    guess = _next_below(begun.hours / 4)
    for _ in range(2):
        try:
            earlier = starts_at(guess) if guess is not None else None
        except SchedulerError:
            break
        if guess is not None and earlier is not None and at - earlier >= _WORTH_S:
            found = (guess, earlier)
            guess = _next_below(begun.hours / 2)  # more hours for the same gain?
        elif found is None and guess is not None:
            guess = _next_below(guess / 4)
    return replace(begun, shorter=found)


def _gap_hours(wanted: Resources, found: Supply) -> float:
    """For how many hours the idle part of the nodes is nobody's; 0 where it is too small or that is not known."""
    if wanted.constraint or wanted.reservation or wanted.sbatch_args:
        return 0  # which nodes would do is more than the supply tells
    ends = [
        room.until if room.until is not None else math.inf
        for room in found.room
        if room.gpus >= wanted.gpus
        and room.cpus >= (wanted.cpus or 1)
        and room.memory_gb >= (wanted.memory_gb or 0)
        for _ in range(min(room.nodes, wanted.nodes))
    ]
    if len(ends) < wanted.nodes:
        return 0
    # A minute for the scheduler to notice.
    return max(0.0, (sorted(ends, reverse=True)[wanted.nodes - 1] - time.time() - 60) / 3600)


def _next_below(hours: float) -> float | None:
    return next((h for h in _SHORTER if h <= hours), None)


def _resources(profile: Profile, account: str | None, qos: str | None) -> Resources:
    return Resources(
        profile=profile.name,
        nodes=profile.nodes,
        gpus=profile.gpus,
        gpu_type=profile.gpu_type,
        cpus=profile.cpus,
        memory_gb=profile.memory_gb,
        partition=profile.partition,
        account=account or profile.account,
        qos=qos or profile.qos,
        constraint=profile.constraint,
        reservation=profile.reservation,
        sbatch_args=profile.sbatch_args,
    )


def _answer(future: Future[list[Supply]]) -> list[Supply] | str:
    try:
        return future.result()
    except LauncherError as error:
        return str(error)


def _part(idle: int, of: int, kind: str) -> str:
    return f"{idle or 'None'} of {of} {kind}{'s' if of != 1 else ''} {'are' if idle > 1 else 'is'}"

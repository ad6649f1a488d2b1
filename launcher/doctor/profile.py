"""One profile of site.yml against what Slurm says of its partitions and nodes: all that is wrong with it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator

from launcher.doctor.checks import Check, fail, warn
from launcher.doctor.slurm import Known
from launcher.models.fit.gpus import gpus_of, sheet_gb
from launcher.planning.times import hours_words
from launcher.schedulers.nodes import Node
from launcher.schedulers.partitions import Partition
from launcher.settings.schema import Profile, Settings

# A figure is that of a card, or a typing error: no card has less than half of, or a fifth more than, its data sheet's.
_LEAST, _MOST = 0.5, 1.2


def check_profile(profile: Profile, there: Known, settings: Settings) -> list[Check]:
    """What of `profile` cannot work there, or should be looked at; nothing where all is well."""
    at = f"profiles.{profile.name}"
    partition, checks = _its_partition(at, profile, there)
    if partition is not None:
        members = [node for node in there.nodes if node.partition == partition.name]
        checks += _open(at, partition, members)
        checks += _hours(at, profile, partition, settings)
        checks += _Hardware(profile, partition, members, there).checks()
    return [*checks, *_rights(at, profile, partition, there), *_reservation(at, profile, there)]


def gpu_memory(profile: Profile) -> Iterator[Check]:
    """Whether it is known how large the GPUs are, and whether the figure can be right; needs no Slurm."""
    if not max(profile.gpus, profile.gpus_max or 0):
        return
    at, stated = f"profiles.{profile.name}.gpu_memory_gb", profile.gpu_memory_gb
    possible = gpus_of(dataclasses.replace(profile, gpu_memory_gb=None))
    sizes = sorted({sheet_gb(gpu) for gpu in possible})
    either = one_of([f"{size:g}" for size in sizes])
    if stated is None and not sizes:
        says = f'is not given, and "{profile.gpu_type or "GPU"}" does not tell it: whether a model fits is not known.'
        yield warn(at, says, "Write the data sheet's figure for one GPU, such as gpu_memory_gb: 80.")
    elif stated is None and len(sizes) > 1:
        says = f"is not given, and {profile.gpu_type} may have {either} GB: whether a model fits is not sure."
        yield warn(at, says, f"Write gpu_memory_gb: {either}; nvidia-smi shows which it is.")
    elif stated is not None and sizes and not any(_LEAST * s <= stated <= _MOST * s for s in sizes):
        says = f"is {stated:g}, but {profile.gpu_type} has {either} GB."
        fix = f"Write gpu_memory_gb: {either}. Is it a part of one (MIG)? Take the part's name for gpu_type."
        yield fail(at, says, fix)


def _its_partition(at: str, profile: Profile, there: Known) -> tuple[Partition | None, list[Check]]:
    if profile.partition is not None:
        if profile.partition in there.partitions:
            return there.partitions[profile.partition], []
        says = f'says "{profile.partition}", which Slurm does not have.'
        return None, [fail(f"{at}.partition", says, f"Its partitions: {listed(there.partitions)}.")]
    default = next((p for p in there.partitions.values() if p.default), None)
    if default is not None:
        return default, []
    fix = f"Add partition to {at}: {listed(there.partitions)}."
    return None, [fail(at, "names no partition, and Slurm has no default one.", fix)]


def _open(at: str, partition: Partition, members: list[Node]) -> Iterator[Check]:
    if not partition.up:
        fix = f"See scontrol show partition {partition.name}."
        yield warn(f"{at}.partition", f'"{partition.name}" is closed.', fix)
    elif not any(node.in_service for node in members):
        yield warn(f"{at}.partition", f'"{partition.name}" has no node in service.', "See sinfo -R for why.")


def _hours(at: str, profile: Profile, partition: Partition, settings: Settings) -> Iterator[Check]:
    most = partition.hours_max
    asked = min(settings.limits.hours or profile.hours_max, profile.hours_max)
    if most is None or asked <= most + 1e-6:
        return
    says = f"is {profile.hours_max:g}, more than the {hours_words(most)} of partition {partition.name}"
    both = f" and hours: {most:g}" if profile.hours is not None and profile.hours > most else ""
    fix = f"Write hours_max: {most:g}{both}."
    yield fail(f"{at}.hours_max", f"{says}: such a job would wait for ever.", fix)


class _Hardware:
    """GPUs, features, cores and memory; each finding leaves out what it is about, so that the next is its own."""

    def __init__(self, profile: Profile, partition: Partition, members: list[Node], there: Known) -> None:
        self._profile = profile
        self._at = f"profiles.{profile.name}"
        self._where = f"partition {partition.name}"
        self._members = members
        self._there = there
        self._fitting = members

    def checks(self) -> Iterator[Check]:
        if not self._members:
            return
        yield from self._gpus()
        yield from self._features()
        yield from self._sizes()
        if self._profile.nodes > len(self._fitting):
            says = f"is {self._profile.nodes}, but only {len(self._fitting)} such nodes are in {self._where}."
            yield fail(f"{self._at}.nodes", says, f"Write nodes: {len(self._fitting)}.")

    def _gpus(self) -> Iterator[Check]:
        profile, asked = self._profile, self._asked
        if not asked:
            return
        types = sorted({str(kind) for node in self._members for kind in node.gpus if kind})
        if not any(node.gpus for node in self._members):
            says = f"is {asked}, but {self._where} has no GPU."
            yield fail(f"{self._at}.gpus", says, "Take another partition.")
        elif profile.gpu_type and not any(profile.gpu_type in node.gpus for node in self._members):
            has = f"Its types: {', '.join(types)}." if types else "Its GPUs have no type: take gpu_type out."
            says = f'says "{profile.gpu_type}", which {self._where} does not have.'
            yield fail(f"{self._at}.gpu_type", says, has)
        else:
            self._fitting = [node for node in self._fitting if self._gpus_of(node)]

    def _features(self) -> Iterator[Check]:
        text = self._profile.constraint
        if text is None:
            return
        at = f"{self._at}.constraint"
        words = list(dict.fromkeys(re.findall(r"[^&|,()\[\]*!\s]+", re.sub(r"\*\d+", "", text))))
        features = {feature for node in self._members for feature in node.features}
        fix = f"Its features: {listed(features)}."
        every = {feature for node in self._there.nodes for feature in node.features}
        # Slurm takes an alternative that no node of the partition has, but none that it has never heard of.
        missing = [w for w in words if w not in (features if "|" not in text else every)]
        if missing:
            one = words == [text]
            says = "which no such node has" if one else f"but no such node has {one_of(missing)}"
            yield fail(at, f'says "{text}", {says}.', fix)
        elif re.fullmatch(r"[^|,()\[\]*!]+", text) or re.fullmatch(r"[^&,()\[\]*!]+", text):
            has = any if "|" in text else all
            found = [node for node in self._fitting if has(word in node.features for word in words)]
            if not found:
                amount = "any" if "|" in text else "all"
                yield fail(at, f'says "{text}", and no such node has {amount} of these.', fix)
            self._fitting = found or self._fitting

    def _sizes(self) -> Iterator[Check]:
        profile = self._profile
        wants: list[tuple[str, float, Callable[[Node], float], str]] = [
            ("gpus_max" if self._asked > profile.gpus else "gpus", self._asked, self._gpus_of, ""),
            ("cpus", profile.cpus or 0, lambda node: node.cpus, ""),
            ("memory_gb", profile.memory_gb or 0, lambda node: node.memory_mb / 1024, " GB"),
        ]
        for field, wanted, amount, unit in wants:
            largest = max(map(amount, self._fitting), default=0)
            found = [node for node in self._fitting if amount(node) >= wanted]
            if not found and largest:
                says = (
                    f"is {_figure(wanted)}{unit}, but no node of {self._where} that has the rest has more than "
                    f"{_figure(largest)}{unit}."
                )
                most = math.floor(largest) or math.floor(largest * 10) / 10
                yield fail(f"{self._at}.{field}", says, f"Write {field}: {most}.")
            self._fitting = found or self._fitting

    @property
    def _asked(self) -> int:
        return max(self._profile.gpus, self._profile.gpus_max or 0)

    def _gpus_of(self, node: Node) -> int:
        kind = self._profile.gpu_type
        return node.gpus.get(kind, 0) if kind else sum(node.gpus.values())


def _rights(at: str, profile: Profile, partition: Partition | None, there: Known) -> Iterator[Check]:
    for field, rule, values, all_of in (
        ("qos", "qos", [profile.qos, *profile.qos_choices], there.qos),
        ("account", "accounts", [profile.account, *profile.accounts], there.accounts),
    ):
        allowed = getattr(partition, rule, ())
        denied = getattr(partition, f"denied_{rule}", ())
        for value in dict.fromkeys(filter(None, values)):
            if all_of is not None and value not in all_of:
                says = f'says "{value}", which Slurm does not have.'
                yield fail(f"{at}.{field}", says, f"It has: {listed(all_of)}.")
            elif partition is not None and ((allowed and value not in allowed) or value in denied):
                says = f'says "{value}", which partition {partition.name} does not take.'
                fix = f"It takes: {listed(allowed)}." if allowed else "Take another one."
                yield fail(f"{at}.{field}", says, fix)


def _reservation(at: str, profile: Profile, there: Known) -> Iterator[Check]:
    if profile.reservation is None or there.reservations is None:
        return
    missing = [name for name in profile.reservation.split(",") if name not in there.reservations]
    if missing:
        says = f'says "{", ".join(missing)}", which Slurm does not have.'
        fix = f"Its reservations: {listed(there.reservations)}. Take it out when it is over."
        yield fail(f"{at}.reservation", says, fix)


def listed(names: Iterable[str]) -> str:
    """The names for a sentence, sorted, twelve at most."""
    found = sorted(names)
    return ", ".join(found[:12]) + (", …" if len(found) > 12 else "") if found else "none"


def one_of(words: list[str]) -> str:
    """`40, 64 or 80`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _figure(amount: float) -> str:
    return f"{amount:.1f}".removesuffix(".0")

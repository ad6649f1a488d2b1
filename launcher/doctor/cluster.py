"""The clusters and profiles of site.yml against what Slurm says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from launcher.doctor.checks import Check, fail, ok, warn
from launcher.errors import SchedulerError
from launcher.models.fit.gpus import gpus_of
from launcher.planning.soonest import soonest, span, when
from launcher.schedulers.nodes import Node, nodes
from launcher.schedulers.partitions import Partition, configuration, named, partitions
from launcher.settings.schema import Cluster, Profile, Settings


@dataclass(frozen=True, slots=True)
class Known:
    """All that one Slurm says of itself; `qos` and `accounts` None: there is no accounting to ask."""

    nodes: list[Node]
    partitions: dict[str, Partition]
    configuration: dict[str, str]
    qos: set[str] | None
    accounts: set[str] | None


def known(ssh: str | None) -> Known:
    """Ask Slurm for all of it; raises SchedulerError."""
    found = nodes(ssh)
    return Known(found, partitions(ssh), configuration(ssh), named("qos", ssh), named("account", ssh))


def check_clusters(settings: Settings) -> list[Check]:
    """Every cluster, and every profile on it, ending with Slurm's own word on a job of that profile."""
    checks: list[Check] = []
    for cluster in settings.clusters.values():
        mine = [p for p in settings.profiles.values() if p.cluster == cluster.name]
        at = f"clusters.{cluster.name}"
        if cluster.scheduler == "local":
            checks.append(ok(at, "is this machine, without a queue."))
            continue
        try:
            there = known(cluster.ssh)
        except SchedulerError as error:
            checks.append(fail(at, error.message, error.hint or "Look at what Slurm says."))
            continue
        checks.append(_cluster(at, cluster, there))
        if not mine:
            checks.append(warn(at, "has no profile.", "Describe one, or take the cluster out."))
        for profile in mine:
            found = check_profile(profile, there, settings)
            checks += found or [_word(profile, settings)]
    return checks


def check_profile(profile: Profile, there: Known, settings: Settings) -> list[Check]:
    """What of `profile` cannot work there; nothing where all is well."""
    at = f"profiles.{profile.name}"
    if profile.partition is None:
        partition = next((p for p in there.partitions.values() if p.default), None)
        if partition is None:
            fix = f"Add partition to {at}: {_list(there.partitions)}."
            return [fail(at, "names no partition, and Slurm has no default one.", fix)]

    elif profile.partition not in there.partitions:
        says = f'says "{profile.partition}", which Slurm does not have.'
        return [fail(f"{at}.partition", says, f"Its partitions: {_list(there.partitions)}.")]
    else:
        partition = there.partitions[profile.partition]
    members = [node for node in there.nodes if node.partition == partition.name]
    return [
        *_partition(at, partition, members),
        *_hours(at, profile, partition, settings),
        *_hardware(at, profile, partition, members),
        *_rights(at, profile, partition, there),
    ]


def _cluster(at: str, cluster: Cluster, there: Known) -> Check:
    count = len({node.name for node in there.nodes})
    serving = len({node.name for node in there.nodes if node.in_service})
    version = there.configuration.get("SLURM_VERSION", "")
    where = f" over ssh to {cluster.ssh}" if cluster.ssh else ""
    says = f"Slurm {version} answers{where}: {serving} of {count} nodes in service."
    if not serving:
        return fail(at, says, "See sinfo -R for why.")
    return ok(at, says)


def _partition(at: str, partition: Partition, members: list[Node]) -> Iterable[Check]:
    if not partition.up:
        yield warn(
            f"{at}.partition",
            f'"{partition.name}" is closed.',
            f"See scontrol show partition {partition.name}.",
        )
    elif not any(node.in_service for node in members):
        yield warn(f"{at}.partition", f'"{partition.name}" has no node in service.', "See sinfo -R for why.")


def _hours(at: str, profile: Profile, partition: Partition, settings: Settings) -> Iterable[Check]:
    most = partition.hours_max
    cap = settings.limits.hours
    asked = profile.hours_max if cap is None else min(cap, profile.hours_max)
    if most is not None and asked > most + 1e-6:
        yield fail(
            f"{at}.hours_max",
            f"is {asked:g}, more than the {most:g} of partition {partition.name}: such a job would wait for ever.",
            f"Write hours_max: {most:g}.",
        )


def _hardware(at: str, profile: Profile, partition: Partition, members: list[Node]) -> Iterable[Check]:
    gpus = max(profile.gpus, profile.gpus_max or 0)
    types = sorted({str(kind) for node in members for kind in node.gpus if kind})
    fitting, most = members, f"partition {partition.name}"
    if gpus and not any(node.gpus for node in members):
        yield fail(f"{at}.gpus", f"is {gpus}, but {most} has no GPU.", "Take another partition.")
        return
    if gpus and profile.gpu_type:
        fitting = [node for node in members if profile.gpu_type in node.gpus]
        if not fitting:
            has = f"Its types: {', '.join(types)}." if types else "Its GPUs have no type: take gpu_type out."
            yield fail(f"{at}.gpu_type", f'says "{profile.gpu_type}", which {most} does not have.', has)
            return
    features = (
        profile.constraint if profile.constraint and re.fullmatch(r"[\w.-]+", profile.constraint) else None
    )
    if features:
        fitting = [node for node in fitting if features in node.features]
        if not fitting:
            yield fail(
                f"{at}.constraint",
                f'says "{features}", which no such node has.',
                f"Its features: {_list({f for n in members for f in n.features})}.",
            )
            return

    def gpus_of_node(node: Node) -> int:
        return node.gpus.get(profile.gpu_type, 0) if profile.gpu_type else sum(node.gpus.values())

    wants: list[tuple[str, float, Callable[[Node], float], str]] = [
        ("gpus_max" if gpus > profile.gpus else "gpus", gpus, gpus_of_node, ""),
        ("cpus", profile.cpus or 0, lambda node: node.cpus, ""),
        ("memory_gb", profile.memory_gb or 0, lambda node: node.memory_mb / 1024, " GB"),
    ]
    for field, wanted, amount, unit in wants:
        largest = max(map(amount, fitting), default=0)
        fitting = [node for node in fitting if amount(node) >= wanted]
        if not fitting:
            says = f"is {wanted:g}{unit}, but no node of {most} that has the rest has more than {largest:g}{unit}."
            yield fail(f"{at}.{field}", says, f"Write {field}: {_floor(largest)}.")
            return
    if profile.nodes > len(fitting):
        says = f"is {profile.nodes}, but only {len(fitting)} such nodes are in {most}."
        yield fail(f"{at}.nodes", says, f"Write nodes: {len(fitting)}.")
    if gpus and not gpus_of(profile):
        says = f'is not given, and "{profile.gpu_type or "GPU"}" does not tell it: whether a model fits is not known.'
        yield warn(f"{at}.gpu_memory_gb", says, "Write what nvidia-smi shows for one GPU, in GB.")


def _rights(at: str, profile: Profile, partition: Partition, there: Known) -> Iterable[Check]:
    accounts = [profile.account, *profile.accounts]
    for field, values, all_of, allowed, denied in (
        ("qos", [profile.qos, *profile.qos_choices], there.qos, partition.qos, partition.denied_qos),
        ("account", accounts, there.accounts, partition.accounts, partition.denied_accounts),
    ):
        for value in dict.fromkeys(filter(None, values)):
            if all_of is not None and value not in all_of:
                yield fail(
                    f"{at}.{field}",
                    f'says "{value}", which Slurm does not have.',
                    f"It has: {_list(all_of)}.",
                )
            elif (allowed and value not in allowed) or value in denied:
                yield fail(
                    f"{at}.{field}",
                    f'says "{value}", which partition {partition.name} does not take.',
                    f"It takes: {_list(allowed)}." if allowed else "Take another one.",
                )


def _word(profile: Profile, settings: Settings) -> Check:
    at = f"profiles.{profile.name}"
    start = soonest(settings, [profile], shorter=False)[0]
    if start.trouble:
        return fail(at, start.trouble, "Compare the profile with a job of yours that Slurm takes.")
    if start.starts_at is None:
        return ok(at, "would be taken by Slurm.")
    return ok(at, f"would be taken by Slurm; {span(start.hours)} would start {when(start.starts_at)}.")


def _floor(size: float) -> str:
    return f"{int(size)}"


def _list(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:12]) + (", …" if len(found) > 12 else "") if found else "none"

"""A site.yml made from what Slurm says of itself, for somebody to read, correct and complete."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.doctor.portal import CLUSTERS, cluster_ids
from launcher.doctor.profile import one_of
from launcher.doctor.slurm import Known, known
from launcher.errors import SettingsError, StorageError
from launcher.models.fit.gpus import known_gpus, sheet_gb
from launcher.schedulers.nodes import Node
from launcher.schedulers.partitions import Partition
from launcher.settings.layers import mistakes_in
from launcher.settings.schema import GPU_TYPE, NAME, TOKEN

_HOURS_MAX = 24.0  # where a partition has no limit of its own
_CPU_PROFILE = 8  # cores of a session without a GPU
_HEAD = """\
# yaml-language-server: $schema=current/site.schema.json
# Proposed by `launcher doctor --write` from what Slurm says of itself. Read it before you use it:
# which partitions are meant for this, and what GPUs and nodes a session should get, only you know.
# docs/site.md explains every key; `launcher config check FILE` and `launcher doctor` look at the result.
"""
_TAIL = """
# Where vLLM comes from: doctor does not guess it. Take the "#" away and correct one of these.
#environments:
#  vllm:
#    kind: container
#    image: /apps/images/vllm-openai.sif
#  vllm-module:
#    kind: module
#    modules: [vllm]

# Folders with models, shared by all users.
#models:
#  folders: [/data/models]
"""


def propose(ssh: str | None = None, ondemand: Path = CLUSTERS) -> str:
    """The text of a site.yml that is right for the Slurm that answers here, or on the host `ssh`.

    Raises SchedulerError when none does.
    """
    text = proposal(known(ssh), _ids(ondemand), ssh)
    _check(text)
    return text


def write(text: str, file: Path) -> None:
    """Write `text` to `file`, which must not exist; raises StorageError."""
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError:
        raise StorageError(f"{file} is there already, and is left as it is.", "Name another file.") from None


def proposal(there: Known, ondemand: Sequence[str] = (), ssh: str | None = None) -> str:
    """The text, from what is known of one Slurm and the ids of OOD's clusters."""
    name = _name(there.configuration.get("ClusterName", "main"))
    lines = [_HEAD, "clusters:", f"  {name}:", "    scheduler: slurm"]
    if ssh:
        lines.append(f"    ssh: {_text(ssh)}")
    if ondemand and name not in ondemand:
        comment = "" if len(ondemand) == 1 else "  # those that are this Slurm"
        lines.append(f"    ondemand: [{', '.join(map(_text, ondemand))}]{comment}")
    profiles = dict(_profiles(there, name))
    if not profiles:
        raise SettingsError(
            "Slurm has no partition that a session could use.", "Open one, or write site.yml by hand."
        )
    lines += ["", "profiles:"]
    for profile, (comments, block) in profiles.items():
        lines += [*(f"  # {line}" for line in comments), f"  {profile}:", *(f"    {line}" for line in block)]
    return "\n".join(lines) + "\n" + _TAIL


def _profiles(there: Known, cluster: str) -> Iterable[tuple[str, tuple[list[str], list[str]]]]:
    kinds: dict[tuple[str, str | None, bool], list[Node]] = {}
    for node in there.nodes:
        partition = there.partitions.get(node.partition)
        if partition is None or not partition.up or partition.hidden:
            continue
        for gpu_type in node.gpus or (None,):
            if not re.fullmatch(TOKEN, node.partition) or not re.fullmatch(GPU_TYPE, gpu_type or "none"):
                continue  # no word that settings would take
            kinds.setdefault((node.partition, gpu_type, bool(node.gpus)), []).append(node)
    taken: set[str] = set()
    # The smallest hardware first: what `launcher` takes when nobody says.
    for (name, gpu_type, gpus), members in sorted(kinds.items(), key=lambda item: _order(there, *item[0])):
        mixed = sum(partition == name for partition, _, _ in kinds) > 1
        profile = _name(f"{name}-{gpu_type or ('gpu' if gpus else 'cpu')}" if mixed else name)
        while profile in taken:
            profile += "x"
        taken.add(profile)
        partition = there.partitions[name]
        # Before the profile: after its last key a comment would seem to be the next one's.
        comments = ["Jobs of this partition can lose their node to others."] if partition.preempted else []
        yield profile, (comments, _block(cluster, partition, gpu_type, gpus, members))


def _order(
    there: Known, name: str, gpu_type: str | None, gpus: bool
) -> tuple[bool, float, bool, bool, str, str]:
    partition, found = there.partitions[name], known_gpus(gpu_type) if gpu_type else ()
    size = found[0].memory_gb if found else 1e6
    return gpus, size, partition.preempted, not partition.default, name, gpu_type or ""


def _block(
    cluster: str, partition: Partition, gpu_type: str | None, gpus: bool, members: list[Node]
) -> list[str]:
    # What every node of the kind has: a request then fits on each of them.
    count = min(node.gpus.get(gpu_type, 0) for node in members)
    most = max(node.gpus.get(gpu_type, 0) for node in members)
    cpus, memory_mb = min(node.cpus for node in members), min(node.memory_mb for node in members)
    share = max(1, count)
    lines = [f"cluster: {_text(cluster)}", f"partition: {_text(partition.name)}"]
    if gpus:
        lines.append("gpus: 1")
        if most > 1:
            lines.append(f"gpus_max: {most}")
        if gpu_type is not None:
            lines.append(f"gpu_type: {_text(gpu_type)}")
        lines.append(_gpu_memory(gpu_type))
    lines.append(f"cpus: {max(1, cpus // share) if gpus else min(_CPU_PROFILE, cpus)}")
    part = memory_mb / 1024 / share if gpus else memory_mb / 1024 * min(_CPU_PROFILE, cpus) / max(1, cpus)
    if memory_mb >= 1024:
        lines.append(f"memory_gb: {max(1, math.floor(part))}")
    hours_max = partition.hours_max if partition.hours_max is not None else _HOURS_MAX
    lines.append(f"hours: {min(4.0, hours_max):g}")
    lines.append(
        f"hours_max: {hours_max:g}" + ("" if partition.hours_max is not None else "  # Slurm has no limit")
    )
    for key, values in (("accounts", partition.accounts), ("qos_choices", partition.qos)):
        if plain := [_text(value) for value in values if re.fullmatch(TOKEN, value)]:
            lines.append(f"{key}: [{', '.join(plain)}]")
    return lines


def _gpu_memory(gpu_type: str | None) -> str:
    sizes = sorted({sheet_gb(gpu) for gpu in known_gpus(gpu_type)}) if gpu_type else []
    if len(sizes) == 1:
        return f"gpu_memory_gb: {sizes[0]:g}"
    if sizes:
        either = one_of([f"{size:g}" for size in sizes])
        return f"#gpu_memory_gb: {sizes[-1]:g}   # {either}: nvidia-smi shows which; without it, what fits is not sure"
    return "#gpu_memory_gb: 80   # the data sheet's figure: without it nobody knows whether a model fits"


def _ids(folder: Path) -> list[str]:
    try:
        return cluster_ids(folder)
    except OSError:
        return []


def _name(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip("_.-")[:60] or "main"
    assert re.fullmatch(NAME, plain)
    # A name such as 17, no or 1e5 would be something else in YAML.
    return plain if re.match(r"[A-Za-z]", plain) and plain.lower() not in _WORDS else f"p-{plain}"


_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _text(value: str) -> str:
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value)


def _check(text: str) -> None:
    # What is proposed must at least be right by our own rules.
    handle, name = tempfile.mkstemp(suffix=".yml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        for mistake in mistakes_in(Path(name)):
            raise SettingsError(f"The proposal would be wrong: {mistake.message}", "Please report this.")
    finally:
        os.unlink(name)

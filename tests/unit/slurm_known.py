"""What a Slurm says of itself, made up: nodes, partitions, and all of it together."""

from __future__ import annotations

from typing import Any

from launcher.doctor.slurm import Known
from launcher.schedulers.nodes import Node
from launcher.schedulers.partitions import Partition


def node(name: str, partition: str, gpus: dict[str | None, int] | None = None, **changed: Any) -> Node:
    values: dict[str, Any] = {
        "name": name, "partition": partition, "default": False, "up": True, "in_service": True, "free": True,
        "state": "idle", "cpus": 64, "cpus_idle": 64, "memory_mb": 512 * 1024, "memory_idle_mb": 512 * 1024,
        "hours_max": None, "gpus": gpus or {},
    }  # fmt: skip
    return Node(**{**values, **changed})


def partition(name: str, **changed: Any) -> Partition:
    values: dict[str, Any] = {
        "name": name, "default": False, "up": True, "hidden": False, "hours_max": None, "preempted": False,
    }  # fmt: skip
    return Partition(**{**values, **changed})


def slurm(nodes: list[Node], *partitions: Partition, name: str = "main") -> Known:
    return Known(nodes, {p.name: p for p in partitions}, {"ClusterName": name}, {"normal"}, {"physics"})

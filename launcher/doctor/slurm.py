"""All that the doctor asks one Slurm about itself, asked once."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.schedulers.nodes import Node, nodes
from launcher.schedulers.partitions import Partition, configuration, named, partitions, reservations


@dataclass(frozen=True, slots=True)
class Known:
    """`qos` and `accounts` None: there is no accounting to ask; `reservations` None: Slurm did not say."""

    nodes: list[Node]
    partitions: dict[str, Partition]
    configuration: dict[str, str]
    qos: set[str] | None
    accounts: set[str] | None
    reservations: set[str] | None = None


def known(ssh: str | None) -> Known:
    """Ask Slurm for all of it, on the host `ssh` or here; raises SchedulerError."""
    return Known(
        nodes(ssh),
        partitions(ssh),
        configuration(ssh),
        named("qos", ssh),
        named("account", ssh),
        reservations(ssh),
    )

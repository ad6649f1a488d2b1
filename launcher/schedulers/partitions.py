"""What Slurm says of itself: its partitions and their rules, its name, its accounts and kinds of service."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.errors import SchedulerError
from launcher.schedulers.command import run
from launcher.schedulers.nodes import hours_of


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; an empty tuple allows all, `hours_max` None is no limit. `preempted`: jobs may lose their node."""

    name: str
    default: bool
    up: bool
    hidden: bool
    hours_max: float | None
    preempted: bool
    accounts: tuple[str, ...] = ()
    denied_accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    denied_qos: tuple[str, ...] = ()


def partitions(ssh: str | None = None, *, timeout_s: float = 20) -> dict[str, Partition]:
    """All partitions by name, hidden ones too; raises SchedulerError."""
    argv = ["scontrol", "--all", "--oneliner", "show", "partition"]
    return {p.name: p for p in map(_partition, run(argv, ssh=ssh, timeout_s=timeout_s).splitlines()) if p}


def configuration(ssh: str | None = None, *, timeout_s: float = 20) -> dict[str, str]:
    """`scontrol show config` by name: ClusterName, SLURM_VERSION, AccountingStorageEnforce, …"""
    lines = run(["scontrol", "show", "config"], ssh=ssh, timeout_s=timeout_s).splitlines()
    return {
        name.strip(): value.strip()
        for name, equals, value in (line.partition("=") for line in lines)
        if equals
    }


def named(what: str, ssh: str | None = None, *, timeout_s: float = 20) -> set[str] | None:
    """The names of all of a kind (`qos` or `account`); None where there is no accounting to ask."""
    argv = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "list", what, "format=name"]
    if what == "account":
        argv[-1] = "format=account"
    try:
        return set(run(argv, ssh=ssh, timeout_s=timeout_s).split())
    except SchedulerError:
        return None


def reservations(ssh: str | None = None, *, timeout_s: float = 20) -> set[str] | None:
    """The names of all reservations that this user may see; None where Slurm does not say."""
    try:
        text = run(["scontrol", "--oneliner", "show", "reservation"], ssh=ssh, timeout_s=timeout_s)
    except SchedulerError:
        return None
    return set(re.findall(r"ReservationName=(\S+)", text))


def _partition(line: str) -> Partition | None:
    shown = dict(re.findall(r"\b(\w+)=(\S*)", line))
    if "PartitionName" not in shown:
        return None

    def some(name: str) -> tuple[str, ...]:
        value = shown.get(name, "ALL")
        return () if value in ("ALL", "N/A", "(null)", "") else tuple(value.split(","))

    return Partition(
        name=shown["PartitionName"],
        default=shown.get("Default") == "YES",
        up=shown.get("State") == "UP",
        hidden=shown.get("Hidden") == "YES" or shown.get("RootOnly") == "YES",
        hours_max=hours_of(shown.get("MaxTime", "")),
        preempted=shown.get("PreemptMode", "OFF") not in ("OFF", "N/A", ""),
        accounts=some("AllowAccounts"),
        denied_accounts=some("DenyAccounts") if "DenyAccounts" in shown else (),
        qos=some("AllowQos"),
        denied_qos=some("DenyQos") if "DenyQos" in shown else (),
    )

"""What Slurm's answers mean: GPUs by type, nodes that count, jobs in line; as many Slurms write them."""

from __future__ import annotations

import time

import pytest

from launcher.planning.soonest import Start, fitting, idle_sentence, span, when
from launcher.schedulers.local import gpu_word
from launcher.schedulers.nodes import Node, gres_gpus, hours_of, names_in, read_nodes
from launcher.schedulers.supply import Supply, group, read_waiting
from launcher.settings.schema import Profile

WIDTHS = (80, 10, 80, 24, 256, 256, 40, 16, 16, 20, 256)


def line(*fields: str) -> str:
    """One line as sinfo pads it."""
    return "".join(field.ljust(width) for field, width in zip(fields, WIDTHS, strict=True))


def node(
    name: str = "g1",
    state: str = "idle",
    *,
    partition: str = "gpu",
    up: str = "up",
    gres: str = "gpu:a100:4",
    used: str = "gpu:a100:0(IDX:N/A)",
    cpus: str = "0/8/0/8",
) -> str:
    return line(
        partition, up, name, state, gres, used, cpus, "20480", "1024", "1-00:00:00", "ib,a100"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("(null)", {}),
        ("", {}),
        ("gpu:4", {None: 4}),
        ("gpu", {None: 1}),
        ("gpu:a100:4", {"a100": 4}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:a100:2(IDX:0,2)", {"a100": 2}),
        ("gpu:a100:2(IDX:0-1),gpu:v100:1(IDX:5)", {"a100": 2, "v100": 1}),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", {"a100": 4}),
        ("gpu:(null):3(IDX:0-2)", {None: 3}),
        ("gpu:a100:0(IDX:N/A)", {"a100": 0}),
        ("gpu:a100_1g.10gb:7,gpu:a100_3g.40gb:2(S:0)", {"a100_1g.10gb": 7, "a100_3g.40gb": 2}),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),nic:mlx5:2,shard:64(S:0-1)", {"nvidia_h100_80gb_hbm3": 8}),
        ("craynetwork:4,gpu:gh200:4,mps:400", {"gh200": 4}),
        ("gpu:tesla:no_consume:2", {"tesla": 2}),
        ("lscratch:800", {}),
        ("gpu:rtx-6000:2", {"rtx-6000": 2}),
    ],
)
def test_gpus_of_a_gres(text: str, gpus: dict[str | None, int]) -> None:
    assert gres_gpus(text) == gpus


@pytest.mark.parametrize(
    ("state", "in_service", "free"),
    [
        ("idle", True, True),
        ("mixed", True, True),
        ("allocated", True, False),
        ("completing", True, False),
        ("idle~", True, True),  # asleep: Slurm wakes it for a job
        ("idle#", True, True),
        ("idle-", True, True),
        ("mixed-", True, True),
        ("planned", True, True),
        ("reserved", True, False),
        ("idle*", False, False),
        ("idle$", False, False),
        ("mixed$", False, False),
        ("idle%", False, False),
        ("mixed@", False, False),
        ("down", False, False),
        ("down*", False, False),
        ("drained", False, False),
        ("drained*", False, False),
        ("draining", False, False),
        ("draining@", False, False),
        ("maint", False, False),
        ("fail", False, False),
        ("failing", False, False),
        ("error", False, False),
        ("future", False, False),
        ("unknown", False, False),
        ("powered_down", False, False),
        ("power_down", False, False),
        ("blocked", False, False),
        ("inval", False, False),
    ],
)
def test_which_nodes_count(state: str, in_service: bool, free: bool) -> None:
    (found,) = read_nodes(node(state=state))
    assert (found.in_service, found.free) == (in_service, free)


def test_a_node_as_sinfo_writes_it() -> None:
    """Blackfish 8: the text of sinfo, which every Slurm writes."""
    (found,) = read_nodes(node(used="gpu:a100:1(IDX:3)", cpus="2/5/1/8"))
    assert found == Node(
        name="g1", partition="gpu", default=False, up=True, in_service=True, free=True, state="idle", cpus=8,
        cpus_idle=5, memory_mb=20480, memory_idle_mb=19456, hours_max=24, gpus={"a100": 4}, gpus_used={"a100": 1},
        features=("ib", "a100"),
    )  # fmt: skip
    assert found.gpus_idle("a100") == 3
    assert found.gpus_idle("v100") == 0


def test_lines_that_make_no_sense_are_passed_over() -> None:
    text = "\n".join(
        ["slurm_load_partitions: hello", "", node(), node("", "n/a", cpus="0/0/0/0"), "\x00" * 700]
    )
    assert [found.name for found in read_nodes(text)] == ["g1"]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("infinite", None), ("UNLIMITED", None), ("n/a", None), ("", None), ("1:00:00", 1), ("2-00:00:00", 48),
        ("30:00", 0.5), ("1-12:30:00", 36.5), ("60", 1), ("7-0:0:0", 168),
    ],
)  # fmt: skip
def test_time_limits(text: str, hours: float | None) -> None:
    assert hours_of(text) == hours


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("g1", ["g1"]), ("g[1-3]", ["g1", "g2", "g3"]), ("g[08-10],c1", ["g08", "g09", "g10", "c1"]),
        ("g[1,3-4]", ["g1", "g3", "g4"]), ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]), ("a-b-1", ["a-b-1"]),
        ("", []), ("g[x]", ["gx"]),
    ],
)  # fmt: skip
def test_names_of_many_nodes(hosts: str, names: list[str]) -> None:
    assert names_in(hosts) == names


def test_the_supply_of_a_mixed_partition() -> None:
    text = "\n".join([
        node("g1", "mixed", used="gpu:a100:3(IDX:0-2)", cpus="6/2/0/8"),
        node("g2"),
        node("g3", "drained"),
        node("v1", gres="gpu:v100:2", used="gpu:v100:0"),
        node("c1", gres="(null)", used="(null)"),
        node("g2", partition="all*"),
    ])  # fmt: skip
    by_kind = {(s.partition, s.gpu_type): s for s in group(read_nodes(text), [])}
    assert list(by_kind) == [("all", "a100"), ("gpu", None), ("gpu", "a100"), ("gpu", "v100")]
    a100 = by_kind["gpu", "a100"]
    assert (a100.gpus, a100.gpus_idle, a100.gpus_idle_node, a100.nodes, a100.nodes_idle) == (8, 5, 4, 2, 1)
    assert (by_kind["gpu", None].gpus, by_kind["gpu", None].cpus_idle) == (0, 8)
    assert by_kind["all", "a100"].default
    assert (
        idle_sentence(Profile("p", "c", gpus=1), a100) == "5 of 8 a100 GPUs are idle, at most 4 on one node."
    )


def test_who_waits_for_hardware() -> None:
    at = int(time.time()) + 3600
    waiting = read_waiting(
        f"gpu|{at}|g[1-2]|Resources\ngpu,all|N/A|(null)|Priority\ngpu|N/A||Dependency\ngpu|N/A||JobHeldUser\n"
        "gpu|N/A||QOSMaxGRESPerUser\ngpu|N/A||BeginTime\nrubbish\n"
        "gpu|N/A||ReqNodeNotAvail, UnavailableNodes:g[3|4]\n"
    )
    (supply,) = group(read_nodes(f"{node('g1')}\n{node('g3')}"), waiting)
    assert supply.pending == 3
    assert supply.reasons["JobHeldUser"] == 1
    # Backfill has given g1 away from then on; g3 is nobody's.
    assert {room.until: room.nodes for room in supply.room} == {at: 1, None: 1}
    assert idle_sentence(Profile("p", "c", gpus=1), supply).endswith("; 3 jobs wait.")


def test_which_supply_a_profile_draws_on() -> None:
    def part(partition: str, gpu_type: str | None, gpus: int, *, default: bool = False) -> Supply:
        return Supply(partition, gpu_type, gpus, gpus, gpus, 1, 1, 8, 8, 0, True, None, default=default)

    parts = [
        part("gpu", "a100", 4),
        part("gpu", "h100", 8),
        part("gpu", None, 0),
        part("std", None, 0, default=True),
    ]
    assert fitting(Profile("p", "c", partition="gpu", gpus=1, gpu_type="A100"), parts) == parts[0]
    assert fitting(Profile("p", "c", partition="gpu", gpus=1), parts) == parts[1]
    assert fitting(Profile("p", "c"), parts) == parts[3]
    assert fitting(Profile("p", "c", partition="gup", gpus=1), parts) is None
    assert fitting(Profile("p", "c", partition="gpu", gpus=1, gpu_type="l40s"), parts) is None


def test_how_a_start_is_said() -> None:
    now = time.mktime((2026, 11, 21, 10, 0, 0, 0, 0, -1))
    assert when(now - 5, now) == "now"
    assert when(now + 90, now) == "now"
    assert when(now + 25 * 60, now) == "in 25 min"
    assert when(now + 3 * 3600, now) == "today at 13:00"
    assert when(now + 24 * 3600, now) == "on Sun 22 Nov at 10:00"
    assert (span(4), span(1.5), span(0.25)) == ("4 h", "1.5 h", "15 min")
    soon = time.time()
    start = Start("gpu", 24, soon + 9e4, shorter=(4, soon))
    assert start.advice == "4 h instead of 24 h would start now."
    assert (start.now, Start("gpu", 4, soon).now, Start("gpu", 4).advice) == (False, True, None)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100"), ("Tesla V100-PCIE-16GB", "v100"), ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 3090", "rtx3090"), ("", None),
    ],
)  # fmt: skip
def test_one_word_for_a_gpu(name: str, word: str | None) -> None:
    assert gpu_word(name) == word

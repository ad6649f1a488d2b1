"""What the doctor says of a profile: all that is wrong with it at once, each with what to write instead."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from launcher.doctor.checks import FAIL, WARN
from launcher.doctor.profile import check_profile, gpu_memory
from launcher.settings.layers import load
from launcher.settings.schema import Profile
from tests.unit.slurm_known import node, partition, slurm

SETTINGS = load({"LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull})


def test_rules_of_a_partition() -> None:
    there = slurm(
        [node("g1", "gpu", {None: 2})],
        partition("gpu", accounts=("physics",), denied_qos=("normal",)),
        partition("shut", up=False),
        partition("empty"),
    )

    def said(profile: Profile) -> list[tuple[str, str]]:
        return [(check.verdict, check.about) for check in check_profile(profile, there, SETTINGS)]

    assert said(Profile("p", "main", partition="gpu", gpus=1, gpu_memory_gb=40, account="physics")) == []
    assert said(Profile("p", "main", partition="gpu", account="art")) == [(FAIL, "profiles.p.account")]
    assert said(Profile("p", "main", partition="gpu", qos="normal")) == [(FAIL, "profiles.p.qos")]
    assert said(Profile("p", "main")) == [(FAIL, "profiles.p")]  # there is no default partition
    assert said(Profile("p", "main", partition="empty"))[0] == (WARN, "profiles.p.partition")
    assert said(Profile("p", "main", partition="shut"))[0] == (WARN, "profiles.p.partition")
    (check,) = check_profile(Profile("p", "main", partition="gpu", gpus=1, gpu_type="a100"), there, SETTINGS)
    assert check.fix == "Its GPUs have no type: take gpu_type out."


def test_all_that_is_wrong_at_once() -> None:
    there = slurm(
        [node("g1", "gpu", {"a100": 4}, cpus=8, memory_mb=20_000, features=("ib",))],
        partition("gpu", default=True, hours_max=1.0),
    )
    profile = Profile(
        "p", "main", gpus=8, gpu_type="v100", cpus=64, memory_gb=512, nodes=2, constraint="ib&new", hours=4,
        hours_max=48, account="art", qos="fast", reservation="gone",
    )  # fmt: skip
    there = replace(there, reservations={"course"})
    found = {
        check.about.removeprefix("profiles.p."): check for check in check_profile(profile, there, SETTINGS)
    }
    assert {check.verdict for check in found.values()} == {FAIL}
    assert {about: check.fix for about, check in found.items()} == {
        "hours_max": "Write hours_max: 1 and hours: 1.",
        "gpu_type": "Its types: a100.",
        "constraint": "Its features: ib.",
        "cpus": "Write cpus: 8.",
        "memory_gb": "Write memory_gb: 19.",
        "nodes": "Write nodes: 1.",
        "qos": "It has: normal.",
        "account": "It has: physics.",
        "reservation": "Its reservations: course. Take it out when it is over.",
    }
    assert found["hours_max"].says.startswith("is 48, more than the 1 hour of partition gpu: ")
    assert found["constraint"].says == 'says "ib&new", but no such node has new.'
    assert "more than 19.5 GB." in found["memory_gb"].says
    # A partition that is not there hides neither accounts nor reservations.
    profile = replace(profile, partition="gup")
    assert [check.about.rpartition(".")[2] for check in check_profile(profile, there, SETTINGS)] == [
        "partition",
        "qos",
        "account",
        "reservation",
    ]


def test_hours_are_quoted_as_the_file_has_them() -> None:
    there = slurm([node("c1", "std")], partition("std", default=True, hours_max=12.0))
    capped = replace(SETTINGS, limits=replace(SETTINGS.limits, hours=24.0))
    (check,) = check_profile(Profile("p", "main", hours_max=48.0), there, capped)
    assert check.says.startswith("is 48, more than the 12 hours of partition std")
    assert check.fix == "Write hours_max: 12."
    capped = replace(SETTINGS, limits=replace(SETTINGS.limits, hours=8.0))
    assert check_profile(Profile("p", "main", hours_max=48.0), there, capped) == []


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        ("ib", None),
        ("ib&a100", None),
        ("ib&fast", "and no such node has all of these."),
        ("fast|rack9", "but no such node has rack9."),
        ("far|fast", None),
        ("far|away", "and no such node has any of these."),
        ("[rack1*2&rack2*4]", None),
        ("[rack1|rack9]", "but no such node has rack9."),
        ("(ib|fast)&new", "but no such node has new."),
        ("new&newer", "but no such node has new or newer."),
        ("new", "which no such node has."),
    ],
)
def test_constraints_word_by_word(constraint: str, says: str | None) -> None:
    there = slurm(
        [
            node("c1", "std", features=("ib", "a100", "rack1")),
            node("c2", "std", features=("fast", "rack2")),
            node("x", "other", features=("far", "away")),
        ],
        partition("std", default=True),
    )
    found = check_profile(Profile("p", "main", constraint=constraint), there, SETTINGS)
    assert [check.says for check in found] == ([f'says "{constraint}", {says}'] if says else [])


@pytest.mark.parametrize(
    ("gpu_type", "stated", "verdict", "words"),
    [
        ("a100", None, WARN, "may have 40, 64 or 80 GB"),
        ("a100", 40, None, ""),
        ("a100", 81.92, None, ""),
        ("a100", 320, FAIL, "is 320, but a100 has 40, 64 or 80 GB"),
        ("a100", 8, FAIL, "is 8, but a100"),
        ("v100", 80, FAIL, "is 80, but v100 has 16 or 32 GB"),
        ("l40s", None, None, ""),
        ("l40s", 48, None, ""),
        ("nvidia_a100_80gb_pcie", None, None, ""),
        ("a100_3g.20gb", None, None, ""),
        ("new9000", None, WARN, "is not known"),
        ("new9000", 500, None, ""),
        (None, None, WARN, "is not known"),
    ],
)
def test_memory_of_a_gpu(gpu_type: str | None, stated: float | None, verdict: str | None, words: str) -> None:
    profile = Profile("p", "main", gpus=1, gpu_type=gpu_type, gpu_memory_gb=stated)
    found = list(gpu_memory(profile))
    assert [check.verdict for check in found] == ([verdict] if verdict else [])
    for check in found:
        assert words in check.says
        assert check.fix is not None
        assert "gpu_memory_gb: " in check.fix
    assert list(gpu_memory(replace(profile, gpus=0))) == []

"""A refusal of sbatch in plain words: the values of the request are in it, hostile ones do no harm."""

from __future__ import annotations

import dataclasses

import pytest

from launcher.api.refusals import explained
from launcher.errors import SchedulerError
from launcher.planning import Request, make_plan
from launcher.sessions.plan import Plan
from launcher.settings.layers import load
from tests.hostile import HOSTILE


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    wanted = dataclasses.replace(
        made.resources, account="physics", partition="gpu", qos="long", gpus=8, gpu_type="a100", memory_gb=512
    )
    return dataclasses.replace(made, resources=wanted, limits=dataclasses.replace(made.limits, hours=48))


def refusal(words: str) -> SchedulerError:
    return SchedulerError(f"sbatch refused: {words}")


@pytest.mark.parametrize(
    ("words", "reason", "message"),
    [
        (
            "Batch job submission failed: Invalid account or account/partition combination specified",
            "account",
            'Slurm refused the job: account "physics" does not exist, is not yours, or may not use partition "gpu".',
        ),
        (
            "QOSMaxWallDurationPerJobLimit sbatch: error: Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            "time",
            'Slurm refused the job: 48 hours are more than partition "gpu" or your QoS allows.',
        ),
        (
            "QOSMaxGRESPerUser sbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
            "gpus",
            "Slurm refused the job: 8 × a100 GPUs are more than your account or QoS may use.",
        ),
        (
            "AssocMaxCpuMinutesPerJobLimit sbatch: error: Job violates accounting/QOS policy",
            "policy",
            "Slurm refused the job: it breaks a rule of your account or QoS (AssocMaxCpuMinutesPerJobLimit).",
        ),
        (
            "Memory specification can not be satisfied sbatch: error: Batch job submission failed: Requested node "
            "configuration is not available",
            "memory",
            'Slurm refused the job: no node of partition "gpu" has 512 GB of memory to give.',
        ),
    ],
)
def test_a_refusal_names_what_was_asked_for(plan: Plan, words: str, reason: str, message: str) -> None:
    found = explained(refusal(words), [plan])
    assert (found.reason, found.message) == (reason, message)
    assert found.hint
    assert words.partition(" sbatch")[0] in (found.quote or "")


def test_what_is_not_known_comes_as_it_was(plan: Plan) -> None:
    error = refusal("lua: the moon is in the wrong phase")
    assert explained(error, [plan]) is error


def test_of_a_batch_all_values_are_named(plan: Plan) -> None:
    other = dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, partition="cpu"))
    found = explained(refusal("Invalid partition name specified"), [plan, other, plan])
    assert 'no partition "gpu" or "cpu".' in found.message


def test_what_nobody_named_is_not_made_up(plan: Plan) -> None:
    bare = dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, account=None, qos=None))
    assert (
        "QoS (none was named) does not exist"
        in explained(refusal("Invalid qos specification"), [bare]).message
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_of_slurm_and_of_the_user_stay_words(plan: Plan, text: str) -> None:
    wanted = dataclasses.replace(plan.resources, constraint=text)
    found = explained(
        refusal(f"{text} Invalid feature specification {text}"), [dataclasses.replace(plan, resources=wanted)]
    )
    assert found.reason == "constraint"
    assert found.message.isprintable()
    assert (found.quote or "").isprintable()
    assert len(found.quote or "") <= 300

"""What Slurm refuses is told in plain words, with the value it minds, the next step, and its own words below."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.site import Site
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

# More than the cluster has: what is refused then is Slurm's to say.
_MUCH = {
    "cluster": "test", "partition": "gpu", "gpus": 1, "gpus_max": 64, "gpu_type": "a100", "cpus": 1, "memory_gb": 1,
    "hours_max": 99,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "reason", "says", "hint"),
    [
        (["--partition", "nowhere"], "partition", 'there is no partition "nowhere"', "sinfo"),
        (["--constraint", "nosuch"], "constraint", 'no node has the features "nosuch"', "--constraint"),
        (["--reservation", "nosuch"], "reservation", 'reservation "nosuch" does not exist', "--reservation"),
        (["--gpu-type", "h9000"], "nodes", "1 × h9000 GPUs", "sinfo"),
        (["--gpus", "64"], "nodes", "64 × a100 GPUs", "Ask for less"),
        (["--memory-gb", "900"], "memory", "900 GB", "--memory-gb"),
    ],
)
def test_a_refusal_names_the_value_and_the_next_step(
    site: Site, users: People, options: list[str], reason: str, says: str, hint: str
) -> None:
    """vec-inf 14: a request that Slurm does not take is refused before anything is left behind."""
    profiles = yaml.safe_load(site.file.read_text())["profiles"]
    site.settle(profiles={**profiles, "much": _MUCH})
    asked = ["launch", "simulated", "--profile", "much", *options]
    answer = site.run(users.bob, *asked, "--json")
    assert answer.code == 5, answer
    error = json.loads(answer.text)["error"]
    assert (error["kind"], error["reason"]) == ("scheduler", reason), error
    assert error["message"].startswith("Slurm refused the job: ")
    assert says in error["message"]
    assert hint in error["hint"]
    assert "sbatch" in error["quote"]
    assert site.run(users.bob, "status", "--json").data == {"sessions": []}

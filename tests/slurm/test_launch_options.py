"""What `launcher launch` is given in vec-inf's words, as a real Slurm understands it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
# The rows of vec-inf's table, but for what has no value here.
ROWS = (
    "Slurm Job ID", "Job Name", "Resource Type", "Partition", "Time Limit", "Num Nodes", "GPUs/Node", "CPUs/Task",
    "Memory/Node", "Virtual Environment", "Working Directory", "Log Directory", "Inference Engine", "Engine arguments",
)  # fmt: skip


def test_slurm_is_asked_for_what_was_typed_and_the_script_does_it_again(
    site: Site, slurm: Cluster, users: People
) -> None:
    """vec-inf 1, 2: the same rows, and options that reach Slurm; vec-inf 13: the script alone starts it again."""
    alice = users.alice
    logs = alice.home / f"logs of {site.folder.name}"
    answer = site.run(
        alice, "launch", "simulated", "--partition", "gpu", "--resource-type", "a100", "--num-nodes", "1",
        "--gpus-per-node", "1", "--cpus-per-task", "1", "--mem-per-node", "512M", "--time", "00:30:00", "--nodelist",
        "g1,g2", "--exclude", "g1", "--work-dir", str(alice.home), "--log-dir", str(logs), "--profile", "gpu",
        "--tokens", "3",
    )  # fmt: skip
    # g1 is asked for and excluded: sbatch refuses that, and nothing is left.
    assert (answer.code, [*logs.glob("*")]) == (5, [])
    answer = site.run(
        alice, "launch", "simulated", "--profile", "gpu", "--mem-per-node", "512M", "--time", "00:30:00", "--exclude",
        "g1", "--work-dir", str(alice.home), "--log-dir", str(logs), "--tokens", "3",
    )  # fmt: skip
    assert answer.code == 0, answer
    missing = [row for row in ROWS if f"│ {row} " not in answer.text]
    assert missing == []
    (own,) = logs.iterdir()
    status = site.until(alice, own.name, "READY")
    job = slurm.job(status["job_id"])
    assert (job["ExcNodeList"], job["NodeList"], job["TimeLimit"]) == ("g1", "g2", "00:30:00")
    assert job["MinMemoryNode"] == "512M"
    first = site.key(status)
    assert site.run(alice, "stop", own.name).code == 0
    again = slurm.run_as(alice, ["sbatch", "--parsable", str(own / "job.sh")]).stdout.strip()
    slurm.wait_for(again, "RUNNING")
    status = site.until(alice, own.name, "READY")
    assert status["job_id"] == again
    assert site.key(status) != first
    assert slurm.job(again)["NodeList"] == "g2"
    assert site.run(alice, "stop", own.name).code == 0
    assert Path(own / "record.json").exists()


def test_a_required_account_comes_from_the_shell(site: Site, users: People) -> None:
    """vec-inf 12: required values from variables, refused with a sentence where nobody says them."""
    profile = {"cluster": "test", "partition": "gpu", "hours_max": 1, "account_required": True}
    site.settle(profiles={"gpu": profile})
    refused = site.run(users.alice, "launch", "simulated", "--dry-run")
    assert (refused.code, refused.text) == (2, "")
    assert 'Profile "gpu" needs an account to charge.' in refused.error
    answer = site.run(users.alice, "launch", "simulated", "--dry-run", VEC_INF_ACCOUNT="chem")
    assert "#SBATCH --account=chem" in answer.text.splitlines()

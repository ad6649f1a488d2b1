"""What users of three other systems do in a day, typed as they would type it, on a real Slurm."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
QUESTION = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}]}
OURS = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(base_url: str, key: str, route: str = "chat/completions") -> int:
    """The status of one request."""
    request = urllib.request.Request(f"{base_url}/{route}", json.dumps(QUESTION).encode())
    request.add_header("Authorization", f"Bearer {key}")
    request.add_header("Content-Type", "application/json")
    try:
        with OURS.open(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_day_with_vec_infs_words(site: Site, slurm: Cluster, users: People) -> None:
    """vec-inf 1, 3, 4, 6, 7, 8, 12: list, launch, status, metrics and shutdown, by the job's id."""
    alice = users.alice
    assert "simulated" in site.run(alice, "list").text
    assert site.run(alice, "list", "simulatde").code == 4
    config = site.run(alice, "list", "simulated", "--json-mode")
    assert config.data["model_name"] == "simulated"
    launched = site.run(
        alice, "launch", "simulated", "--partition", "gpu", "--gpus-per-node", "1", "--cpus-per-task", "2",
        "--mem-per-node", "2G", "--time", "00:30:00", "--json-mode", VEC_INF_WORK_DIR=str(alice.home),
    )  # fmt: skip
    assert launched.code == 0, launched
    session, job_id = launched.data["id"], launched.data["job_id"]
    job = slurm.job(job_id)
    assert (job["Partition"], job["TimeLimit"], job["MinMemoryNode"]) == ("gpu", "00:30:00", "2G")
    ready = site.until(alice, job_id, "READY")
    assert (ready["model_name"], ready["model_status"]) == ("simulated", "READY")
    assert json.loads((Path(ready["directory"]) / "session.json").read_text())["work_dir"] == str(alice.home)
    with (Path(ready["directory"]) / "engine.log").open("a") as log:
        log.write("ERROR: optional library 'errorlib' failed to load: out of memory checks are off\n")
    assert ask(ready["base_url"], site.key(ready)) == 200
    assert site.status(alice, job_id)["state"] == "READY"
    metrics = site.run(alice, "metrics", job_id, "--once").text
    for row in ("Prompt Throughput", "Requests Running", "Total Generation Tokens", "Successful Requests"):
        assert row in metrics
    assert "not reported" in metrics
    for _ in range(2):
        assert site.run(alice, "shutdown", job_id).code == 0
    assert site.status(alice, session)["model_status"] == "SHUTDOWN"


def test_a_day_with_blackfishs_words(site: Site, slurm: Cluster, users: People) -> None:
    """Blackfish 1, 2, 3, 13, 16, 17: run, ls, details, stop and rm; a key, the model's own name, the exact script."""
    alice = users.alice
    options = ("--partition", "cpu", "--time", "00:30:00", "--mem", "2", "--name", "orcas")
    dry = site.run(alice, "run", *options, "--dry-run", "text-generation", "simulated")
    assert dry.code == 0, dry
    needs("shellcheck", "shellcheck")
    for check in (["bash", "-n"], ["shellcheck", "-s", "bash", "-"]):
        subprocess.run(check, input=dry.text, text=True, check=True)
    started = site.run(alice, "run", *options, "text-generation", "simulated", "--", "--answer", "Orcas.")
    assert started.code == 0, started
    (one,) = site.run(alice, "ls", "--filters", "name=orcas", "--json").data["sessions"]
    ready = site.until(alice, one["id"], "READY")
    assert [
        s["id"] for s in site.run(alice, "ls", "--filters", "status=HEALTHY", "--json").data["sessions"]
    ] == [one["id"]]
    assert ready["served_name"] == "simulated"
    assert ask(ready["base_url"], site.key(ready)) == 200
    assert {ask(ready["base_url"], key) for key in ("", "sealsaretasty")} == {401}
    assert site.run(alice, "details", one["id"]).code == 0
    assert slurm.job(ready["job_id"])["TimeLimit"] == "00:30:00"
    assert site.run(alice, "rm", "--filters", f"id={one['id']}", "--yes").code == 0
    assert Path(ready["directory"]).exists(), "what runs is not removed"
    assert site.run(alice, "stop", one["id"]).code == 0
    assert site.run(alice, "rm", "--filters", f"id={one['id']}", "--yes").code == 0
    assert not Path(ready["directory"]).exists()


def test_a_day_with_dellas_ways(site: Site, users: People) -> None:
    """della 1, 2, 3, 5, 6, 8: one command to an address, overrides, presets, a tunnel, a true reason."""
    alice = users.alice
    usual = {"cluster": "test", "partition": "cpu", "cpus": 1, "memory_gb": 1, "hours_max": 1}
    site.settle(profiles={"cpu": usual, "pli": {**usual, "hours": 0.5}})
    launched = site.run(
        alice, "launch", "simulated", "profile=pli", "time=20", "--wait", "--", "--answer", "Bonjour"
    )
    assert launched.code == 0, launched
    assert "Base URL" in launched.text
    (one,) = site.run(alice, "ls", "--json").data["sessions"]
    assert one["profile"] == "pli"
    job = site.status(alice, one["id"])
    assert job["host"]
    printed = site.run(
        alice, "connect", one["id"], "--", "sh", "-c",
        'curl -sf --noproxy "*" -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" '
        '-d \'{"model": "simulated", "prompt": "Salut"}\' "$OPENAI_BASE_URL/completions"',
    )  # fmt: skip
    assert printed.code == 0, printed
    assert "Bonjour" in printed.text
    top = job["base_url"].removesuffix("/v1")
    routes = ("v1/chat/completions", "v1/models", "tokenize", "metrics", "invocations", "status")
    assert {ask(top, "token-abc123", route) for route in routes} == {401}
    assert site.run(alice, "stop", one["id"]).code == 0
    failed = site.run(
        alice,
        "launch",
        "simulated",
        "--wait",
        "--",
        "--fail-at",
        "start",
        "--fail-with",
        "CUDA out of memory",
    )
    assert failed.code == 7, failed
    assert "memory" in failed.error

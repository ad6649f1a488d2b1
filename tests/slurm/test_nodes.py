"""One model over two real nodes of Slurm: the engine's processes on both, one address, and nothing left on either."""

from __future__ import annotations

import json
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.programs.front import wait_until
from tests.site import SETTINGS, Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People
from tests.slurm.test_sessions import ask

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

SCAVENGE = {
    **SETTINGS["profiles"]["preempt"],
    "partition": "scavenge",
    "nodes": 2,
    "sbatch_args": ["--nodelist=g[1-2]"],
}
FAILING = ("--fail-at", "start", "--fail-rank", "1")
# A stand-in for vLLM whose first process finds its port taken in its first life.
STAND_IN = """#!/bin/bash
echo "stand-in vllm: $*"
uds=none name= share=()
for word; do
  [ "$previous" = --uds ] && uds=$word
  case $word in
  --served-model-name=*) name=${word#*=} ;;
  --nnodes=* | --node-rank=* | --master-*) share+=("$word") ;;
  esac
  previous=$word
done
if [ "$uds" != none ] && mkdir "$ONCE" 2>/dev/null; then
  echo "OSError: [Errno 98] Address already in use"
  exit 1
fi
exec "$LAUNCHER_PYTHON" -m launcher.engines.simulated.serve --uds "$uds" --served-name "$name" "${share[@]}"
"""


@pytest.fixture(scope="module")
def site(installed: Install, slurm: Cluster) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="stand-in-"))
    (folder / "bin").mkdir()
    (folder / "bin" / "vllm").write_text(STAND_IN)
    (folder / "bin" / "vllm").chmod(0o755)
    folder.chmod(0o777)
    variables = {"ONCE": str(folder / "once"), "LAUNCHER_PYTHON": str(installed.prefix / "venv/bin/python")}
    vllm = {"kind": "venv", "path": str(folder), "env": variables}
    profiles = {**SETTINGS["profiles"], "scavenge": SCAVENGE}
    made = Site(installed, slurm, profiles=profiles, environments={"vllm": vllm}, allow={"nodes": 2})
    yield made
    made.remove()
    shutil.rmtree(folder)


def launch(site: Site, users: People, *engine_args: str) -> str:
    return site.launch(users.alice, "simulated", "--profile", "gpu", "--num-nodes", "2", "--", *engine_args)


def second(status: dict[str, Any], life: int = 0) -> psutil.Process:
    """The engine's process on the second node, as its log tells."""
    log = Path(status["directory"]) / "engine-1.log"
    return psutil.Process(int(re.findall(r"rank 1 of 2, pid (\d+)", log.read_text())[life]))


def test_one_model_over_two_nodes_is_one_session(site: Site, users: People, slurm: Cluster) -> None:
    """vec-inf 14, della 10: `--num-nodes 2`, a process on each node, one address, and both end with the session."""
    session = launch(site, users)
    ready = site.until(users.alice, session, "READY", "FAILED")
    assert ready["state"] == "READY", ready
    assert slurm.job(ready["job_id"])["NodeList"] == "g[1-2]"
    assert "Simulated answer" in ask(site, ready)
    engine = second(ready)
    there = engine.environ()
    assert (there["SLURMD_NODENAME"], there["SLURM_STEP_NODELIST"]) == ("g2", "g2")
    assert there["CUDA_VISIBLE_DEVICES"] == "0"
    assert engine.uids().real == users.alice.uid
    key = site.key(ready)
    assert key not in " ".join([*there.values(), *engine.cmdline()])
    runtime = Path(engine.cwd())
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    for name in ("engine-1.log", "nodes.log"):
        log = Path(ready["directory"]) / name
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert key not in log.read_text()
    said = site.run(users.alice, "logs", session, "--of", "engine-1").text
    assert "rank 1 of 2" in said
    running = [psutil.Process(ready["pid"]), *psutil.Process(ready["pid"]).children(recursive=True), engine]
    stopped = site.run(users.alice, "stop", session, "--json").data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    _, left = psutil.wait_procs(running, timeout=20)
    assert left == []
    wait_until(lambda: not runtime.exists())


def test_a_process_that_dies_on_another_node_is_noticed_and_all_start_again(
    site: Site, users: People
) -> None:
    session = launch(site, users)
    ready = site.until(users.alice, session, "READY")
    second(ready).kill()
    wait_until(lambda: site.status(users.alice, session)["engine_restarts"])
    now = site.until(users.alice, session, "READY", "FAILED")
    assert "Simulated answer" in ask(site, now)
    assert now["base_url"] == ready["base_url"]
    assert second(now, 1).is_running()
    site.run(users.alice, "stop", session)
    wait_until((record := Path(ready["directory"]) / "record.json").exists)
    said = json.loads(record.read_text())
    # The first node's process ended too, and says only that it had lost the other.
    assert re.match(r"On g2 \(engine-1\.log\): .*\(signal SIGKILL\)", said["restarts"][0]["message"]), said
    assert said["hardware"]["nodes"] == ["g1", "g2"]


FAILURES = {
    "second-out-of-memory": (
        (*FAILING, "--fail-with", "torch.OutOfMemoryError: CUDA out of memory"),
        "out-of-memory", r"On g2 \(engine-1\.log\): The simulated engine stopped", "CUDA out of memory",
    ),
    "second": (
        (*FAILING, "--fail-code", "7"),
        "engine-exit", r"On g2 \(engine-1\.log\): .*exit code 7", "Simulated failure",
    ),
    "first": (("--fail-at", "start"), "engine-exit", r"^The simulated engine stopped", "Simulated failure"),
}  # fmt: skip


def test_why_it_failed_is_told_by_the_node_that_knows(site: Site, users: People) -> None:
    sessions = {name: launch(site, users, *arguments) for name, (arguments, *_) in FAILURES.items()}
    for name, (_, reason, says, quotes) in FAILURES.items():
        failed = site.until(users.alice, sessions[name], "FAILED", "READY", "SHUTDOWN")
        assert (failed["state"], failed["reason"]) == ("FAILED", reason), failed
        assert re.search(says, failed["message"]), failed
        assert quotes in failed["quote"]


def test_a_port_that_somebody_took_is_left_to_them(site: Site, users: People) -> None:
    session = site.launch(users.alice, "tiny-chat", "--profile", "gpu", "--nodes", "2")
    ready = site.until(users.alice, session, "READY", "FAILED")
    assert (ready["state"], ready["engine_restarts"]) == ("READY", 0), ready
    assert "Simulated answer" in ask(site, ready)
    logs = [(Path(ready["directory"]) / name).read_text() for name in ("engine.log", "engine-1.log")]
    assert "the port was taken meanwhile; started again with another" in logs[0]
    (first, again), last = (
        re.findall(r"--master-port=(\d+)", logs[0]),
        re.findall(r"--master-port=(\d+)", logs[1]),
    )
    assert first != again == last[-1]
    assert "--headless" in logs[1]
    site.run(users.alice, "stop", session)


def test_an_end_by_slurm_ends_both(site: Site, users: People, slurm: Cluster) -> None:
    """vec-inf 5: requeued, it is ready again on both; preempted, Slurm ends the step before the session itself."""
    session = site.launch(users.alice, "simulated", "--profile", "scavenge")
    ready = site.until(users.alice, session, "READY")
    slurm.scontrol("requeue", ready["job_id"])
    site.until(users.alice, session, "PENDING", timeout_s=60)
    again = site.until(users.alice, session, "READY", timeout_s=90)
    assert (again["job_id"], again["restarts"]) == (ready["job_id"], 1)
    engine = second(again)
    urgent = slurm.submit(users.alice, "sleep 60", "-p", "urgent", "-w", "g2", "--gpus=4", "-o", "/dev/null")
    ended = site.until(users.alice, session, "SHUTDOWN", "FAILED")
    assert (ended["state"], ended["reason"], ended["engine_restarts"]) == ("SHUTDOWN", "preempted", 0), ended
    psutil.wait_procs([engine], timeout=20)
    assert not engine.is_running()
    slurm.scancel(urgent)

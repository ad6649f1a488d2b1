"""One model over two real nodes of Slurm with real vLLM: the shipped model in two stages, one on each node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.site import Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.timeout(900)]

PAIR = {"cluster": "test", "partition": "gpu", "nodes": 2, "cpus": 2, "memory_gb": 6, "hours_max": 1}


@pytest.fixture(scope="module")
def site(installed: Install, slurm: Cluster) -> Iterator[Site]:
    vllm = {"vllm": {"kind": "venv", "path": str(installed.vllm())}}
    made = Site(installed, slurm, profiles={"pair": PAIR}, environments=vllm, allow={"nodes": 2})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def ready(site: Site, users: People) -> Iterator[dict[str, Any]]:
    session = site.launch(users.alice, "tiny-chat", "--max-model-len", "512")
    yield site.until(users.alice, session, "READY", "FAILED", timeout_s=600)
    site.run(users.alice, "stop", session, timeout_s=120)


def test_vllm_answers_from_two_nodes(site: Site, users: People, ready: dict[str, Any]) -> None:
    """vec-inf 14: half of the layers on each node, and every process ends with the session."""
    folder = Path(ready["directory"])
    first, second = ((folder / name).read_text() for name in ("engine.log", "engine-1.log"))
    assert ready["state"] == "READY", f"{ready['message']}\n{first[-4000:]}\n{second[-4000:]}"
    with openai.OpenAI(base_url=ready["base_url"], api_key=site.key(ready)) as client:
        answer = client.chat.completions.create(
            model="tiny-chat", messages=[{"role": "user", "content": "What is the capital of France?"}]
        )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert "rank 0 in world size 2 is assigned as DP rank 0, PP rank 0" in first
    assert "rank 1 in world size 2 is assigned as DP rank 0, PP rank 1" in second
    assert "headless multiproc executor" in second
    running = [psutil.Process(int(pid)) for pid in set(re.findall(r"pid=(\d+)", first + second))]
    # Those that have given themselves a name have written it over their environment.
    where = {process.environ().get("SLURMD_NODENAME") for process in running}
    assert where - {None} == {"g1", "g2"}
    stopped = site.run(users.alice, "stop", ready["id"], "--json", timeout_s=120).data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    _, left = psutil.wait_procs(running, timeout=30)
    assert left == []

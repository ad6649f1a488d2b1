"""The main job with nothing stood in for: real Slurm, an ordinary user, real vLLM, the shipped model."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.site import SETTINGS, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.timeout(900)]

PAIR = {"cluster": "test", "partition": "gpu", "nodes": 2, "cpus": 2, "memory_gb": 6, "hours_max": 1}


@pytest.fixture(scope="module")
def site(installed: Any, slurm: Cluster) -> Iterator[Site]:
    vllm = {"vllm": {"kind": "venv", "path": str(installed.vllm())}}
    profiles = {**SETTINGS["profiles"], "pair": PAIR}
    made = Site(installed, slurm, profiles=profiles, environments=vllm, allow={"nodes": 2})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def ready(site: Site, users: People) -> Iterator[dict[str, Any]]:
    session = site.launch(users.alice, "tiny-chat", "--profile", "cpu")
    yield site.until(users.alice, session, "READY", "FAILED", timeout_s=600)
    stopped = site.run(users.alice, "stop", session, "--json", timeout_s=120).data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")


def test_the_model_answers(site: Site, ready: dict[str, Any]) -> None:
    assert ready["state"] == "READY", ready
    assert [phase["name"] for phase in ready["phases"]][-1] == "probe"
    question: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "What is the capital of France?"}
    ]
    with openai.OpenAI(base_url=ready["base_url"], api_key=site.key(ready)) as client:
        assert [model.id for model in client.models.list()] == ["tiny-chat"]
        answer = client.chat.completions.create(model="tiny-chat", messages=question)
        assert "Paris" in (answer.choices[0].message.content or "")
        chunks = client.chat.completions.create(model="tiny-chat", messages=question, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "Paris" in "".join(pieces)
        assert len(pieces) > 3
        assert client.completions.create(model="tiny-chat", prompt="Hello", max_tokens=3).choices[0].text


def test_every_route_of_vllm_is_closed_without_the_key(ready: dict[str, Any]) -> None:
    """Those that the engine says it has; those of other models and settings: tests/integration/test_gateway_walk.py."""
    log = (Path(ready["directory"]) / "engine.log").read_text()
    routes = [
        (path, said.split(", ")) for path, said in re.findall(r"Route: (/\S*), Methods: ([A-Z, ]+)", log)
    ]
    assert len(routes) > 30
    assert {"/invocations", "/tokenize", "/metrics", "/v1/chat/completions"} <= {path for path, _ in routes}
    host, port = ready["base_url"].split("/")[2].split(":")
    for path, methods in routes:
        concrete = re.sub(r"\{[^}]*\}", "x", path)
        for method in methods:
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request(method, concrete)
            code = connection.getresponse().status
            connection.close()
            if concrete == "/health":
                assert code in (200, 401, 405), (method, path, code)
            else:
                assert code == 401, (method, path, code)


def test_no_prompt_and_no_key_is_in_a_file(site: Site, users: People, ready: dict[str, Any]) -> None:
    prompt = "a very private question 4711"
    key = site.key(ready)
    with openai.OpenAI(base_url=ready["base_url"], api_key=key, max_retries=0) as client:
        client.chat.completions.create(
            model="tiny-chat", messages=[{"role": "user", "content": prompt}], max_tokens=2
        )
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(
                model="tiny-chat",
                messages=[{"role": "user", "content": prompt}],
                extra_body={"max_tokens": -1},
            )
    visible = Path(ready["directory"]).glob("[!.]*")  # hidden is what becomes status.json in the next moment
    for path in visible:
        if path.name not in ("api_key", "connection.json"):
            text = path.read_text(errors="replace")
            assert key not in text, path
            assert "private question" not in text, path


def test_vllm_answers_from_two_nodes(site: Site, users: People, ready: dict[str, Any]) -> None:
    """vec-inf 14: half of the layers on each node, and every process ends with the session.

    Here, since it finds what the first start has learnt of the model in the same cache.
    """
    assert ready["state"] == "READY", ready
    session = site.launch(users.alice, "tiny-chat", "--profile", "pair")
    both = site.until(users.alice, session, "READY", "FAILED", timeout_s=600)
    folder = Path(both["directory"])
    first, second = ((folder / name).read_text() for name in ("engine.log", "engine-1.log"))
    assert both["state"] == "READY", f"{both['message']}\n{first[-4000:]}\n{second[-4000:]}"
    with openai.OpenAI(base_url=both["base_url"], api_key=site.key(both)) as client:
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
    stopped = site.run(users.alice, "stop", session, "--json", timeout_s=120).data
    assert (stopped["state"], stopped["reason"]) == ("SHUTDOWN", "user")
    _, left = psutil.wait_procs(running, timeout=30)
    assert left == []

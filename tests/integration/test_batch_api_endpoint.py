"""OpenAI's batches, and FIRST's, at an endpoint: whose models start when a batch asks for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from launcher.batch.batches import Place
from tests.integration.batching import begun, ended, entries, jsonl, line
from tests.programs.endpoint import Endpoint
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(180)
OFFERS: dict[str, Any] = {
    "sim": {"model": "simulated", "launch": {"engine_args": ["--tokens", "3000", "--first-token-ms", "0"]}},
    "secret": {"model": "simulated", "groups": ["few"]},
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with Endpoint(tmp_path_factory.mktemp("endpoint"), OFFERS, groups={"few": {"owners": ["zoe"]}}) as made:
        yield made


def client_of(endpoint: Endpoint, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{endpoint.port}/v1", api_key=key, max_retries=5)


def answered(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def test_a_batch_starts_its_model_and_outlives_its_gateway(endpoint: Endpoint) -> None:
    """FIRST 9: a batch for a cold model starts it once; the gateway is killed, the next one answers the rest, once."""
    lines = 350
    with client_of(endpoint, endpoint.key) as client:
        batch = begun(client, [line(f"line {n}", model="sim", max_tokens=20) for n in range(lines)])
        (folder,) = endpoint.folder.glob(f"endpoint/batches/batches/*/{batch.id}")
        place = Place(folder)
        wait_until(lambda: answered(place.output) > 50, 60)
        endpoint.kill()
        before = place.output.read_bytes()
        endpoint.start()
        done = ended(client, batch)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (lines, 0)
        output = client.files.content(done.output_file_id or "").read()
        found = [json.loads(one)["custom_id"] for one in output.splitlines()]
    assert sorted(found) == sorted(f"line {n}" for n in range(lines))
    assert before.count(b"\n") < lines
    assert output.startswith(before[: before.rfind(b"\n") + 1])
    assert len(endpoint.all_sessions()) == 1


def test_batches_are_their_owners_whatever_the_key(endpoint: Endpoint) -> None:
    keys = {
        name: endpoint.new_key(name, owner=owner)
        for name, owner in (("bob-1", "bob"), ("bob-2", "bob"), ("zoe", "zoe"))
    }
    with client_of(endpoint, keys["bob-1"]) as bob:
        mine = ended(bob, begun(bob, [line("a", model="sim")]))
        assert mine.status == "completed"
        refused = ended(bob, begun(bob, [line("a", model="sim"), line("b", model="secret")]))
        assert refused.errors is not None
        assert refused.errors.data is not None
        assert [(error.line, error.code) for error in refused.errors.data] == [(2, "model_mismatch")]
        assert "secret" not in (refused.errors.data[0].message or "").partition(", not")[0]
    with client_of(endpoint, keys["bob-2"]) as bob:
        assert mine.id in [one.id for one in bob.batches.list()]
        assert len(entries(bob, mine.output_file_id)) == 1
    with client_of(endpoint, keys["zoe"]) as zoe:
        assert list(zoe.batches.list()) == []
        with pytest.raises(openai.NotFoundError):
            zoe.batches.retrieve(mine.id)
        with pytest.raises(openai.NotFoundError):
            zoe.files.content(mine.output_file_id or "")


def test_first_at_an_endpoint(endpoint: Endpoint, tmp_path: Path) -> None:
    """FIRST 8: below the cluster and the framework, with its root or without."""
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(jsonl([line("a", model="sim"), line("b", model="sim")]))
    body = {"model": "sim", "input_file": str(requests), "output_folder_path": str(tmp_path)}
    path = "/resource_server/local/simulated/v1/batches"
    status, batch, _ = endpoint.ask("POST", path, body)
    assert (status, batch["status"]) == (200, "pending")
    one = f"{path}/{batch['batch_id']}"
    wait_until(lambda: endpoint.ask("GET", one)[1] == "completed", 60)
    result = json.loads(endpoint.ask("GET", f"{one}/result")[1])
    assert result["metrics"]["num_responses"] == 2
    assert len(Path(result["results_file"]).read_text().splitlines()) == 2
    assert endpoint.ask("POST", "/local/vllm/v1/batches", body)[0] == 404
    assert endpoint.ask("POST", "/mars/simulated/v1/batches", body)[0] == 404
    guest = endpoint.new_key("guest", owner="guest")
    status, refused, _ = endpoint.ask("POST", path, body, key=guest)
    assert (status, refused["error"]["code"]) == (403, "path_not_allowed")
    # Whose key opens no model there does not learn that the cluster is one.
    stranger = endpoint.new_key("stranger", owner="stranger", models=["none"])
    assert endpoint.ask("POST", path, body, key=stranger)[0] == 404

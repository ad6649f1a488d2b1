"""FIRST's batches at a session's gateway: its paths, its body that names files on the cluster, its statuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import Connection, Session
from tests.hostile import HOSTILE
from tests.integration.batching import ask, jsonl, line, running
from tests.programs.front import wait_until

pytestmark = pytest.mark.timeout(120)
FIRST = "/local/simulated/v1/batches"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with running(tmp_path_factory.mktemp("first")) as made:
        yield made


@pytest.fixture(scope="module")
def connection(session: Session) -> Connection:
    return session.wait()


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "my requests.jsonl"
    path.write_bytes(
        jsonl([line("a", max_tokens=3), line("b", max_tokens=3), line("refused", max_tokens=-1)])
    )
    return path


def made(connection: Connection, **body: Any) -> dict[str, Any]:
    status, answer = ask(connection, "POST", FIRST, {"model": "simulated", **body})
    assert status == 200, answer
    return dict(answer)


def over(connection: Connection, batch_id: str) -> str:
    seen: list[str] = []

    def there() -> bool:
        status, told = ask(connection, "GET", f"{FIRST}/{batch_id}")
        assert status == 200
        seen.append(told)
        return told in ("completed", "failed")

    wait_until(there)
    assert set(seen) <= {"pending", "running", "completed", "failed"}
    return seen[-1]


def test_a_batch_in_the_words_of_first(connection: Connection, requests: Path, tmp_path: Path) -> None:
    """FIRST 8: a body that names files by their paths, FIRST's statuses, and its result with the measures."""
    folder = tmp_path / "answers here"
    batch = made(connection, input_file=str(requests), output_folder_path=str(folder))
    assert batch["status"] == "pending"
    assert (batch["input_file"], batch["output_folder_path"]) == (str(requests), str(folder))
    early, refused = ask(connection, "GET", f"{FIRST}/{batch['batch_id']}/result")
    assert (early, refused["error"]["code"]) == (400, "batch_ongoing")
    assert over(connection, batch["batch_id"]) == "completed"
    _, listed = ask(connection, "GET", f"{FIRST}?status=completed")
    (mine,) = [one for one in listed if one["batch_id"] == batch["batch_id"]]
    assert (mine["cluster"], mine["framework"], mine["status"]) == ("local", "simulated", "completed")
    assert mine["completed_at"].endswith("Z")
    assert mine["failed_at"] is None
    assert batch["batch_id"] not in [
        one["batch_id"] for one in ask(connection, "GET", f"{FIRST}?status=failed")[1]
    ]
    status, text = ask(connection, "GET", f"{FIRST}/{batch['batch_id']}/result")
    assert status == 200
    result = json.loads(text)  # FIRST's answer is a text
    answers = Path(result["results_file"])
    assert answers.parent.parent == folder
    assert {json.loads(one)["custom_id"] for one in answers.read_text().splitlines()} == {"a", "b"}
    errors = answers.with_name(answers.name + ".errors").read_text().splitlines()
    assert [json.loads(one)["custom_id"] for one in errors] == ["refused"]
    assert answers.stat().st_mode & 0o77 == 0
    measures = result["metrics"]
    assert set(measures) >= {"response_time", "throughput", "throughput_tokens_per_second"}
    assert (measures["num_responses"], measures["lines_processed"]) == (2, 3)
    assert measures["total_tokens"] > 6
    _, plain = ask(connection, "GET", f"/v1/batches/{batch['batch_id']}")
    assert (plain["object"], plain["batch_id"], plain["model"]) == ("batch", batch["batch_id"], "simulated")


def test_a_batch_that_came_to_nothing_is_failed(connection: Connection, tmp_path: Path) -> None:
    """FIRST 8: running, then failed, as FIRST has no word for one that was cancelled; the list keeps them apart."""
    path = tmp_path / "long.jsonl"
    path.write_bytes(jsonl(line(str(number), max_tokens=100) for number in range(2000)))
    batch = made(connection, input_file=str(path))
    one = batch["batch_id"]

    def listed(status: str) -> list[str]:
        return [found["batch_id"] for found in ask(connection, "GET", f"{FIRST}?status={status}")[1]]

    wait_until(lambda: one in listed("running"))
    assert ask(connection, "GET", f"{FIRST}/{one}")[1] == "running"
    assert ask(connection, "POST", f"/v1/batches/{one}/cancel")[0] == 200
    assert over(connection, one) == "failed"
    assert one in listed("failed")
    assert not any(one in listed(status) for status in ("pending", "running", "completed"))
    (row,) = [found for found in ask(connection, "GET", FIRST)[1] if found["batch_id"] == one]
    assert row["failed_at"].endswith("Z")
    assert row["completed_at"] is None


def test_the_body_at_openais_path_and_an_output_file(
    connection: Connection, requests: Path, tmp_path: Path
) -> None:
    wanted = tmp_path / "answers.jsonl"
    body = {"model": "simulated", "input_file": str(requests), "output_file_path": str(wanted)}
    status, batch = ask(connection, "POST", "/v1/batches", body)
    assert (status, batch["object"]) == (200, "batch")
    again, refused = ask(connection, "POST", "/v1/batches", body | {"output_file_path": str(tmp_path)})
    assert (again, refused["error"]["code"]) == (400, "batch_ongoing")  # FIRST's rule
    assert over(connection, batch["id"]) == "completed"
    assert len(wanted.read_text().splitlines()) == 2
    status, refused = ask(connection, "POST", "/v1/batches", body)
    assert (status, refused["error"]["code"]) == (400, "invalid_value")  # what is there is not written over
    assert len(wanted.read_text().splitlines()) == 2
    wanted.unlink()
    status, refused = ask(connection, "POST", "/v1/batches", body)
    assert (status, refused["error"]["code"]) == (400, "invalid_value"), (
        "nor are old errors taken for its own"
    )
    assert not wanted.exists()


def test_answers_that_nobody_said_a_place_for(connection: Connection, requests: Path) -> None:
    batch = made(connection, input_file_path=str(requests))
    assert over(connection, batch["batch_id"]) == "completed"
    _, result = ask(connection, "GET", f"/v1/batches/{batch['batch_id']}/result")
    assert len(Path(result["results_file"]).read_text().splitlines()) == 2
    assert ask(connection, "GET", f"/v1/files/{result['output_file_id']}")[1]["purpose"] == "batch_output"


def test_lines_that_are_wrong_do_not_stop_the_others(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_bytes(jsonl([line("a"), b"{", line("other", model="another/model"), line("b")]))
    batch = made(connection, input_file=str(path), output_folder_path=str(tmp_path))
    assert over(connection, batch["batch_id"]) == "completed"
    measures = json.loads(ask(connection, "GET", f"{FIRST}/{batch['batch_id']}/result")[1])["metrics"]
    assert (measures["num_responses"], measures["lines_processed"]) == (2, 4)


def test_paths_that_cannot_be(connection: Connection, requests: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    sparse, empty = tmp_path / "sparse.jsonl", tmp_path / "empty.jsonl"
    empty.touch()
    with sparse.open("wb") as file:
        file.truncate(2 * 10**9)  # above limits.batch_file_gb, and no disk holds it
    wrong: list[dict[str, Any]] = [
        {"input_file": "relative.jsonl"},
        {"input_file": str(tmp_path)},
        {"input_file": str(tmp_path / "missing")},
        {"input_file": str(fifo)},
        {"input_file": "/dev/zero"},
        {"input_file": "/proc/self/mem"},
        {"input_file": str(sparse)},
        {"input_file": str(empty)},
        {"input_file": ["a"]},
        {"input_file": "/\ud800"},
        {"input_file": str(requests), "output_folder_path": "/\ud800/answers"},
        {"input_file": str(requests), "output_folder_path": "answers"},
        {"input_file": str(requests), "output_folder_path": "/proc/answers"},
        {"input_file": str(requests), "output_file_path": str(requests)},
        {"input_file": str(requests), "model": None},
        *({"input_file": f"{tmp_path}/{text}"} for text in HOSTILE if text.strip()),
        *({"input_file": text} for text in HOSTILE),
    ]
    for change in wrong:
        status, refused = ask(connection, "POST", FIRST, {"model": "simulated", **change})
        assert (status, refused["error"]["code"]) == (400, "invalid_value"), change
    status, refused = ask(connection, "POST", FIRST, {"model": "other", "input_file": str(requests)})
    assert (status, refused["error"]["code"]) == (404, "model_not_found")
    assert requests.read_bytes() == jsonl(
        [line("a", max_tokens=3), line("b", max_tokens=3), line("refused", max_tokens=-1)]
    )


def test_only_the_sessions_own_key_names_paths(
    session: Session, connection: Connection, requests: Path
) -> None:
    _, secret = session.keys.new("guest")
    body = {"model": "simulated", "input_file": str(requests)}
    wait_until(lambda: ask(connection, "GET", "/v1/batches", key=secret)[0] == 200)
    status, refused = ask(connection, "POST", FIRST, body, key=secret)
    assert (status, refused["error"]["code"]) == (403, "path_not_allowed")
    assert ask(connection, "GET", FIRST, key=secret) == (200, [])


def test_clusters_and_paths_that_are_not_there(connection: Connection) -> None:
    for path in ("/elsewhere/simulated/v1/batches", "/local/vllm/v1/batches", "/local/simulated/v1/files"):
        assert ask(connection, "GET", path)[0] == 404
    status, refused = ask(connection, "DELETE", FIRST)
    assert (status, refused["error"]["code"]) == (405, "method_not_allowed")

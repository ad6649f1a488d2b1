"""OpenAI's files and batches at a session's gateway, with the unmodified openai client: what a user's script does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from launcher import Connection, Session
from tests.integration.batching import CHAT, ask, begun, ended, entries, jsonl, line, runner, running, until
from tests.programs.front import resident_mb, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with running(tmp_path_factory.mktemp("batches")) as made:
        yield made


@pytest.fixture(scope="module")
def connection(session: Session) -> Connection:
    return session.wait()


@pytest.fixture
def client(session: Session) -> Iterator[openai.OpenAI]:
    with session.openai() as made:
        yield made


@pytest.fixture(scope="module")
def other(session: Session, connection: Connection) -> Callable[..., openai.OpenAI]:
    """A client with a further key of the session."""

    def make(name: str, **limits: Any) -> openai.OpenAI:
        _, secret = session.keys.new(name, **limits)
        made = openai.OpenAI(base_url=connection.base_url, api_key=secret, max_retries=0)

        def known() -> bool:
            with contextlib.suppress(openai.AuthenticationError):
                return bool(made.models.list())
            return False

        wait_until(known)
        return made

    return make


def refusal(call: Callable[[], object]) -> tuple[int, str | None]:
    """Status and code of what `call` is refused with."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value.status_code, caught.value.code


def test_a_file_is_stored_listed_fetched_and_deleted(client: openai.OpenAI) -> None:
    content = jsonl([line("one"), line("two")])
    stored = client.files.create(file=("requests of mine.jsonl", content), purpose="batch")
    assert (stored.filename, stored.purpose, stored.bytes) == (
        "requests of mine.jsonl",
        "batch",
        len(content),
    )
    assert stored.status == "processed"
    assert stored.expires_at == stored.created_at + 30 * 86400
    assert client.files.retrieve(stored.id) == stored
    assert stored in list(client.files.list(purpose="batch"))
    assert client.files.content(stored.id).read() == content
    assert client.files.wait_for_processing(stored.id).id == stored.id
    assert client.files.delete(stored.id).deleted
    assert refusal(lambda: client.files.retrieve(stored.id)) == (404, "file_not_found")
    assert refusal(lambda: client.files.delete(stored.id)) == (404, "file_not_found")


def test_files_come_in_pages(client: openai.OpenAI, connection: Connection) -> None:
    made = [client.files.create(file=(f"{n}.jsonl", b"{}\n"), purpose="batch").id for n in range(5)]
    first = client.files.list(limit=2, purpose="batch")
    assert [one.id for one in first.data] == made[:2:-1]
    assert first.has_more
    found = [one.id for one in client.files.list(limit=2, purpose="batch")]  # the client turns the pages
    assert found[:5] == made[::-1]
    assert len(found) == len(set(found))
    oldest = [one.id for one in client.files.list(order="asc")]
    assert oldest.index(made[0]) < oldest.index(made[4])
    assert refusal(lambda: client.files.list(limit=0).data)[0] == 400
    for path in ("/v1/files", "/v1/batches"):  # Python reads no number of 5000 digits
        assert ask(connection, "GET", f"{path}?limit={'9' * 5000}")[0] == 400


def test_a_batch_from_its_file_to_its_answers(client: openai.OpenAI, connection: Connection) -> None:
    """FIRST 8: a batch is made, listed by its status, looked at, and its answers and their measures are fetched."""
    asked = [line(f"request {n}", max_tokens=2) for n in range(40)]
    asked.insert(7, line("a refused one", max_tokens=-1))
    lasting = {"anchor": "created_at", "seconds": 7200}
    batch = begun(client, asked, metadata={"night": "☃ shift"}, output_expires_after=lasting)
    assert batch.object == "batch"
    assert batch.status in ("validating", "in_progress")
    assert (batch.endpoint, batch.completion_window) == (CHAT, "24h")
    done = ended(client, batch)
    assert done.status == "completed"
    assert done.errors is None
    assert done.metadata == {"night": "☃ shift"}
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 41, "completed": 40, "failed": 1}
    assert done.usage is not None
    assert done.usage.output_tokens == 80
    times = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert times == sorted(times, key=lambda at: at or 0)
    assert done.expires_at == done.created_at + 24 * 3600
    answers = entries(client, done.output_file_id)
    assert sorted(one["custom_id"] for one in answers) == sorted(f"request {n}" for n in range(40))
    assert {one["response"]["status_code"] for one in answers} == {200}
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "Simulated answer:"
    (failed,) = entries(client, done.error_file_id)
    assert (failed["custom_id"], failed["line"], failed["response"]["status_code"]) == (
        "a refused one",
        8,
        400,
    )
    output = client.files.retrieve(done.output_file_id or "")
    assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 7200)
    assert done.id in [one.id for one in client.batches.list()]
    status, result = ask(connection, "GET", f"/v1/batches/{done.id}/result")
    assert status == 200
    measures = result["metrics"]
    assert measures["response_time"] > 0
    assert measures["throughput"] > 0
    assert (measures["num_responses"], measures["lines_processed"]) == (40, 41)
    assert measures["total_tokens"] == done.usage.total_tokens


def test_wrong_lines_are_told_before_anything_is_sent(client: openai.OpenAI, connection: Connection) -> None:
    before = ask(connection, "GET", "/status")[1]["usage"]["requests"]
    wrong = [
        line("good"),
        line("good"),
        b"{no JSON",
        {**line("x"), "custom_id": None},
        line("url", url="/v1/embeddings"),
        line("model", model="another/model"),
        {**line("method"), "method": "GET"},
    ]
    failed = ended(client, begun(client, wrong))
    assert failed.status == "failed"
    assert failed.failed_at is not None
    assert failed.output_file_id is None
    assert failed.errors is not None
    assert failed.errors.data is not None
    told = {error.line: error.code for error in failed.errors.data}
    assert told == {
        2: "duplicate_custom_id",
        3: "invalid_json_line",
        4: "missing_custom_id",
        5: "invalid_url",
        6: "model_mismatch",
        7: "invalid_method",
    }
    assert ask(connection, "GET", "/status")[1]["usage"]["requests"] == before
    assert ask(connection, "GET", f"/v1/batches/{failed.id}/result")[0] == 400
    empty = ended(client, begun(client, [b"", b"  "]))
    assert empty.errors is not None
    assert empty.errors.data is not None
    assert [error.code for error in empty.errors.data] == ["empty_file"]


def test_a_request_for_a_batch_that_cannot_be(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.jsonl", jsonl([line("a")])), purpose="batch").id
    wrong: list[dict[str, Any]] = [
        {"input_file_id": "file-" + "0" * 24},
        {"input_file_id": "../../../etc/passwd"},
        {"endpoint": "/v1/audio/transcriptions"},
        {"completion_window": "for ever"},
        {"metadata": {"a": "b" * 600}},
        {"metadata": {str(n): "" for n in range(17)}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
    ]
    for change in wrong:
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", **change}
        assert refusal(partial(client.batches.create, **asked)) == (400, "invalid_value"), change
    assert refusal(lambda: client.batches.retrieve("batch_" + "0" * 24)) == (404, "batch_not_found")
    assert refusal(lambda: client.batches.cancel("nonsense")) == (404, "batch_not_found")


def test_a_cancelled_batch_keeps_what_was_answered(client: openai.OpenAI) -> None:
    batch = begun(client, [line(str(n), max_tokens=60) for n in range(400)])
    until(client, batch, "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    over = ended(client, batch)
    assert over.status == "cancelled"
    assert over.cancelling_at is not None
    assert over.cancelled_at is not None
    assert over.request_counts is not None
    answered = over.request_counts.completed
    assert 0 < answered < 400  # what was in flight has come to its end, the others were not sent
    assert len({one["custom_id"] for one in entries(client, over.output_file_id)}) == answered
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_batches_come_in_pages_and_by_status(client: openai.OpenAI, connection: Connection) -> None:
    made = [begun(client, [line(str(n))]) for n in range(3)]
    for one in made:
        assert ended(client, one).status == "completed"
    first = client.batches.list(limit=2)
    assert [one.id for one in first.data] == [made[2].id, made[1].id]
    assert first.has_more
    assert [one.id for one in client.batches.list(limit=2)][:3] == [one.id for one in reversed(made)]
    assert refusal(lambda: client.batches.list(after="batch_" + "0" * 24).data)[0] == 404
    _, found = ask(connection, "GET", "/v1/batches?status=completed&limit=100")
    assert {one["status"] for one in found["data"]} == {"completed"}
    assert {one.id for one in made} <= {one["id"] for one in found["data"]}
    _, others = ask(connection, "GET", "/v1/batches?status=in_progress&limit=100")
    assert not {one.id for one in made} & {one["id"] for one in others["data"]}
    status, refused = ask(connection, "GET", "/v1/batches?status=lost")
    assert (status, refused["error"]["code"]) == (400, "invalid_value")


def test_nobody_sees_what_is_another_keys(
    session: Session, client: openai.OpenAI, other: Callable[..., openai.OpenAI]
) -> None:
    mine = ended(client, begun(client, [line("private")]))
    with other("ann") as ann:
        for secret in (mine.input_file_id, mine.output_file_id or ""):
            assert refusal(partial(ann.files.retrieve, secret)) == (404, "file_not_found")
            assert refusal(partial(ann.files.content, secret)) == (404, "file_not_found")
            assert refusal(partial(ann.files.delete, secret)) == (404, "file_not_found")
        assert refusal(lambda: ann.batches.retrieve(mine.id)) == (404, "batch_not_found")
        assert refusal(lambda: ann.batches.cancel(mine.id)) == (404, "batch_not_found")
        asked: Any = {"input_file_id": mine.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
        assert refusal(lambda: ann.batches.create(**asked))[0] == 400
        assert list(ann.files.list()) == []
        assert list(ann.batches.list()) == []
        hers = ended(ann, begun(ann, [line("hers")]))
        assert hers.status == "completed"
        assert [one.id for one in ann.batches.list()] == [hers.id]
    assert hers.id not in [one.id for one in client.batches.list(limit=100)]
    session.keys.revoke("ann")
    with other("ann") as another_ann:
        assert list(another_ann.batches.list()) == []


def test_150_000_lines_pass_through_without_being_held_in_memory(
    session: Session, client: openai.OpenAI, tmp_path: Path
) -> None:
    """FIRST 8: uploaded, fetched back, checked and begun, in a few megabytes of the gateway and the batch's program."""
    pid = session.status().pid
    assert pid is not None
    before, lines = resident_mb(pid), 150_000
    long, asked = tmp_path / "long.jsonl", [{"role": "user", "content": "word " * 50}]
    with long.open("wb") as file:
        file.writelines(jsonl([line(f"request {number}", messages=asked)]) for number in range(lines))
    size = long.stat().st_size
    assert size > 50e6
    stored = client.files.create(file=long, purpose="batch")
    assert stored.bytes == size
    with client.files.with_streaming_response.content(stored.id) as response:
        read = 0
        for piece in response.iter_bytes(2**20):
            read += len(piece)
            assert resident_mb(pid) < before + 40
    assert read == size
    asking: Any = {"input_file_id": stored.id, "endpoint": CHAT, "completion_window": "24h"}
    batch = until(client, client.batches.create(**asking), "in_progress")
    assert batch.request_counts is not None
    assert batch.request_counts.total == lines
    program = runner(pid)
    assert program is not None
    assert program.memory_info().rss < 120e6
    assert resident_mb(pid) < before + 40
    client.batches.cancel(batch.id)
    assert ended(client, batch).status == "cancelled"
    client.files.delete(stored.id)


def test_everything_is_private_and_with_a_file_its_prompts_go(
    session: Session, client: openai.OpenAI
) -> None:
    prompt = [{"role": "user", "content": "SECRETPROMPT7262"}]
    done = ended(
        client, begun(client, [line("a", messages=prompt), line("b", messages=prompt, max_tokens=-1)])
    )
    client.files.delete(done.input_file_id)
    for folder, _, names in os.walk(session.paths.batches):
        assert Path(folder).stat().st_mode & 0o77 == 0, folder
        for name in names:
            path = Path(folder) / name
            assert path.stat().st_mode & 0o77 == 0, name
            assert b"SECRETPROMPT7262" not in path.read_bytes(), path
    assert "SECRETPROMPT7262" not in session.paths.gateway_log.read_text()

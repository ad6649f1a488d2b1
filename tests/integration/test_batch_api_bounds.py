"""Uploads that are wrong, too much or broken off; batches that wait, expire or have two gateways."""

from __future__ import annotations

import dataclasses
import http.client
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from launcher.batch.batches import Asked, Batches, Place, State
from launcher.batch.carrier import Rhythm
from launcher.batch.files import Bounds, Files, TooMuchError
from launcher.batch.http import BatchAPI
from launcher.batch.journal import cut
from launcher.batch.passes import Passes
from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.server import Gateway
from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from tests.hostile import HOSTILE
from tests.integration.batching import CHAT, OVER, begun, ended, entries, jsonl, line, until
from tests.programs.front import BEARER, KEY, RunningGateway, SimulatedEngine, wait_until

pytestmark = pytest.mark.timeout(120)
SMALL = Bounds(file_bytes=200_000, owner_bytes=500_000, files=1000, batches=3, at_once=1)
OPEN = ("validating", "in_progress")
QUICK = Rhythm(look_s=0.1, folder_s=0.2, missed_s=0.3)
FORM = {"Content-Type": "multipart/form-data; boundary=XX"}


class BatchGateway(RunningGateway):
    """A gateway whose files and batches are in `folder`."""

    def __init__(self, folder: Path, engine: Path, bounds: Bounds = SMALL) -> None:
        self.folder, self._bounds = folder, bounds
        self.paths = SessionPaths(folder)
        super().__init__(engine=engine)
        self.run(self._start)

    async def _make(self) -> Gateway:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        passes, front = (
            Passes(Keys(KEY, self.paths.further_keys)),
            SessionFront(self.routes, lambda: self.report),
        )
        self.api = BatchAPI(
            self.folder,
            passes,
            url=lambda: self.url,
            touch=front.usage.touch,
            models=lambda _: ("tiny",),
            bounds=self._bounds,
            rhythm=QUICK,
        )
        front.batches = self.api
        return Gateway(keys=passes, front=front, name="tiny-1")

    async def _start(self) -> None:
        self.api.start()

    def close(self) -> None:
        self.run(self.api.stop)
        super().close()

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    quick = ("--tokens", "3000", "--start-delay-s", "0", "--first-token-ms", "0")
    made = SimulatedEngine(tmp_path_factory.mktemp("engine"), *quick, quick=False)
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path, engine: SimulatedEngine) -> Iterator[Callable[[], BatchGateway]]:
    """Start a gateway; all have one folder."""
    made: list[BatchGateway] = []

    def more() -> BatchGateway:
        made.append(BatchGateway(tmp_path / "kept", engine.socket))
        return made[-1]

    yield more
    for one in made:
        one.close()


@pytest.fixture
def gateway(start: Callable[[], BatchGateway]) -> BatchGateway:
    return start()


@pytest.fixture
def client(gateway: BatchGateway) -> Iterator[openai.OpenAI]:
    with gateway.client() as made:
        yield made


def tiny(custom_id: str, **body: Any) -> dict[str, Any]:
    return line(custom_id, model="tiny", **body)


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "kept" / "files").glob("*/*"))


def part(head: str, content: bytes) -> bytes:
    return b"--XX\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), content)


PURPOSE, FILE = part('name="purpose"', b"batch"), part('name="file"; filename="a"', b"{}\n")
END = b"--XX--\r\n"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (FILE + END, 400, "invalid_value"),
        (part('name="purpose"', b"fine-tune") + FILE + END, 400, "invalid_value"),
        (FILE + part('name="purpose"', b"assistants") + END, 400, "invalid_value"),
        (PURPOSE + END, 400, "malformed_form"),
        (PURPOSE + FILE + FILE + END, 400, "malformed_form"),
        (PURPOSE + part('name="file"; filename="a"', b"") + END, 400, "invalid_value"),
        (PURPOSE + FILE, 400, "malformed_form"),
        (PURPOSE + FILE[:-9], 400, "malformed_form"),
        (b"", 400, "malformed_form"),
        (b"\x00" * 1000, 400, "malformed_form"),
        (part('name="purpose"', b"b" * 10_000) + FILE + END, 400, "malformed_form"),
        (PURPOSE + part('name="expires_after[anchor]"', b"now") + FILE + END, 400, "invalid_value"),
        (PURPOSE + part('name="file"; filename="a"', b"x" * 200_001) + END, 413, "file_too_large"),
    ],
)
def test_an_upload_that_is_refused_leaves_nothing(
    gateway: BatchGateway, tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    answer = gateway.ask("POST", "/v1/files", FORM, body)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert left(tmp_path) == []


def test_an_upload_that_is_too_long_is_refused_before_it_comes(gateway: BatchGateway) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n"
    assert gateway.raw(head.encode()).startswith(b"HTTP/1.1 413 ")


def test_a_long_upload_in_chunks_is_cut_off(gateway: BatchGateway, tmp_path: Path) -> None:
    link = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    pieces = iter(
        [PURPOSE, b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n', *[b"x" * 60_000] * 5]
    )
    link.request("POST", "/v1/files", pieces, {**BEARER, **FORM}, encode_chunked=True)
    assert link.getresponse().status == 413
    link.close()
    assert left(tmp_path) == []


def test_who_leaves_in_the_middle_of_an_upload_leaves_nothing(gateway: BatchGateway, tmp_path: Path) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: 90000\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(head.encode() + PURPOSE + FILE[:-9])
        wait_until(lambda: left(tmp_path))
    wait_until(lambda: not left(tmp_path))


def test_names_of_files_are_only_shown(client: openai.OpenAI, tmp_path: Path) -> None:
    for name in HOSTILE:
        stored = client.files.create(file=(name, b"{}\n"), purpose="batch")
        assert "/" not in stored.filename
        assert stored.filename.isprintable()
        assert client.files.content(stored.id).read() == b"{}\n"
    assert len(left(tmp_path)) == len(HOSTILE)
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


def test_files_of_one_owner_have_a_bound(client: openai.OpenAI) -> None:
    made = [client.files.create(file=("a", b"x" * 180_000), purpose="batch") for _ in range(2)]
    with pytest.raises(openai.APIStatusError, match="that your other files leave"):
        client.files.create(file=("a", b"x" * 180_000), purpose="batch")
    client.files.delete(made[0].id)
    client.files.create(file=("a", b"x" * 180_000), purpose="batch")


def test_answers_and_uploads_under_way_count_too(tmp_path: Path) -> None:
    files = Files(tmp_path / "files", Bounds(file_bytes=100, owner_bytes=150))
    first, second, late = (files.upload("ann") for _ in range(3))
    first.write(b"x" * 100)
    with pytest.raises(TooMuchError, match="that your other files leave"):
        second.write(b"x" * 60)
    second.drop()
    first.keep("a", "batch")
    late.write(b"x" * 60)
    with pytest.raises(TooMuchError):
        late.keep("b", "batch")
    late.drop()
    (tmp_path / "answers").write_bytes(b"x" * 50)
    files.adopt("ann", "file-" + "0" * 24, tmp_path / "answers", "answers", None)
    with pytest.raises(TooMuchError, match="that one owner may have"):
        files.upload("ann")
    assert files.room("bob") == 150


def test_a_file_lasts_as_long_as_was_asked(client: openai.OpenAI) -> None:
    stored = client.files.create(
        file=("a", b"{}\n"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert stored.expires_at == stored.created_at + 3600


def test_a_batch_waits_for_its_turn_and_can_be_cancelled_then(client: openai.OpenAI) -> None:
    first = begun(client, [tiny("a", max_tokens=100)])
    until(client, first, "in_progress")
    waiting = begun(client, [tiny("b")])
    third = begun(client, [tiny("c")])
    with pytest.raises(openai.BadRequestError, match="are not finished"):
        begun(client, [tiny("d")])
    assert client.batches.cancel(waiting.id).status in ("cancelling", "cancelled")
    over = ended(client, waiting)
    assert (over.status, over.output_file_id) == ("cancelled", None)
    assert client.batches.retrieve(first.id).status == "in_progress"
    assert ended(client, third).status == "completed"
    times = client.batches.retrieve(first.id).completed_at, client.batches.retrieve(third.id).in_progress_at
    assert times[0] is not None
    assert times[1] is not None
    assert times[0] <= times[1]


def test_a_batch_whose_output_was_taken_away_says_so_and_goes_on_once_it_is_back(
    client: openai.OpenAI, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(jsonl([tiny("a")]))
    first = begun(client, [tiny("b", max_tokens=100)])
    until(client, first, "in_progress")
    wanted = {"model": "tiny", "input_file": str(source), "output_file_path": str(output)}
    waiting = client.post("/batches", body=wanted, cast_to=openai.types.Batch)
    output.unlink()
    output.symlink_to(tmp_path / "elsewhere")

    def why() -> list[str | None]:
        errors = client.batches.retrieve(waiting.id).errors
        return [one.message for one in errors.data or []] if errors is not None else []

    wait_until(lambda: why() != [])
    assert str(output) in (why()[0] or "")
    output.unlink()
    over = ended(client, waiting)
    assert (over.status, over.errors) == ("completed", None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_deleted_input_does_not_end_its_batch(client: openai.OpenAI) -> None:
    batch = begun(client, [tiny("a", max_tokens=20)])
    client.files.delete(batch.input_file_id)
    assert ended(client, batch).status == "completed"


def test_a_kill_before_the_last_word_loses_nothing(start: Callable[[], BatchGateway]) -> None:
    first = start()
    with first.client() as client:
        done = ended(client, begun(client, [tiny("a"), tiny("b", max_tokens=-1)]))
        first.run(first.api.stop)
        place = Place(next(first.folder.glob(f"batches/*/{done.id}")))
        state = place.read_state()  # as it was once the files had been handed out, but before that was said
        before = dataclasses.replace(state, status="finalizing", output_file_id=None, error_file_id=None)
        place.write_state(before)
        assert client.batches.retrieve(done.id).status == "finalizing"
    with start().client() as client:
        again = ended(client, client.batches.retrieve(done.id))
        assert (again.status, again.output_file_id) == ("completed", done.output_file_id)
        assert [one["custom_id"] for one in entries(client, again.output_file_id)] == ["a"]
        assert [one["custom_id"] for one in entries(client, again.error_file_id)] == ["b"]


@pytest.mark.parametrize("torn", [b"", b'{"id": "batch', b"x" * 200_000])
@pytest.mark.parametrize("whole", [b"", b'{"id": "batch_req_1"}\n', b"x" * 70_000 + b"\n"])
def test_half_a_line_is_not_handed_out(tmp_path: Path, whole: bytes, torn: bytes) -> None:
    (tmp_path / "output").write_bytes(whole + torn)
    cut(tmp_path / "output")
    assert (tmp_path / "output").read_bytes() == whole


def test_what_is_not_done_in_time_is_told_line_by_line(client: openai.OpenAI, tmp_path: Path) -> None:
    file = tmp_path / "late.jsonl"
    file.write_bytes(jsonl([tiny(str(n), max_tokens=100) for n in range(1500)]))
    batches = Batches(tmp_path / "kept" / "batches", 10)
    now = time.time()
    asked = Asked(batches.new_id(), "session", "session", now, now + 2, endpoint=CHAT, models=("tiny",))
    batches.make(asked, file)
    late = until(client, client.batches.retrieve(asked.id), *OVER)
    assert late.status == "expired"
    assert late.expired_at is not None
    assert late.request_counts is not None
    errors = entries(client, late.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    answers = entries(client, late.output_file_id) if late.output_file_id else []
    told = sorted(one["custom_id"] for one in (*answers, *errors))
    assert told == sorted(str(n) for n in range(1500))


def test_batches_that_are_over_are_not_kept_without_end(tmp_path: Path) -> None:
    """Nobody can delete one, and each takes some files of the disk: the newest stay, and those that are not over."""
    here, there = (Batches(tmp_path / "batches", 10, kept=2) for _ in range(2))
    (tmp_path / "in.jsonl").write_bytes(b"\n")
    made = []
    for number in range(5):
        asked = Asked(here.new_id(), "alice", "a", time.time(), time.time() + 60, endpoint=CHAT)
        made.append(here.make(asked, tmp_path / "in.jsonl"))
        if number != 1:
            here.place(asked).write_state(State("failed"))
        assert there.get("alice", asked.id) is not None
    bob = here.make(Asked(here.new_id(), "bob", "b", 0.0, 1.0, endpoint=CHAT), None)
    last = here.make(Asked(here.new_id(), "alice", "a", 0.0, 1.0, endpoint=CHAT), None)
    kept = [last.id, made[4].id, made[3].id, made[1].id]
    for batches in (here, there):
        assert [asked.id for asked, _ in batches.of("alice")] == kept
        there_are = [batches.get("alice", asked.id) is not None for asked in made]
        assert there_are == [False, True, False, True, True]
        assert batches.get("bob", bob.id) is not None
    assert sorted(path.name for path in here.place(last).folder.parent.iterdir()) == sorted(kept)


def test_two_gateways_on_one_folder_run_a_batch_once(start: Callable[[], BatchGateway]) -> None:
    first, second = start(), start()
    with first.client() as here, second.client() as there:
        batch = begun(here, [tiny(str(n), max_tokens=25) for n in range(400)])
        until(there, batch, "in_progress")
        first.run(first.api.stop)  # the second goes on
        done = ended(there, batch)
        assert done.status == "completed"
        found = [one["custom_id"] for one in entries(there, done.output_file_id)]
        assert sorted(found) == sorted(str(n) for n in range(400))
        there.files.delete(done.output_file_id or "")  # answers count too
        other = begun(there, [tiny(str(n), max_tokens=100) for n in range(700)])
        until(here, other, "in_progress")
        here.batches.cancel(other.id)  # which the other gateway runs
        assert ended(here, other).status == "cancelled"


def test_a_batch_uses_up_the_limits_of_its_key_and_ends_with_it(gateway: BatchGateway) -> None:
    _, secret = keys.new(gateway.paths, "limited", requests_per_minute=60)
    bearer = {"Authorization": f"Bearer {secret}"}
    wait_until(lambda: gateway.ask("GET", "/v1/batches", bearer).status == 200)
    with gateway.client(secret) as limited:
        batch = begun(limited, [tiny(str(n)) for n in range(200)])
        wait_until(lambda: "limited" in gateway.usage.keys and gateway.usage.keys["limited"].requests > 40)
        used = gateway.usage.keys["limited"]
        assert used.requests - used.errors <= 70  # the rest has to wait for its minute
        assert limited.batches.retrieve(batch.id).status in OPEN  # looking is not limited
    keys.revoke(gateway.paths, "limited")
    place = Place(next(gateway.folder.glob(f"batches/*/{batch.id}")))
    wait_until(lambda: place.read_state().status == "failed")
    state = place.read_state()
    assert [error["code"] for error in state.errors] == ["key_ended"]
    assert state.completed > 0
    assert state.failed == 0  # no line was burnt by the refusals

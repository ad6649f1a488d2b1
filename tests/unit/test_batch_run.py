"""A batch run's files: which lines are good, what a torn file loses, what is never taken for an answer."""

from __future__ import annotations

import dataclasses
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import Launcher
from launcher.batch.input import Fault, Input
from launcher.batch.journal import Journal, busy
from launcher.batch.report import CANCELLED, COMPLETED, FAILED, RUNNING, STOPPED, Status, cost
from launcher.batch.run import Run
from launcher.batch.spec import Spec
from launcher.batch.work import Work
from launcher.errors import RequestError, SessionError, StorageError
from launcher.settings.layers import load
from tests.hostile import HOSTILE

URL = "/v1/chat/completions"


def line(custom_id: object = "a", url: object = URL, **more: Any) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more})


def answer(custom_id: str, tokens: int = 1) -> bytes:
    body = {"usage": {"prompt_tokens": tokens, "completion_tokens": 2 * tokens}}
    response = {"status_code": 200, "request_id": "", "body": body}
    entry = {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(entry).encode() + b"\n"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return tmp_path


def spec(desk: Path, **more: Any) -> Spec:
    return Spec(str(desk / "in.jsonl"), str(desk / "out.jsonl"), str(desk / "err.jsonl"), **more)


def run_of(desk: Path, lines: list[str] | bytes, **more: Any) -> Run:
    text = lines if isinstance(lines, bytes) else "".join(f"{one}\n" for one in lines).encode()
    (desk / "in.jsonl").write_bytes(text)
    return Run.create(desk / "run", spec(desk, **more))


def faults(desk: Path) -> list[tuple[int, str]]:
    try:
        text = (desk / "err.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [(entry["line"], entry["error"]["code"]) for entry in map(json.loads, text.splitlines())]


def test_each_bad_line_is_reported_with_its_number_and_the_good_ones_stay(desk: Path) -> None:
    """FIRST 8: bad JSON, duplicate and missing ids, wrong url and model are told per line before anything is sent."""
    bad: dict[str, str] = {
        "{": "invalid_json_line",
        "[1]": "invalid_json_line",
        '{"custom_id": "\x01"}': "invalid_json_line",
        "[" * 100_000: "invalid_json_line",
        line("b", body={"model": "tiny", "x": [[]] * 2**19}): "too_many_values",
        line(custom_id=None): "missing_custom_id",
        line(custom_id=7): "missing_custom_id",
        line(custom_id=""): "missing_custom_id",
        line(custom_id="x" * 513): "invalid_custom_id",
        line("b", method="GET"): "invalid_method",
        line("b", url="/v1/files"): "invalid_url",
        line("b", url=None): "invalid_url",
        line("b", body=[]): "invalid_body",
        line("b", body={"model": "tiny", "stream": True}): "invalid_body",
        line("b", body={}): "missing_model",
        line("b", body={"model": 4}): "invalid_model",
        line("b", body={"model": "other"}): "model_mismatch",
        line("first"): "duplicate_custom_id",
    }
    run = run_of(desk, [line("first"), "", *bad, "  ", line("last")], models=("tiny", "org/tiny"))
    with Work(run) as work:
        assert (work.left, work.faults) == (2, len(bad))
    assert faults(desk) == [(number, code) for number, code in enumerate(bad.values(), 3)]
    assert run.status().total == len(bad) + 2
    with Work(run):
        pass
    assert len(faults(desk)) == len(bad), "told once"
    text = (desk / "err.jsonl").read_text()
    assert '"message": "Line 1 has the custom_id \\"first\\" too."' in text


def test_strict_sends_nothing_where_a_line_is_wrong(desk: Path) -> None:
    for lines in ([line("a"), "{"], ["{"]):
        run = run_of(desk, lines, strict=True)
        with Work(run) as work:
            status = work.settled()
        assert status is not None
        assert (status.state, status.code) == (FAILED, "invalid_lines")
    run = run_of(desk, [line("a"), line("b")], strict=True)
    with Work(run) as work:
        assert (work.left, work.settled()) == (2, None), "mended, it goes on"
    assert faults(desk) == []


def test_a_file_without_an_end_of_line_and_with_a_mark_is_read_whole(desk: Path) -> None:
    run = run_of(desk, b"\xef\xbb\xbf" + line("a").encode() + b"\r\n" + line("é☃").encode())
    with Work(run) as work:
        assert (work.left, work.faults) == (2, 0)


def test_ids_of_any_text_are_told_apart(desk: Path) -> None:
    ids = [text for text in HOSTILE if 0 < len(text) <= 512] + ["\ud800", "A", "a ", "a"]
    run = run_of(desk, [line(one) for one in ids])
    with Work(run) as work:
        assert (work.left, work.faults) == (len(ids), 0)
    (desk / "out.jsonl").write_bytes(b"".join(answer(one) for one in ids))
    with Work(run) as work:
        assert work.left == 0


def test_what_a_kill_has_torn_is_taken_away_and_nothing_else(desk: Path) -> None:
    """FIRST 9: torn at any byte, the whole lines stay as they are and the rest is asked again."""
    whole = [answer(f"{number}", 3) for number in range(4)]
    run = run_of(desk, [line(f"{number}") for number in range(5)])
    text = b"".join(whole)
    for cut in (*range(0, len(text), 11), len(whole[0]), len(whole[0]) - 1, len(text)):
        (desk / "out.jsonl").write_bytes(text[:cut])
        kept = text[:cut].count(b"\n")
        with Work(run) as work:
            assert work.left == 5 - kept
        assert (desk / "out.jsonl").read_bytes() == b"".join(whole[:kept])
    assert run.status().completion_tokens == 4 * 6, "counted from the answers"


def test_an_output_that_was_taken_away_begins_anew(desk: Path) -> None:
    run = run_of(desk, [line("a"), line("b")])
    Status(state=STOPPED, answered=1, seconds=500.0, gpu_s=90.0, completion_tokens=7).write(run.status_path)
    (desk / "out.jsonl").write_bytes(answer("a"))
    with Work(run):
        assert (run.status().seconds, run.status().gpu_s) == (500.0, 90.0)
    (desk / "out.jsonl").unlink()
    with Work(run):
        pass
    assert (run.status().seconds, run.status().gpu_s, run.status().completion_tokens) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    "torn",
    [
        bytes(5000) + b"\n" + bytes(700),
        bytes(4096) + answer("b")[20:],
        answer("b")[:40] + bytes(4096) + b"}\n",
        '{"id": "batch_req_1", "custom_id": "é'.encode()[:-1],
    ],
)
def test_what_a_power_cut_leaves_at_the_end_is_taken_away(desk: Path, torn: bytes) -> None:
    run = run_of(desk, [line("a"), line("b")])
    (desk / "out.jsonl").write_bytes(answer("a") + torn)
    with Work(run) as work:
        assert work.left == 1
    assert (desk / "out.jsonl").read_bytes() == answer("a")


def test_an_answer_counts_where_both_files_speak_of_a_line(desk: Path) -> None:
    run = run_of(desk, [line("a"), line("b")])
    with Work(run) as work:
        work.give_up("batch_expired", "Too late.")
    (desk / "out.jsonl").write_bytes(answer("b"))
    with Work(run) as work:
        assert (work.left, work.pace.answered, work.pace.failed) == (0, 1, 1)


def test_an_output_that_is_changed_under_way_is_noticed(desk: Path) -> None:
    path = desk / "out.jsonl"
    for change in (path.unlink, lambda: path.replace(desk / "moved"), lambda: path.write_bytes(b"")):
        path.unlink(missing_ok=True)
        with Journal(path) as journal:
            journal.add(answer("a"))
            journal.sync()
            change()
            with pytest.raises(StorageError):
                journal.sync()
    path.unlink(missing_ok=True)
    with Journal(path) as journal:
        (desk / "other").write_bytes(answer("b"))
        (desk / "other").replace(path)  # as an editor saves
        with pytest.raises(StorageError, match="changed by somebody else"):
            journal.sync()
        journal.close(keep_empty=False)
        assert path.read_bytes() == answer("b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (answer("a") + b"notes\n" + answer("b"), "holds something that is no answer (byte "),
        (answer("stranger"), 'holds an answer to "stranger"'),
        (answer("a") + answer("a"), 'holds two answers to "a"'),
        (b'{"custom_id": 3}\n', 'holds an answer to "3"'),
        (f"{line('a')}\n".encode(), 'holds a line "a" that is no answer'),  # another file of requests
        # Files of another kind, that nobody is to lose to a slip with -o.
        (b"Chapter 1\nIt was a dark night.\n", "holds something that is no answer (byte 0)"),
        (b'{\n  "precious": 1\n}\n', "holds something that is no answer (byte 0)"),
        (b'{"id": 1, "precious": true}', "holds something that is no answer (byte 0)"),
        (b"\0\0\0\x18ftypmp42\n", "holds something that is no answer (byte 0)"),
        (answer("a") + b"my own notes", "holds something that is no answer (byte "),
    ],
)
def test_an_output_of_something_else_is_refused_and_left_alone(desk: Path, text: bytes, said: str) -> None:
    run = run_of(desk, [line("a"), line("b")])
    (desk / "out.jsonl").write_bytes(text)
    with pytest.raises((RequestError, StorageError)) as raised:
        Work(run)
    assert said in raised.value.message
    assert (desk / "out.jsonl").read_bytes() == text
    assert run.status().state == STOPPED
    assert said in run.status().message


def test_a_changed_input_is_no_longer_the_same_run(desk: Path) -> None:
    run = run_of(desk, [line("a"), line("b")])
    with Work(run):
        pass
    (desk / "in.jsonl").write_text(line("a") + "\n" + line("c") + "\n")
    with Work(run) as work:  # nothing was answered yet
        assert work.left == 2
    (desk / "out.jsonl").write_bytes(answer("a"))
    (desk / "in.jsonl").write_text(line("a") + "\n" + line("d") + "\n")
    with pytest.raises(RequestError, match="has changed since the run began"):
        Work(run)


def test_a_run_that_is_resumed_reads_a_long_input_once_before_it_goes_on(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.batch.input._SETTLED_S", -1e9)  # the input was written long ago
    run = run_of(desk, [line(f"{number}{'x' * 400}") for number in range(4000)])
    with Work(run):
        pass
    before = psutil.Process().io_counters().read_chars
    with Work(run) as work:
        assert work.left == 4000
    assert psutil.Process().io_counters().read_chars - before < 1.5 * (desk / "in.jsonl").stat().st_size
    (desk / "out.jsonl").write_bytes(answer(f"1{'x' * 400}"))
    other = (desk / "in.jsonl").read_bytes().replace(b"x", b"y")
    (desk / "in.jsonl").write_bytes(other)
    with pytest.raises(RequestError, match="has changed since the run began"):
        Work(run)


def test_an_input_that_changes_under_way_is_noticed(desk: Path) -> None:
    path = desk / "in.jsonl"
    run_of(desk, [line("a"), line("b")])
    found: list[Fault] = []
    lines = Input(path, spec(desk))
    lines.check(found.append)
    with path.open("r+b") as file:
        file.write(line("c").encode())
    with pytest.raises(StorageError, match="was changed while its requests were being sent"):
        list(lines.requests())
    lines.close()


def test_one_runner_at_a_time(desk: Path) -> None:
    run = run_of(desk, [line("a")])
    with Work(run) as work:
        work.keep(RUNNING)
        assert run.running
        assert run.status().state == RUNNING
        elsewhere = Run.create(desk / "another", run.spec)
        with pytest.raises(SessionError, match="Another run writes"):
            Work(elsewhere)
        (desk / "out.jsonl").rename(desk / "moved")  # as where the output's file system has no locks
        assert run.running
        with pytest.raises(SessionError, match="Another run writes"):
            Work(run)
        (desk / "moved").rename(desk / "out.jsonl")
    assert (run.running, run.status().message) == (False, "Its process is gone.")
    assert run.status().state == STOPPED, "whoever said that it runs is gone"


def test_cancelled_before_it_began_and_begun_again(desk: Path) -> None:
    run = run_of(desk, [line("a")])
    assert run.cancel().state == CANCELLED
    assert run.status().state == CANCELLED
    with Work(run):
        assert not run.cancel_path.exists(), "who begins it anew wants it"
    (desk / "out.jsonl").write_bytes(answer("a"))
    with Work(run) as work:
        assert work.settled() == run.status()
    assert run.cancel().state == COMPLETED


def test_what_is_given_up_has_an_error_line_each(desk: Path) -> None:
    run = run_of(desk, [line("a"), line("b"), line("c")])
    (desk / "out.jsonl").write_bytes(answer("b"))
    with Work(run) as work:
        assert work.give_up("batch_expired", "Too late.") == 2
    assert faults(desk) == [(1, "batch_expired"), (3, "batch_expired")]
    with Work(run) as work:
        assert work.left == 0


def test_a_journal_is_a_file_of_its_own(desk: Path) -> None:
    other = desk / "precious"
    other.write_text("mine\n")
    for name, make, said in (("link", os.symlink, "is a symbolic link"), ("twin", os.link, "is in the way")):
        make(other, desk / name)
        with pytest.raises(StorageError, match=said):
            Journal(desk / name)
    os.mkfifo(desk / "pipe")
    with pytest.raises(StorageError):
        Journal(desk / "pipe")
    with pytest.raises(RequestError, match="is no file"):
        Input(desk / "pipe", spec(desk))
    assert other.read_text() == "mine\n"
    assert not busy(desk / "nothing")
    with Journal(desk / "new") as journal:
        assert (desk / "new").stat().st_mode & 0o777 == 0o600
        assert busy(desk / "new")
        journal.add(b'{"a": 1}\n')
        journal.sync()
        assert list(journal.entries()) == [{"a": 1}]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"window": 0}, "window of 0"),
        ({"window": 5000}, "window of 5000"),
        ({"retries": -1}, "retries"),
        ({"endpoint": "/v1/files"}, "no url of a batch"),
    ],
)
def test_values_that_cannot_be(desk: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        run_of(desk, [line()], **wrong)
    with pytest.raises(RequestError, match="three files"):
        Run.create(desk / "run", Spec("/a", "/a", "/b"))


def test_a_folder_that_is_no_run(desk: Path) -> None:
    with pytest.raises(SessionError, match="holds no batch run"):
        _ = Run(desk).spec
    (desk / "run.json").write_text("[]")
    with pytest.raises(SessionError, match="is not a batch run's"):
        _ = Run(desk).spec


def test_the_line_of_what_it_took() -> None:
    done = Status(
        total=10, answered=9, failed=1, prompt_tokens=1000, completion_tokens=3000, seconds=10, gpu_s=7200
    )
    assert cost(done) == (
        "9 of 10 answered, 1 with an error, 10 s, 4000 tokens (3000 generated, 300.0 a second), 2.00 GPU-hours, "
        "2000 tokens per GPU-hour"
    )


def test_over_ssh_a_run_is_made_where_its_files_are(desk: Path) -> None:
    here = load({"LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull})
    cluster = dataclasses.replace(next(iter(here.clusters.values())), name="della", ssh="login", launcher="x")
    profile = dataclasses.replace(next(iter(here.profiles.values())), name="far", cluster="della")
    settings = dataclasses.replace(
        here, clusters={**here.clusters, "della": cluster}, profiles={**here.profiles, "far": profile}
    )
    with pytest.raises(RequestError, match="files of the cluster that it runs on"):
        Launcher(settings, cluster="della").batch_run("in.jsonl")
    (desk / "in.jsonl").write_text(line("a") + "\n")
    with pytest.raises(RequestError, match='Profile "far" is on another cluster'):
        Launcher(settings).batch_run(desk / "in.jsonl", model="simulated", profile="far")


def test_what_is_remembered_of_a_line_is_small(desk: Path) -> None:
    """FIRST 8: 150 000 lines without loading them: of each only its place, its state and a hash of its id are kept."""
    path = desk / "in.jsonl"
    with path.open("w") as file:
        for number in range(5_000):
            file.write(line(f"request number {number}", body={"model": "tiny", "prompt": "x" * 1000}) + "\n")
    lines = Input(path, spec(desk))
    tracemalloc.start()
    lines.check(lambda fault: None)
    kept, peak = tracemalloc.get_traced_memory()
    for number, request in enumerate(lines.requests()):
        assert request.number == number
    _, sending = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    lines.close()
    assert lines.left == 5_000
    assert kept / 5_000 < 48, "bytes a line"
    assert max(peak, sending) < 2e6 < path.stat().st_size

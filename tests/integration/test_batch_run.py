"""Batch runs against servers that refuse, break off and go away; the command and its ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher
from launcher.api import batch_runs
from launcher.batch.losses import Losses
from launcher.batch.report import CANCELLED, COMPLETED, STOPPED, Status
from launcher.batch.run import Run, run
from launcher.batch.spec import Spec
from launcher.batch.work import Work
from launcher.cli import main
from launcher.errors import StorageError
from tests.conftest import skip_loudly
from tests.hostile import HOSTILE
from tests.programs.front import ROOT, wait_until
from tests.programs.moody import KEY, Moody


@pytest.fixture
def moody() -> Iterator[Moody]:
    server = Moody()
    yield server
    server.hold.set()
    server.close()


class Desk:
    """A folder with an input, its outputs and a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input, self.output, self.errors = (
            folder / name for name in ("in.jsonl", "out.jsonl", "err.jsonl")
        )

    def ask(self, questions: Sequence[str], model: str = "tiny", **more: Any) -> Run:
        """A run that asks each of `questions`, whose ids are r0, r1, …"""
        with self.input.open("w") as file:
            for number, question in enumerate(questions):
                body = {"model": model, "messages": [{"role": "user", "content": question}]}
                line = {
                    "custom_id": f"r{number}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": body,
                }
                file.write(json.dumps(line) + "\n")
        spec = Spec(str(self.input), str(self.output), str(self.errors), **more)
        return Run.create(self.folder / "run", spec)

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """The bodies by id; each id at most once."""
        found = entries(self.output)
        bodies = {entry["custom_id"]: entry["response"]["body"] for entry in found}
        assert len(bodies) == len(found), "an id was answered twice"
        return bodies

    def lines(self) -> int:
        return self.output.read_bytes().count(b"\n") if self.output.exists() else 0


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def carried(one: Run, url: str, key: str | None = KEY, **how: Any) -> Status:
    return asyncio.run(asyncio.wait_for(run(one.folder, url, key, **how), 60))


def test_what_passes_is_waited_out_and_what_does_not_is_an_error(moody: Moody, desk: Desk) -> None:
    """FIRST 8: OpenAI's lines in and out; 429, 500 and lost connections are tried again, a 4xx never."""
    moods = ("fine", "busy", "cut", "broken", "poison", "html", "nan", "long", "pretty", "late")
    one = desk.ask([f"question {mood}" for mood in moods], retries=2)
    status = carried(one, moody.url)
    assert (status.state, status.total, status.answered, status.failed) == (COMPLETED, 10, 7, 3)
    assert (status.prompt_tokens, status.completion_tokens) == (14, 21)
    assert one.status() == status
    asked = [moody.asked[f"question {mood}"] for mood in moods]
    assert asked == [1, 2, 3, 3, 3, 2, 2, 1, 1, 3]
    first, second = moody.at["question busy"]
    assert second - first >= 1.0, "Retry-After"
    answers = desk.answers
    assert sorted(answers) == ["r0", "r1", "r2", "r3", "r5", "r6", "r8"]
    assert answers["r8"]["choices"][0]["message"]["content"] == "\u2028re: question pretty"
    assert len(desk.output.read_text().splitlines()) == 7, "no reader takes a line for two"
    poison, long, late = sorted(entries(desk.errors), key=lambda entry: entry["line"])
    assert (poison["custom_id"], poison["line"], poison["error"]["code"]) == ("r4", 5, "internal")
    assert poison["response"]["status_code"] == 500
    assert (long["custom_id"], long["response"]["status_code"], long["line"]) == ("r7", 400, 8)
    assert long["response"]["body"]["error"]["message"].startswith("This model's maximum context")
    assert (late["custom_id"], late["response"]["status_code"], late["line"]) == ("r9", 504, 10)
    assert {entry["id"][:10] for entry in (*entries(desk.output), poison, long)} == {"batch_req_"}
    assert carried(one, moody.url).state == COMPLETED
    assert sum(moody.asked.values()) == sum(asked), "nothing is asked twice"


def test_as_many_in_flight_as_the_window_and_all_wait_for_an_engine_that_is_away(
    moody: Moody, desk: Desk
) -> None:
    moody.away = True
    one = desk.ask([f"question {number}" for number in range(300)], window=16)
    seen: list[Status] = []

    def show(status: Status) -> None:
        seen.append(status)
        if len(moody.asked) >= 16:
            moody.away = False

    status = carried(one, moody.url, progress=show)
    assert (status.state, status.answered) == (COMPLETED, 300)
    assert moody.most == 16
    assert max(status.in_flight for status in seen) == 16


def test_the_line_that_ends_the_engine_is_found_and_given_up(moody: Moody, desk: Desk) -> None:
    """Once and again with others, then in small company, at last alone: no other line pays for it."""
    questions = [f"question {number}" for number in range(60)]
    questions[13] += " deadly"
    one = desk.ask(questions, window=40)
    moody.hold.clear()

    def show(status: Status) -> None:
        if len(moody.asked) == 40:
            moody.hold.set()

    status = carried(one, moody.url, progress=show)
    assert (status.state, status.answered, status.failed) == (COMPLETED, 59, 1)
    first, _, third, *alone = moody.deaths
    assert first > 16 >= third
    assert alone == [1, 1]
    (told,) = entries(desk.errors)
    assert (told["custom_id"], told["line"], told["error"]["code"]) == ("r13", 14, "engine_lost")
    assert "at last twice with nothing else" in told["error"]["message"]
    assert len(desk.answers) == 59
    assert carried(one, moody.url).state == COMPLETED
    assert len(moody.deaths) == 5, "it is not asked again"


def test_an_engine_that_breaks_down_on_everything_is_no_line_s_fault(moody: Moody, desk: Desk) -> None:
    one = desk.ask([f"question {number} deadly" for number in range(9)], window=1)
    losses = Losses(one.folder / "losses")
    for number in range(9):
        for _ in range(4):
            losses.add(f"r{number}")
    status = carried(one, moody.url)
    assert (status.state, status.code, status.answered, status.failed) == (STOPPED, "engine-lost", 0, 2)
    assert "broken down with each request" in status.message
    assert len(moody.deaths) == 3


def test_a_wrong_key_is_no_line_s_fault(moody: Moody, desk: Desk) -> None:
    one = desk.ask(["a", "b", "c"])
    status = carried(one, moody.url, "sk-wrong")
    assert (status.state, status.code) == (STOPPED, "denied")
    assert "not the session's" in status.message
    assert desk.lines() == 0
    assert not desk.errors.exists()
    assert carried(one, moody.url).answered == 3


def test_prompts_go_to_no_other_address(moody: Moody, desk: Desk) -> None:
    status = carried(desk.ask(["question elsewhere", "b"], window=1), moody.url)
    assert (status.state, status.code, status.done) == (STOPPED, "denied", 0)
    assert "sends elsewhere (HTTP 307)" in status.message
    assert sum(moody.asked.values()) == 1


def test_cancel_ends_a_run_and_keeps_what_is_answered(moody: Moody, desk: Desk) -> None:
    one = desk.ask([f"question {number}" for number in range(600)], window=8)

    def show(status: Status) -> None:
        if status.answered > 50:
            Run(one.folder).cancel()

    status = carried(one, moody.url, progress=show)
    assert status.state == CANCELLED
    assert 50 < desk.lines() == status.answered < 600
    assert one.status().state == CANCELLED
    one.cancel_path.unlink()
    assert carried(one, moody.url).state == COMPLETED
    assert len(desk.answers) == 600


def test_a_session_that_is_over_ends_it_and_a_full_stop_drains(moody: Moody, desk: Desk) -> None:
    one = desk.ask(["a", "b", "c", "d"], window=2)
    moody.away = True
    status = carried(one, moody.url, gone=lambda: "Session x is over.")
    assert (status.state, status.code, status.message) == (STOPPED, "session-over", "Session x is over.")
    moody.away = False
    moody.hold.clear()
    moody.asked.clear()

    async def stopped() -> Status:
        stop = asyncio.Event()
        going = asyncio.create_task(run(one.folder, moody.url, KEY, stop=stop, drain_s=30))
        while len(moody.asked) < 2:
            await asyncio.sleep(0.01)
        stop.set()
        moody.hold.set()
        return await going

    status = asyncio.run(asyncio.wait_for(stopped(), 60))
    assert (status.state, status.answered) == (STOPPED, 2), (
        "what was in flight came in, and no more was taken"
    )
    assert carried(one, moody.url).answered == 4


def test_the_time_limit_of_a_session_is_not_run_into(moody: Moody, desk: Desk) -> None:
    one = desk.ask([f"question {number}" for number in range(5000)], window=2)
    end = time.time() + 2
    status = carried(one, moody.url, ends_at=lambda: end)
    assert (status.state, status.code) == (STOPPED, "time-limit")
    assert 0 < status.answered == desk.lines() < 5000


def test_hostile_texts_are_asked_as_they_are(moody: Moody, desk: Desk) -> None:
    one = desk.ask([f"{text} fine" for text in HOSTILE])
    assert carried(one, moody.url).answered == len(HOSTILE)
    told = {body["choices"][0]["message"]["content"] for body in desk.answers.values()}
    assert told == {f"\u2028re: {text} fine" for text in HOSTILE}
    assert "touch" not in one.status_path.read_text() + one.spec_path.read_text(), "no prompt in the state"


def test_a_full_disk_keeps_whole_lines_and_the_run_goes_on(moody: Moody, desk: Desk) -> None:
    small = desk.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode:
        skip_loudly("a full disk: this machine does not let us mount a tmpfs")
    try:
        desk.output = small / "out.jsonl"
        one = desk.ask([f"question {number}" for number in range(200)], window=4)
        with pytest.raises(StorageError, match="No space left on device"):
            carried(one, moody.url)
        kept = desk.output.read_bytes()
        assert kept.endswith(b"\n")
        assert "No space left" in one.status().message
        subprocess.run(["mount", "-o", "remount,size=1m", small], check=True)
        assert carried(one, moody.url).state == COMPLETED
        assert len(desk.answers) == 200
        assert desk.output.read_bytes().startswith(kept)
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.fixture
def command(desk: Desk) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`launcher batch` as a process with sessions of its own."""
    begun: list[subprocess.Popen[str]] = []
    places = desk.folder / "sessions", desk.folder / "cache"
    env = {
        **os.environ, "LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull, "LAUNCHER_API_KEY": "sk-other",
        "LAUNCHER_PLACES__SESSIONS": str(places[0]), "LAUNCHER_PLACES__CACHE": str(places[1]),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "batch", *words], env=env, cwd=desk.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_drains_and_says_how_to_go_on(
    desk: Desk, moody: Moody, command: Callable[..., subprocess.Popen[str]]
) -> None:
    desk.ask([f"question {number}" for number in range(4000)])
    key = desk.folder / "key"
    key.write_text(f"{KEY}\n")
    process = command(
        "run", "in.jsonl", "-o", "out.jsonl", "--url", moody.url, "--window", "4", "--key-file", str(key)
    )
    wait_until(lambda: desk.lines() > 20 or process.poll() is not None, 60)
    process.send_signal(signal.SIGINT)
    text, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert " of 4000 answered" in text
    assert "It was stopped. Go on with: launcher batch resume out-" in error
    assert KEY not in text + error
    listed, _ = command("ls", "--json").communicate(timeout=60)
    (listed_run,) = json.loads(listed)["runs"]
    assert (listed_run["state"], listed_run["answered"]) == (STOPPED, desk.lines())
    shown, _ = command("status", "out.jsonl").communicate(timeout=60)
    assert "stopped" in shown
    ended, _ = command("cancel", listed_run["id"][:6], "--json").communicate(timeout=60)
    assert json.loads(ended)["state"] == CANCELLED


def test_without_a_terminal_it_says_once_that_nothing_answers(
    desk: Desk, command: Callable[..., subprocess.Popen[str]]
) -> None:
    desk.ask(["a", "b"])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        at = f"127.0.0.1:{nobody.getsockname()[1]}"
        process = command("run", "in.jsonl", "-o", "out.jsonl", "--url", f"http://{at}/v1")
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert said == f"launcher: Waiting: {at} does not answer: Connection refused.\n"
    assert "Waiting: " not in rest


def test_what_cannot_be_is_said_in_a_sentence(
    desk: Desk, launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk.folder)
    desk.ask(["a"])
    (desk.folder / "empty.jsonl").write_text("\ufeff\n \r\n")
    (desk.folder / "nameless.jsonl").write_text("{}\n")
    at_x, texts = ["run", "in.jsonl", "--url", "http://x"], ["--prompt-file", "in.jsonl", "--input-dir", "."]
    for words, code, said in (
        (["run", "nowhere.jsonl"], 2, "nowhere.jsonl is no file."),
        (["run", "in.jsonl", "-o", "no/such/folder"], 2, "cannot be the output"),
        (["run", "in.jsonl", "-o", "in.jsonl"], 2, "must be three files; the output is "),
        (["run", "in.jsonl", "--url", "ftp://x"], 2, '"ftp://x" is no address.'),
        ([*at_x, "--session", "y"], 2, "Leave out --session or --url"),
        ([*at_x, "--hours", "2"], 2, "takes no --hours"),
        ([*at_x, "--detach"], 2, "goes on by itself"),
        (["run", "in.jsonl", "--session", "nobody"], 6, 'no session "nobody"'),
        (["run", "empty.jsonl"], 2, "empty.jsonl has no request."),
        (["run", "empty.jsonl", "--url", "http://x"], 2, "empty.jsonl has no request."),
        (["run", "nameless.jsonl"], 2, "Which model shall answer?"),
        (["run", "in.jsonl", "--model", "no/such-model"], 4, "no/such-model"),
        (["run", "in.jsonl", "--window", "0", "--url", "http://x"], 2, "window of 0"),
        ([*at_x, "--key-file", "gone"], 2, "gone cannot be read: No such file"),
        (["status", "nothing"], 6, 'There is no batch run "nothing".'),
        (["chat", *texts, "-o", "."], 2, "may not lie where the texts are"),
    ):
        assert main(["batch", *words]) == code, words
        assert said in capsys.readouterr().err, words
    (desk.folder / "bad.jsonl").write_text("{not \x1b[2JJSON\n")
    assert main(["batch", "run", "bad.jsonl", "--url", "http://x"]) == 1
    assert "\nFirst:   line 1: The line is not JSON: " in capsys.readouterr().out


def test_a_run_is_forgotten_and_its_files_stay(
    desk: Desk, moody: Moody, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.ask(["a", "b"])
    begun = batch_runs.begin(launcher, desk.input, desk.output, url=moody.url)
    with Work(begun.run):
        assert main(["batch", "rm", begun.id]) == 2
        assert "goes on" in capsys.readouterr().err
    assert carried(begun.run, moody.url).answered == 2
    texts = desk.input.read_bytes(), desk.output.read_bytes()
    for wrong in (*HOSTILE, "..", ".", "/", str(desk.folder), "~"):
        assert main(["batch", "rm", f"--older-than={wrong}"]) == 2
        if not wrong.startswith("-"):
            assert main(["batch", "rm", wrong]) == 6
    assert main(["batch", "rm"]) == 2
    assert main(["batch", "rm", begun.id, "--older-than", "1d"]) == 2
    assert main(["batch", "rm", "--older-than", "1h"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert begun.run.folder.is_dir()
    assert main(["batch", "rm", str(desk.output)]) == 0
    assert f"Its answers stay: {desk.output}" in capsys.readouterr().out
    assert list(begun.run.folder.parent.iterdir()) == []
    assert launcher.batch_runs() == []
    assert texts == (desk.input.read_bytes(), desk.output.read_bytes())
    again = batch_runs.begin(launcher, desk.input, desk.output, url=moody.url)
    assert carried(again.run, moody.url).answered == 2
    assert sum(moody.asked.values()) == 2, "what stands in the output is done"

"""`launcher top` and `launcher metrics` as their user sees them: in a real terminal, over real sessions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Launcher, Session
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.programs.terminal import ROOT, Terminal, launcher
from tests.settings import without_site

pytestmark = pytest.mark.timeout(120)


class Desk:
    """A user with three sessions: one that writes a long answer, one whose processes are frozen, one that failed."""

    def __init__(self, folder: Path) -> None:
        self.env = {"HOME": str(folder / "home"), **without_site(folder)}
        self.launcher = Launcher(load(self.env))
        quick = ("--start-delay-s", "0")
        self.busy = self.launcher.launch(
            "simulated", engine_args=(*quick, "--token-rate", "100", "--tokens", "100000")
        )
        self.frozen = self.launcher.launch("simulated", engine_args=quick)
        self.failed = self.launcher.launch(
            "simulated", engine_args=("--fail-at", "start", "--fail-with", "no GPU")
        )
        for session in (self.busy, self.frozen):
            session.wait(60)
        wait_until(lambda: self.failed.status().ended, 60)
        self.frozen_pid = self.frozen.status().pid or 0
        os.kill(self.frozen_pid, signal.SIGSTOP)
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        # The session's end ends it.
        with contextlib.suppress(Exception), self.busy.openai(max_retries=0) as client:
            for _ in client.chat.completions.create(
                model="simulated", messages=[{"role": "user", "content": "Write a book."}], stream=True
            ):
                pass

    def close(self) -> None:
        os.kill(self.frozen_pid, signal.SIGCONT)
        for session in self.launcher.sessions():
            session.stop(wait=False)
        for session in self.launcher.sessions():
            session.stop()

    def terminal(self, *arguments: str, columns: int = 80, lines: int = 24, **env: str) -> Terminal:
        return Terminal(launcher(*arguments), columns=columns, lines=lines, env={**self.env, **env})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        env = {**os.environ, **self.env}
        return subprocess.Popen(launcher(*arguments), cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            launcher(*arguments), cwd=ROOT, env={**os.environ, **self.env}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    try:
        yield made
    finally:
        made.close()


def row_of(session: Session, rows: list[str]) -> str:
    return next((row for row in rows if session.id in row), "")


def rate(row: str) -> int:
    """Tokens a second in the row of a ready session without GPUs."""
    cells = row.replace(">", " ").split()
    return int(cells[cells.index("READY") + 1]) if "READY" in cells and len(cells) > 6 else 0


def test_all_sessions_are_on_one_screen_and_keys_choose(desk: Desk) -> None:
    with desk.terminal("top") as terminal:
        # The one that is frozen says nothing, and holds nothing up.
        # Its first figure may be that of a second in which the answer had just begun.
        wait_until(lambda: 10 <= rate(row_of(desk.busy, terminal.rows)) <= 400)
        rows = terminal.rows
        assert "3 sessions, 2 ready" in rows[0]
        assert rows[1].split()[:8] == ["ID", "Model", "State", "Phase", "Tok/s", "Run", "Wait", "Left"]
        assert "READY" in row_of(desk.frozen, rows)
        assert "FAILED" in row_of(desk.failed, rows)
        assert rows.index(row_of(desk.failed, rows)) == 4  # what is over comes last
        assert rows[2].startswith(">")
        terminal.press("down")
        wait_until(lambda: terminal.rows[3].startswith(">"))
        terminal.press("k")
        wait_until(lambda: terminal.rows[2].startswith(">"))
        assert {"green", "red"} & terminal.colours(3) | terminal.colours(4)
        terminal.press("q")
        assert terminal.ended() == 0
        assert "\x1b[?1049l" in terminal.sent.decode()  # the shell's own screen is there again


def test_details_log_and_the_command_that_connects(desk: Desk) -> None:
    with desk.terminal("top", lines=40) as terminal:
        terminal.wait_for(desk.failed.id)
        terminal.press("G", "enter")
        terminal.wait_for("What to do")
        wait_until(lambda: "FAILED" in terminal.text)
        shown = str(desk.failed.paths.root)
        wait_until(lambda: shown in terminal.text.replace("\n", "").replace(" ", ""))
        terminal.press("esc")
        terminal.wait_for("q leave")
        terminal.press("l")
        terminal.wait_for("no GPU")
        assert terminal.rows[0].startswith(f"engine.log of {desk.failed.id}")
        terminal.press("tab")
        terminal.wait_without("engine.log of")
        terminal.press("q", "c")
        terminal.wait_for("launcher connect")
        # Alone on its line, to be copied.
        wait_until(lambda: f"launcher connect {desk.failed.id}" in terminal.rows)
        terminal.press("q", "q")
        assert terminal.ended() == 0


def test_a_session_is_stopped_only_after_a_yes(desk: Desk) -> None:
    own = desk.launcher.launch("simulated", engine_args=("--start-delay-s", "0"))
    with desk.terminal("top") as terminal:
        terminal.wait_for(own.id)
        terminal.press("g", "s")
        terminal.wait_for(f"Stop {own.id}?")
        terminal.press("n")
        terminal.wait_without("Stop ")
        assert not own.status().ended
        terminal.press("s", "y")
        terminal.wait_for("was asked for")
        wait_until(lambda: own.status().ended)
        assert own.status().reason == "user"
        terminal.press("q")
        assert terminal.ended() == 0


def test_the_window_may_be_any_size_and_change_it(desk: Desk) -> None:
    with desk.terminal("top", columns=200, lines=50) as terminal:
        terminal.wait_for("Wait")
        assert all(word in terminal.rows[1] for word in ("Model", "State", "Phase", "Wait", "Left"))
        terminal.resize(40, 6)
        terminal.wait_without("Phase")
        # A resize shows what was there, moved, until it is drawn anew.
        wait_until(lambda: "State" in (head := terminal.rows[1]) and "Model" not in head)
        terminal.wait_for(desk.busy.id[-8:])
        # Whole words, the way out among them.
        wait_until(lambda: terminal.rows[5] == "q leave  Enter details  s stop  l logs")
        terminal.resize(9, 2)
        terminal.press("j", "enter", "l", "esc", "esc")
        terminal.resize(80, 24)
        terminal.wait_for("q leave")
        terminal.press("ctrl-c")
        assert terminal.ended() == 130
        assert "Traceback" not in terminal.sent.decode()


# Not `ansi` nor `xterm`: curses sends them CSI I and CSI b (tabulators, repeated letters), which pyte does not know.
@pytest.mark.parametrize(
    ("term", "locale"),
    [("vt100", "C.UTF-8"), ("vt220", "C"), ("linux", "POSIX"), ("screen", "en_US.ISO-8859-1")],
)
def test_terminals_without_colours_or_letters(desk: Desk, term: str, locale: str) -> None:
    with desk.terminal("top", columns=60, TERM=term, LC_ALL=locale) as terminal:
        row = row_of(desk.busy, terminal.wait_for(desk.busy.id))
        assert row.isascii()
        terminal.press("down", "l")
        terminal.wait_for("engine.log")
        terminal.press("q", "q")
        assert terminal.ended() == 0


def test_a_controller_that_hangs_does_not_hold_the_keys_up(desk: Desk, tmp_path: Path) -> None:
    """squeue may take a minute to give up; the list, the pages and q must not."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    pid = tmp_path / "pid"
    squeue.write_text(f"#!/bin/sh\necho $$ >'{pid}'\nexec sleep 60\n")
    squeue.chmod(0o755)
    site = tmp_path / "site.yml"
    site.write_text("clusters: {far: {scheduler: slurm}}\nprofiles: {cpu: {cluster: far}}\n")
    sessions = tmp_path / "sessions"
    plan = json.loads(desk.busy.paths.plan.read_text())
    plan["id"], plan["cluster"]["scheduler"] = "waiting-00000001", "slurm"
    (sessions / plan["id"]).mkdir(parents=True, mode=0o700)
    (sessions / plan["id"] / "session.json").write_text(json.dumps(plan))
    path = f"{squeue.parent}{os.pathsep}{os.environ['PATH']}"
    with desk.terminal(
        "top", PATH=path, LAUNCHER_SITE=str(site), LAUNCHER_PLACES__SESSIONS=str(sessions)
    ) as terminal:
        wait_until(pid.exists)
        terminal.wait_for("Looking for your sessions")
        terminal.press("j", "q")
        assert terminal.ended() == 0
    os.kill(
        int(pid.read_text()), signal.SIGKILL
    )  # the last question is nobody's now; Slurm's own gives up by itself


def test_without_a_terminal_there_is_one_table_or_json(desk: Desk) -> None:
    once = desk.run("top")
    assert once.returncode == 0
    assert row_of(desk.busy, once.stdout.splitlines())
    found = {one["id"]: one for one in json.loads(desk.run("top", "--json").stdout)["sessions"]}
    assert found[desk.busy.id]["metrics"]["requests_running"] == 1
    assert 10 <= found[desk.busy.id]["metrics"]["generation_tokens_per_sec"] <= 400
    assert found[desk.frozen.id]["metrics"] is None
    assert (found[desk.failed.id]["state"], found[desk.failed.id]["metrics"]) == ("FAILED", None)
    assert desk.busy.paths.key.read_text().strip() not in json.dumps(found)
    with desk.terminal("top", TERM="dumb") as terminal:
        terminal.wait_for("launcher top --once")
        assert terminal.ended() == 2


def test_metrics_are_drawn_again_in_their_place_until_ctrl_c(desk: Desk) -> None:
    """vec-inf 7: the rows stream to the console, anew every two seconds."""
    with desk.terminal("metrics", desk.busy.id, lines=30) as terminal:
        terminal.wait_for("tokens/s")
        wait_until(
            lambda: any("Generation Throughput" in row and "tokens/s" in row for row in terminal.rows), 10
        )
        rows = terminal.wait_for("Requests Swapped")
        assert sum("Requests Running" in row for row in rows) == 1
        assert "1 reqs" in next(row for row in rows if "Requests Running" in row)
        wait_until(lambda: any("Requests Swapped" in row and "not reported" in row for row in terminal.rows))
        terminal.press("ctrl-c")
        assert terminal.ended() == 130


def test_metrics_for_scripts(desk: Desk) -> None:
    silent = desk.start("metrics", desk.frozen.id, "--json")  # it takes a while to give up
    once = json.loads(desk.run("metrics", desk.busy.id, "--json").stdout)
    assert once["id"] == desk.busy.id
    assert once["requests_running"] == 1
    assert once["requests_swapped"] is None
    assert "Generation Throughput" in desk.run("metrics", desk.busy.id, "--once").stdout
    with desk.start("metrics", desk.busy.id, "--json", "-f") as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert lines[0]["generation_tokens_per_sec"] is None
    assert lines[1]["total_generation_tokens"] > lines[0]["total_generation_tokens"]
    said, _ = silent.communicate(timeout=60)
    assert silent.returncode == 6
    assert "no answer within" in json.loads(said)["error"]["message"]
    failed = desk.run("metrics", desk.failed.id)
    assert failed.returncode == 6
    assert "is FAILED and has no metrics" in failed.stderr


def test_metrics_that_are_followed_end_with_the_session(desk: Desk) -> None:
    own = desk.launcher.launch("simulated", engine_args=("--start-delay-s", "0"))
    own.wait(60)
    with desk.start("metrics", own.id, "--json", "--follow") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["requests_running"] == 0
        own.stop()
        assert process.wait(60) == 0
        assert process.stderr.read() == f"{own.id}: SHUTDOWN. You stopped the session.\n"

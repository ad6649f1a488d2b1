"""The scheduler's programs, as bad as they come: endless, silent, failing, broken off. None fills memory."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from launcher.errors import SchedulerError
from launcher.schedulers.command import run
from tests.programs.front import wait_until


def program(folder: Path, text: str) -> str:
    file = folder / "squeue"
    file.write_text(f"#!/bin/sh\necho $$ > '{folder}/pid'\n{text}\n")
    file.chmod(0o755)
    return str(file)


def is_gone(folder: Path) -> bool:
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_output_and_errors_are_told_apart(tmp_path: Path) -> None:
    squeue = program(tmp_path, "printf 'gr\\303\\274n \\377\\n'; echo oh >&2")
    assert run([squeue]) == "grün \ufffd\n"
    assert run([squeue], errors_too=True) == "grün \ufffd\noh\n"


def test_a_refusal_is_in_the_programs_words(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="refused: no such partition"):
        run([program(tmp_path, "echo 'no such partition' >&2; exit 3")])


@pytest.mark.parametrize("where", ["", ">&2"])
def test_an_endless_program_is_stopped_and_not_kept(tmp_path: Path, where: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SchedulerError, match=r"gave too much output \(more than 32 MB\)"):
        run([program(tmp_path, f"exec yes 'a job that nobody has' {where}")])
    assert is_gone(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_large_answer_comes_whole(tmp_path: Path) -> None:
    squeue = program(tmp_path, "head -c 8000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero >&2")
    assert run([squeue]) == "x" * 8_000_000


@pytest.mark.parametrize(
    "text", ["exec sleep 60", "echo begun; exec sleep 60", "exec >&- 2>&-; exec sleep 60"]
)
def test_a_silent_program_has_its_time(tmp_path: Path, text: str) -> None:
    with pytest.raises(SchedulerError, match=r"did not answer within 0\.5 s"):
        run([program(tmp_path, text)], timeout_s=0.5)
    assert is_gone(tmp_path)


def test_ctrl_c_takes_the_program_with_it(tmp_path: Path) -> None:
    squeue = program(tmp_path, "exec sleep 60")

    def press() -> None:
        pid = tmp_path / "pid"
        wait_until(lambda: pid.exists() and pid.read_text().strip())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run([squeue])
    thread.join()
    assert is_gone(tmp_path)


def test_a_program_that_is_not_there_or_not_runnable(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="There is no program"):
        run([str(tmp_path / "squeue")])
    (tmp_path / "squeue").write_text("")
    with pytest.raises(SchedulerError, match="cannot be run: "):
        run([str(tmp_path / "squeue")])

"""A desk for `launcher transcribe`: recordings, the command as a process, and a session for all tests of a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import Launcher, Session
from launcher.settings.layers import load
from tests.programs.front import size_of, wait_until
from tests.speech import speech

WORDS = ("zero", "one", "two", "three", "yes", "no", "hello", "stop", "go")
ENDINGS = ("json", "srt", "tsv", "txt", "vtt")
ALL = ("--words", "--format", ",".join(ENDINGS))
# One thread: a measurement at each start would take longer than what is transcribed here. Two seconds are one word,
# which is what the model knows.
SITE = """
catalog:
  words:
    {engine: whisper, path: "shipped:tiny-whisper", engine_args: [--stretch-s, "2", --threads, "1", --parallel, "1"]}
session: {page: false}
"""


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    text: str
    error: str

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def states(self) -> dict[str, str]:
        """The state of each recording, of `--json`."""
        return {os.path.basename(one["path"]): one["state"] for one in self.data["recordings"]}


class Desk:
    """A folder with a site, sessions and recordings of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        site = folder / "site.yml"
        site.write_text(SITE)
        self.env = {
            **os.environ,
            "LAUNCHER_SITE": str(site),
            "LAUNCHER_CONFIG": os.devnull,
            "LAUNCHER_NETWORK__BIND": "127.0.0.1",
            "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"),
            "LAUNCHER_PLACES__CACHE": str(folder / "cache"),
        }
        self.launcher = Launcher(load(self.env))
        self._processes: list[subprocess.Popen[str]] = []

    def session(self) -> Session:
        """A session that a person has started, ready."""
        session = self.launcher.launch("words", page=False)
        session.wait(90)
        return session

    def audio(self, path: str, repeat: int = 1, words: Sequence[str] = WORDS) -> Path:
        """A recording of spoken words, about 1.6 s each."""
        made = self.folder / path
        made.parent.mkdir(parents=True, exist_ok=True)
        return speech(words, made, repeat=repeat)

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """The command in this folder; Ctrl-C reaches it though the tests may run in the background."""
        process = subprocess.Popen(
            [*options.pop("before", ()), sys.executable, "-m", "launcher", "transcribe", *arguments],
            cwd=options.pop("cwd", self.folder),
            env={**self.env, "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=options.pop("terminal", subprocess.PIPE),
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )
        self._processes.append(process)
        return process

    def run(self, *arguments: str, timeout_s: float = 100, **options: Any) -> Done:
        with self.start(*arguments, **options) as process:
            try:
                text, error = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return Done(process.returncode, text, error)

    def journalled(self, folder: str) -> int:
        """Bytes in the journals below `folder`: how far the work is."""
        return sum(size_of(path) for path in (self.folder / folder).rglob(".*.launcher.jsonl"))

    def wait_for_pieces(self, folder: str, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many further bytes are journalled, or the command is over."""
        goal = self.journalled(folder) + count
        wait_until(lambda: self.journalled(folder) >= goal or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for session in self.launcher.sessions():
            session.stop()


def transcripts(folder: Path) -> dict[str, bytes]:
    """Every transcript below `folder`, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix[1:] in ENDINGS and path.is_file()
    }


def left_behind(folder: Path) -> list[str]:
    """Hidden files below `folder` beside the ledger: there should be none after the work is done."""
    hidden = [path.name for path in folder.rglob(".*") if path.name != ".launcher-transcripts.jsonl"]
    return sorted(hidden)


@contextmanager
def desk(folder: Path) -> Iterator[Desk]:
    """A desk that leaves no session running."""
    made = Desk(folder)
    try:
        yield made
    finally:
        made.close()

"""A real Whisper server with the shipped tiny model, on a Unix socket, one for all the tests of this folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import openai
import pytest

from tests.programs.front import ROOT, Answer, ask_socket, wait_until
from tests.speech import needs_speech, say, speech

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
NAME = "tiny-whisper"
MOST_REQUESTS = 3
MOST_BYTES = 30_000_000  # of an upload
DISK_BYTES = 16 << 20  # of the disk that uploads go to, where the tests may make one
MOST_HOURS = 0.2


@dataclass
class Running:
    """The server: its process, its socket, the folder it may read, the disk for uploads, and the openai client."""

    process: subprocess.Popen[bytes]
    socket: Path
    folder: Path
    scratch: Path
    log: Path
    small_disk: bool
    client: openai.OpenAI

    def post(self, fields: Mapping[str, str], *, own: bool = True) -> httpx2.Response:
        """A transcription that is asked for with fields alone, in a plain form."""
        raw = {name: os.fsencode(value) for name, value in fields.items()}
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | (
            {"X-Launcher-Own": "1"} if own else {}
        )
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.socket)), timeout=60) as client:
            return client.post(
                "http://session/v1/audio/transcriptions", content=urlencode(raw), headers=headers
            )

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = ask_socket(self.socket, "/health").json()
        return answer

    def rests(self) -> bool:
        """Whether no request runs and nothing of any is left in the queue or on the disk."""
        health = self.health()
        return not health["requests"] and not health["stretches"] and not self.disk_used()

    def disk_used(self) -> int:
        """Bytes that are taken of the small disk, by files with or without a name."""
        place = os.statvfs(self.scratch)
        named = sum(1 for _ in self.scratch.iterdir())
        return named + ((place.f_blocks - place.f_bfree) * place.f_frsize if self.small_disk else 0)


@contextlib.contextmanager
def whisper_server(base: Path, *options: str, scratch: Path | None = None) -> Iterator[Running]:
    """A server of its own, ready to answer."""
    folder = base / "audio"
    folder.mkdir()
    small_disk = scratch is not None
    if scratch is None:
        (scratch := base / "scratch").mkdir()
    socket, log = base / "whisper.sock", base / "whisper.log"
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "launcher.whisper",
        "--uds",
        socket,
        "--model",
        MODEL,
        "--served-name",
        NAME,
    ]
    argv += [
        "--scratch",
        scratch,
        "--folder",
        folder,
        "--cache",
        base / "cache",
        "--threads",
        "1",
        "--parallel",
        "1",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen([*argv, *options], cwd=ROOT, stdout=stream, stderr=stream)
    client = openai.OpenAI(
        api_key="unused",
        base_url="http://session/v1",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), timeout=60),
    )
    running = Running(process, socket, folder, scratch, log, small_disk, client)
    try:
        wait_until(lambda: _answers(socket) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _answers(socket: Path) -> bool:
    answer: Answer | None = None
    with contextlib.suppress(OSError):
        answer = ask_socket(socket, "/health")
    return answer is not None and answer.status == 200


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all; each test leaves it at rest."""
    needs_speech()
    base = tmp_path_factory.mktemp("whisper")
    options = ["--max-requests", str(MOST_REQUESTS), "--max-upload-gb", str(MOST_BYTES / 1e9)]
    options += ["--max-hours", str(MOST_HOURS), "--stretch-s", "2"]
    with small_disk(base / "disk") as disk, whisper_server(base, *options, scratch=disk) as running:
        yield running


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of `DISK_BYTES`, which a test can fill; None where the tests may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def at_rest(server: Running) -> Iterator[None]:
    """After each test, whatever it did, the server is there and nothing is left."""
    yield
    assert server.process.poll() is None, server.log.read_text()
    wait_until(server.rests)


@pytest.fixture(scope="session")
def word(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One spoken word: yes."""
    return say("yes", tmp_path_factory.mktemp("word") / "yes.wav")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three spoken words with pauses: one, two, three."""
    return speech(["one", "two", "three"], tmp_path_factory.mktemp("words") / "words.wav", gap_s=1.2)


@pytest.fixture(scope="session")
def long_speech(server: Running) -> Path:
    """Ten minutes of words, in the folder that the server may read."""
    return speech(["one", "two", "stop", "go"], server.folder / "long.wav", gap_s=0.8, repeat=110)

"""Files and forms that were made to do harm: each gets a clear answer, and the server is as well as before."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from pathlib import Path

import pytest

from launcher.errors import ModelError
from launcher.whisper.places import Places
from launcher.whisper.refusal import Refusal
from launcher.whisper.server import Server
from launcher.whisper.transcriber import Transcriber
from tests.speech import silence
from tests.whisper.conftest import MODEL, NAME, Running
from tests.whisper.wire import ask, form

pytestmark = pytest.mark.usefixtures("at_rest")


def wav(rate_hz: int, channels: int, data: bytes) -> bytes:
    """A file of 8-bit samples that says what it likes of itself."""
    head = struct.pack("<HHIIHH", 1, channels, rate_hz, (rate_hz * channels) % 2**32, channels, 8)
    return b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("rate_hz", "channels", "seconds"),
    [
        (1, 1, 700),
        (999, 1, 1),
        (2_000_000_000, 1, 0.001),
        (2**31 - 1, 1, 0.001),
        (16_000, 255, 0.5),
        (16_000, 60_000, 0.01),
    ],
)
def test_a_sound_that_no_microphone_makes_is_no_sound(
    server: Running, rate_hz: int, channels: int, seconds: float
) -> None:
    """From a rate of 1 Hz, a file of 70 kB would take gigabytes of memory."""
    data = b"\x80" * int(rate_hz * channels * seconds)
    answer = ask(server.socket, form({"model": NAME}, wav(rate_hz, channels, data)))
    assert answer.status == 400, answer.body
    assert answer.json()["error"]["param"] == "file"


@pytest.mark.parametrize("language", ["zz", "xxx"])
def test_a_place_to_go_on_from_cannot_name_a_language_that_is_none(
    server: Running, word: Path, language: str
) -> None:
    fields = {"model": NAME, "stream": "true", "response_format": "verbose_json"}
    events = ask(server.socket, form(fields, word.read_bytes())).body.decode()
    cursor = next(json.loads(line[6:])["cursor"] for line in events.splitlines() if '"cursor"' in line)
    forged = f"1.0.0.{language}..0.0.{cursor.rpartition('.')[2]}"
    answer = ask(server.socket, form({"model": NAME, "resume_from": forged}, word.read_bytes()))
    assert (answer.status, answer.json()["error"]["param"]) == (400, "resume_from")


@pytest.mark.parametrize("path", ["/proc/self/mem", "~nobody\0", "~\0/a.wav"])
def test_a_path_that_cannot_be_read_is_refused(server: Running, path: str) -> None:
    answer = server.post({"model": NAME, "path": path})
    assert answer.status_code in (400, 403)
    assert answer.json()["error"]["param"] in ("file", "path")


def test_silences_longer_than_what_is_looked_at_keep_the_times_right(server: Running, tmp_path: Path) -> None:
    still = silence(tmp_path / "still.wav", 130).read_bytes()
    options = {"min_silence_duration_ms": 60_000, "speech_pad_ms": 60_000}
    fields = {
        "model": NAME,
        "stream": "true",
        "response_format": "verbose_json",
        "vad_parameters": json.dumps(options),
    }
    events = ask(server.socket, form(fields, still)).body.decode()
    lines = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    done = [line["done_s"] for line in lines if "done_s" in line]
    assert done == sorted(done)
    assert done[0] > 0
    assert done[-1] == 130


def test_other_keys_leave_places_for_the_sessions_own() -> None:
    places = Places(8, lambda: 5)
    with contextlib.ExitStack() as open_uploads:
        for _ in range(6):
            open_uploads.enter_context(places.one(own=False))
        with pytest.raises(Refusal, match="works on 6 requests"), places.one(own=False):
            pass
        for _ in range(2):
            open_uploads.enter_context(places.one(own=True))
        with pytest.raises(Refusal), places.one(own=True):
            pass
    assert places.taken == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", '{"feature_size": 80, "hop_length": 0, "n_fft": 0, "sampling_rate": 0}'),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", "<|en|>"),
        ("config.json", "{"),
        ("model.bin", "\6\0\0\0\xff\xff"),
    ],
)
def test_a_crafted_model_is_refused_with_a_sentence(tmp_path: Path, file: str, content: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=r"cannot be loaded|config\.json"):
        Transcriber(folder, Server(device="cpu", threads=1, parallel=1))


def test_a_model_without_languages_is_refused_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    words = (folder / "tokenizer.json").read_text()
    for code in Transcriber(folder, Server(device="cpu", threads=1, parallel=1)).languages:
        words = words.replace(f'"<|{code}|>"', f'"<|x{code}|>"')
    (folder / "tokenizer.json").write_text(words)
    with pytest.raises(ModelError, match=r"names no language|cannot be loaded"):
        Transcriber(folder, Server(device="cpu", threads=1, parallel=1))

"""What the machine offers: threads by a measurement that is kept, and what it does not have said in a sentence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import EngineError, LauncherError, ModelError
from launcher.whisper.device import choose, cores
from launcher.whisper.model import Model
from launcher.whisper.server import Server
from launcher.whisper.threads import measured, splits
from tests.site import ROOT

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"


@pytest.mark.parametrize(
    ("count", "most", "tried"),
    [
        (1, 99, [(1, 1)]),
        (2, 99, [(1, 2), (2, 1)]),
        (6, 99, [(1, 6), (2, 3), (4, 1), (6, 1)]),
        (16, 99, [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]),
        (16, 5, [(4, 4), (8, 2), (16, 1)]),  # no memory for more
        (64, 1, [(64, 1)]),
    ],
)
def test_cores_are_split_in_halves(count: int, most: int, tried: list[tuple[int, int]]) -> None:
    assert splits(count, most) == tried


def test_threads_are_measured_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tried = [(1, 2), (2, 1)]
    cache = tmp_path / "a 'cache'"
    best = measured(MODEL, 10**6, "int8", tried, cache)
    assert best in tried
    assert caplog.records[0].message == "Measuring threads"
    caplog.clear()
    assert measured(MODEL, 10**6, "int8", tried, cache) == best
    assert not caplog.records
    (kept,) = cache.iterdir()
    for spoilt in ('{"threads": 7, "parallel": 7}', "[]", "", '{"threads": "x"}', "\0"):
        kept.write_text(spoilt)
        assert measured(MODEL, 10**6, "int8", tried, cache) in tried
        assert caplog.records
        caplog.clear()


def test_a_cache_that_cannot_be_written_is_no_trouble() -> None:
    assert measured(MODEL, 10**6, "int8", [(1, 2)], Path("/proc/nowhere")) == (1, 2)


def test_only_our_cores_count() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from launcher.whisper.device import cores; print(cores())"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "1\n"
    assert 1 <= cores() <= len(os.sched_getaffinity(0))


def test_options_are_followed() -> None:
    found = choose(Server(device="cpu", threads=1, parallel=3, batch_size=5), MODEL)
    assert (found.name, found.threads, found.parallel, found.batch_size) == ("cpu", 1, 3, 5)
    assert found.compute_type == "int8"
    halves = choose(Server(device="cpu", parallel=cores()), MODEL)
    assert (halves.threads, halves.parallel) == (1, cores())


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Server(device="cuda"), "finds no GPU here"),
        (Server(device="cpu", compute_type="float16"), "Choose one of float32"),
        (Server(device="cpu", compute_type="'; $(id)"), "--compute-type '; $(id)"),
    ],
)
def test_what_the_machine_does_not_have_is_said(server: Server, words: str) -> None:
    with pytest.raises(EngineError) as said:
        choose(server, MODEL)
    assert words in str(said.value)


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    device = choose(Server(device="cpu", threads=1, parallel=1), MODEL)
    with pytest.raises(LauncherError):
        choose(Server(), tmp_path)
    with pytest.raises(ModelError, match=r"model\.bin is missing"):
        Model(tmp_path, device, 5)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    (tmp_path / "model.bin").write_bytes((MODEL / "model.bin").read_bytes()[:100_000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Model(tmp_path, device, 5)

"""What the real CTranslate2 and tokenizers say of broken models and missing hardware is understood."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.engines.whisper_log import explain
from tests.engines.whisper_plans import TINY_WHISPER

Change = Callable[[Path], object]
_BINARY, _VERSION = "model.bin", struct.Struct("<I")

# One process for all: importing CTranslate2 takes a second.
_PROGRAM = """
import json, sys, traceback
import ctranslate2, tokenizers
for case in json.load(sys.stdin):
    try:
        ctranslate2.models.Whisper(case["folder"], intra_threads=1, **{"device": "cpu", **case["options"]})
        tokenizers.Tokenizer.from_file(case["folder"] + "/tokenizer.json")
        print(json.dumps(""))
    except Exception:
        print(json.dumps(traceback.format_exc()))
"""


def broken_off(folder: Path) -> None:
    whole = (folder / _BINARY).read_bytes()
    (folder / _BINARY).write_bytes(whole[: len(whole) // 2])


def newer(folder: Path) -> None:
    whole = (folder / _BINARY).read_bytes()
    (folder / _BINARY).write_bytes(_VERSION.pack(7) + whole[4:])


def vocabulary(folder: Path) -> None:
    for path in folder.glob("vocabulary.*"):
        path.unlink()


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def nothing(_: Path) -> None:
    pass


CASES: dict[str, tuple[Change, dict[str, str], str, str]] = {
    "a model broken off": (broken_off, {}, "model-files", "a file of the model is damaged or broken off"),
    "no model.bin": (
        lambda folder: (folder / _BINARY).unlink(),
        {},
        "model-files",
        "the model's model.bin is missing",
    ),
    "no vocabulary": (vocabulary, {}, "model-files", "the model's vocabulary is missing"),
    "a broken config": (
        write("config.json", "{x"),
        {},
        "model-files",
        "a file of the model is damaged or broken off",
    ),
    "a broken tokenizer": (
        write("tokenizer.json", '{"a":'),
        {},
        "model-files",
        "the model's tokenizer.json is missing or damaged",
    ),
    "a newer format": (newer, {}, "unsupported-model", "this CTranslate2 is too old for the model"),
    "halves on a processor": (
        nothing,
        {"compute_type": "float16"},
        "hardware",
        "this processor or GPU cannot compute in float16",
    ),
    "no GPU": (nothing, {"device": "cuda"}, "no-gpu", "it found no GPU that it can use"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each case puts into the log."""
    pytest.importorskip("ctranslate2")
    asked = []
    for number, (change, options, _, _) in enumerate(CASES.values()):
        folder = tmp_path_factory.mktemp("whisper") / str(number)
        shutil.copytree(TINY_WHISPER, folder)
        change(folder)
        asked.append({"folder": str(folder), "options": options})
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_real_death_has_its_sentence(said: dict[str, str], case: str) -> None:
    _, _, reason, words = CASES[case]
    if case == "no GPU" and not said[case]:
        pytest.skip("this machine has a GPU")
    found = explain(said[case], 1, False, 1.0)
    assert (found.reason, words in found.message) == (reason, True), f"{found.message}\n{said[case]}"

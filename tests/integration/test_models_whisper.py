"""Whisper models from the hub: by faster-whisper's names, whole, found again, and the other format told apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.models import CONFIG, Models, before_a_hub, weights
from tests.snapshots import ctranslate2, variables

TURBO = "deepdml/faster-whisper-large-v3-turbo-ct2"
FILES = {
    "config.json": b'{"lang_ids": [1], "suppress_ids": []}',
    "model.bin": ctranslate2(shapes=variables(128, hidden=256)),
    "preprocessor_config.json": b'{"feature_size": 128}',
    "tokenizer.json": b"{}",
    "vocabulary.json": b"[]",
    "README.md": b"free",
}


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with before_a_hub(tmp_path) as made:
        made.hub.add(TURBO, FILES)
        clusters, profiles = {"here": {"scheduler": "local"}}, {"node": {"cluster": "here", "memory_gb": 8}}
        made.settle(clusters=clusters, profiles=profiles)
        yield made


def launcher(models: Models, *arguments: str, code: int = 0) -> str:
    """What `launcher ARGUMENTS` prints; its error where another exit code is expected."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *arguments], env=models.env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def test_a_name_of_faster_whispers_is_downloaded_and_found(models: Models) -> None:
    out, error = models.run("add", "turbo")
    assert TURBO in out
    assert error == ""
    (listed,) = json.loads(models.run("ls", "--json")[0])["models"]
    assert (listed["id"], listed["trouble"], listed["task"]) == (TURBO, None, "transcription")
    assert "all right" in models.run("verify", TURBO)[0]
    shown = json.loads(launcher(models, "resolve", "turbo", "--json"))
    assert (shown["id"], shown["format"], shown["engine"]) == (TURBO, "ctranslate2", "whisper")
    plan = json.loads(launcher(models, "launch", "turbo", "--dry-run", "--json"))["plan"]
    assert (plan["engine"], plan["model"]["served_name"]) == ("whisper", TURBO)


def test_a_model_that_is_not_here_is_weighed_by_the_size_of_its_file(models: Models) -> None:
    found = json.loads(launcher(models, "fit", "large-v3-turbo", "--json"))
    assert (found["model"]["id"], found["model"]["found"], found["model"]["task"]) == (
        TURBO, "the hub", "transcription",
    )  # fmt: skip
    assert found["model"]["stored_bytes"] == len(FILES["model.bin"])
    assert not found["model"]["counted"]
    assert [profile["verdict"] for profile in found["profiles"]] == ["fits"]


def test_a_broken_copy_is_found_by_its_length(models: Models) -> None:
    models.run("add", TURBO)
    (binary,) = models.own.rglob("snapshots/*/model.bin")
    blob = binary.resolve()
    blob.chmod(0o644)
    blob.write_bytes(FILES["model.bin"][:-9])
    assert "model.bin: it is damaged" in models.run("verify", TURBO, code=4)[0]
    assert "is incomplete" in launcher(models, "launch", "turbo", "--dry-run", code=4)


def test_the_other_format_is_told_apart_before_its_bytes_are_fetched(models: Models) -> None:
    models.hub.add(
        "openai/whisper-large-v3-turbo", {"config.json": CONFIG, "model.safetensors": weights(100)}
    )
    out, error = models.run("add", "openai/whisper-large-v3-turbo")
    assert f"This one's is {TURBO}." in out + error

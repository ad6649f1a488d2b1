"""`launcher list` and `launcher environments`: what a site offers, and what of it is there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import Launcher
from launcher.cli import main
from launcher.errors import ModelError
from tests.hostile import HOSTILE
from tests.unit.fit_models import snapshot

CATALOG = {
    "llama": {"id": "org/Llama-3.1-8B-Instruct", "title": "A chat model", "profiles": ["big"],
              "engine_args": ["--max-model-len", "4096", "--max-num-seqs=256", "--enable-prefix-caching"]},
    "away": {"id": "org/Qwen2.5-72B-Instruct", "title": "Not downloaded"},
    "hear": {"path": "shipped:tiny-whisper", "engine": "whisper", "title": "Speech"},
    "secret": {"id": "org/llama-8b", "hidden": True},
    "tiny-chat": None, "tiny-whisper": None,
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with one model that is there and one that is not, and a venv with vLLM."""
    snapshot(tmp_path / "models" / "org" / "Llama-3.1-8B-Instruct", "llama-8b")
    program = tmp_path / "venv" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "vllm-0.32.0.dist-info").mkdir(parents=True)
    settings: dict[str, Any] = {
        "clusters": {"here": {"scheduler": "slurm"}},
        "profiles": {
            "small": {"cluster": "here", "partition": "cpu"},
            "big": {"cluster": "here", "partition": "a40", "gpus": 1, "gpu_type": "a40", "gpu_memory_gb": 48,
                    "cpus": 16, "memory_gb": 64, "qos": "m2", "hours": 8},
        },
        "environments": {
            "vllm": {"kind": "venv", "path": str(tmp_path / "venv"), "engines": ["vllm"]},
            "image": {"kind": "container", "image": str(tmp_path / "none.sif"), "engines": ["vllm"]},
            "modules": {"kind": "module", "modules": ["vllm/0.32"], "engines": ["vllm"]},
            "speech": {"kind": "module", "modules": ["whisper"], "engines": ["whisper"]},
        },
        "models": {"folders": [str(tmp_path / "models")], "cache": str(tmp_path / "none")},
        "places": {"sessions": str(tmp_path / "sessions"), "cache": str(tmp_path / "cache")},
        "catalog": CATALOG,
    }  # fmt: skip
    (tmp_path / "site.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    return tmp_path


def test_the_list_has_the_catalogs_models_by_type_with_what_is_there(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 3: `launcher list`, also as one JSON object."""
    assert main(["list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert list(models) == [
        "away",
        "llama",
        "simulated",
        "hear",
    ]  # LLM, then Audio; the hidden one is not shown
    assert [model["model_type"] for model in models.values()] == ["LLM", "LLM", "LLM", "Audio"]
    assert [model["available"] for model in models.values()] == [False, True, True, True]
    assert "To download it: launcher models add org/Qwen2.5-72B-Instruct" in models["away"]["trouble"]
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "A chat model" in said
    assert "not now" in said
    assert "secret" not in said
    assert "launcher models ls" in said


def test_a_model_whose_engine_is_not_here_is_not_called_ready(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `make install ENGINE=none`, before an environment is described."""
    (site / "venv" / "bin" / "vllm").unlink()
    assert main(["list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert (models["llama"]["available"], models["simulated"]["available"]) == (False, True)
    assert "environments.vllm has no program" in models["llama"]["trouble"]
    assert main(["launch", "llama", "--dry-run"]) != 0
    assert models["llama"]["trouble"] in capsys.readouterr().err


def test_one_model_is_shown_with_its_default_setup_and_the_origins(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 3: `launcher list NAME` with vec-inf's rows."""
    assert main(["list", "llama", "--json-mode"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = {
        "model_name": "org/Llama-3.1-8B-Instruct", "model_family": "Llama-3.1", "model_variant": "8B-Instruct",
        "model_type": "LLM", "gpus_per_node": 1, "num_nodes": 1, "cpus_per_task": 16, "mem_per_node": "64G",
        "vocab_size": 128256, "qos": "m2", "time": "08:00:00", "partition": "a40",
        "model_weights_parent_dir": str(site / "models" / "org"),
    }  # fmt: skip
    assert shown["trouble"] is None
    assert {name: shown[name] for name in rows} == rows
    assert shown["trouble"] is None
    assert shown["origins"]["partition"].startswith(str(site / "site.yml"))
    assert main(["list", "llama"]) == 0
    said = capsys.readouterr().out
    for line in ("model_family", "vocab_size", "Engine arguments:", "  --max-model-len", "  --max-num-seqs"):
        assert f" {line} " in said
    assert "launcher launch llama" in said


def test_one_that_is_not_here_is_shown_with_what_is_missing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "away"]) == 0
    said = capsys.readouterr().out
    assert "Qwen2.5" in said
    assert "It cannot be started now." in said
    assert "launcher models add org/Qwen2.5-72B-Instruct" in said


def test_a_model_that_is_not_in_the_catalog_but_here_is_shown_too(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot(site / "models" / "org" / "other-1B", "llama-8b")
    assert main(["list", "org/other-1B", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_family"] == "other"


@pytest.mark.parametrize(
    ("word", "near"), [("lama", "llama"), ("org/Llama-3.1-8B-Instrukt", "org/Llama-3.1-8B-Instruct")]
)
def test_an_unknown_name_fails_and_near_names_are_suggested(
    site: Path, word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 3: an unknown name exits non-zero and suggests near names."""
    assert main(["list", word]) == ModelError.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"Did you mean {near}?" in printed.err
    assert main(["list", word, "--json"]) == ModelError.exit_code
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "model"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_refused_in_a_sentence(
    site: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text.startswith("-"):
        assert main(["list", "--", text]) in (2, 4)
    else:
        assert main(["list", text]) in (2, 4)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_python_gets_the_same_list_and_setup(site: Path) -> None:
    """vec-inf 11: `list_models` and `get_model_config` have equivalents in Python."""
    launcher = Launcher()
    assert [model.name for model in launcher.catalog() if model.available] == ["llama", "simulated", "hear"]
    setup = launcher.setup("llama")
    assert setup.values["partition"] == "a40"
    assert setup.engine_args[:2] == ("--max-model-len", "4096")
    with pytest.raises(ModelError):
        launcher.setup("lama")


def test_environments_say_which_is_there_and_with_which_version(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blackfish 9: image list and staged detection; a missing image is reported before submit."""
    assert main(["environments", "--json"]) == 3
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["environments"]}
    assert found["vllm"]["versions"] == {"vllm": "0.32.0"}
    assert [found[name]["staged"] for name in ("vllm", "image", "modules")] == [True, False, None]
    assert f"image {site / 'none.sif'} is not there" in found["image"]["trouble"]
    assert main(["image", "ls"]) == 3
    said = capsys.readouterr().out
    assert "a job will tell" in said
    assert main(["launch", "llama", "--environment", "image"]) == 3
    assert f"{site / 'none.sif'} is not there" in capsys.readouterr().err
    assert not (site / "sessions").exists()


def test_the_launchers_own_environment_is_no_trouble_without_an_engine(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each site has it beside its own; it holds the simulated engine in any case."""
    (site / "none.sif").write_bytes(b"image")
    monkeypatch.setattr(sys, "prefix", str(site / "bare"))
    monkeypatch.setattr(sys, "executable", str(site / "bare" / "bin" / "python"))
    assert main(["environments", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["environments"]}
    assert (found["launcher"]["staged"], found["launcher"]["versions"], found["launcher"]["trouble"]) == (
        True,
        {},
        None,
    )


def test_a_staged_image_is_shown_with_its_day(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = site / "none.sif"
    image.write_bytes(b"image")
    os.utime(image, (1_777_777_777, 1_777_777_777))
    assert main(["environments"]) == 0
    assert "image of 2026-05-03" in capsys.readouterr().out

"""`launcher resolve`: what is printed, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import main
from tests.hostile import HOSTILE
from tests.snapshots import COMMIT, OTHER_COMMIT, Folders, repository, snapshot


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    made = Folders(tmp_path)
    made.settings()
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return made


def test_the_copy_and_the_others_are_shown(site: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    repository(site.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, v1=COMMIT)
    snapshot(site.cache / "name")
    assert main(["resolve", "org/name"]) == 0
    lines = [site.short(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Model    org/name",
        "Found    branch main in the shared folder ONE",
        f"Commit   {COMMIT} (main, v1)",
        f"Folder   ONE/models--org--name/snapshots/{COMMIT}",
        "Weights  safetensors",
        f"Not      ONE/models--org--name/snapshots/{OTHER_COMMIT}: it is another revision",
        "Not      CACHE/name: it comes later",
    ]


def test_what_is_known_of_a_model_is_shown(site: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    repository(site.one, "RedHatAI/Qwen3-8B-FP8-dynamic")
    assert main(["resolve", "RedHatAI/Qwen3-8B-FP8-dynamic"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Known ")]
    assert line.startswith("Known    chat; 8.19 billion parameters; a context of ")
    assert "; tool parser hermes; reasoning parser qwen3; licence Apache-2.0. " in line
    assert main(["resolve", "RedHatAI/Qwen3-8B-FP8-dynamic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"]["id"] == "Qwen/Qwen3-8B"


def test_json_has_the_same(site: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folder = snapshot(site.one / 'a "quoted" name\u2603')
    (folder / "tokenizer.json").unlink()
    assert main(["resolve", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["notes"][0].startswith(f'Model "{folder.name}": {folder} has no tokenizer')
    assert {**said, "notes": []} == {
        "id": folder.name,
        "snapshot": str(folder),
        "revision": None,
        "refs": [],
        "found": f"the path {folder}",
        "catalog": None,
        "layout": None,
        "format": "safetensors",
        "engine": "vllm",
        "passed_over": [],
        "notes": [],
        "known": None,
    }


def test_an_engine_without_weights_has_no_folder(site: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resolve", "simulated"]) == 0
    assert "Folder   none: this engine needs no weights" in capsys.readouterr().out


def test_what_is_not_found_ends_with_the_models_exit_code(
    site: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resolve", "org/name", "--revision", "v1"]) == 4
    assert "To download it: launcher models add org/name" in capsys.readouterr().err
    assert main(["resolve", "org/name", "--revision", "../up", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "request"


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "--help"])
def test_hostile_names_get_one_line(site: Folders, capsys: pytest.CaptureFixture[str], text: str) -> None:
    for arguments in ([text], ["tiny-chat", "--revision", text], ["--", text]):
        assert main(["resolve", *arguments]) in (2, 4)
        error = capsys.readouterr().err
        assert error.startswith("launcher: ")
        assert error.count("\n") == 1
        assert len(error) < 500

"""`launcher models` without a hub: what is listed, checked and not removed of what lies in the folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.models.resolve import SHIPPED
from tests.hostile import HOSTILE
from tests.snapshots import COMMIT, OTHER_COMMIT, Folders, repository, snapshot, weights

CONFIG = json.loads((SHIPPED / "tiny-chat" / "config.json").read_text())
TYPED = [text for text in HOSTILE if not text.startswith("-")]


class Site(Folders):
    """The folders of a site, and what a command says of them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(root)
        self._capsys = capsys
        self.settings()

    def run(self, *words: str, code: int = 0) -> str:
        capsys = self._capsys
        capsys.readouterr()
        assert main(["models", *words]) == code
        said = capsys.readouterr()
        assert (said.err == "") == (code in (0, 4) and said.out != "")
        return self.short(said.out + said.err).removeprefix("launcher: ")

    def model(self, folder: Path, **changes: object) -> Path:
        made = snapshot(folder)
        (made / "config.json").write_text(json.dumps({**CONFIG, **changes}))
        return made


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    return Site(tmp_path, capsys)


def test_what_the_catalog_or_the_launcher_brings_is_not_removed(site: Site) -> None:
    for word in ("tiny-chat", "Tiny-Chat"):
        assert site.run("rm", word, "--yes", code=2) == (
            '"tiny-chat" ships with the launcher, so it is not removed. '
            "Only what `launcher models add` has made is removed.\n"
        )
    assert '"simulated" of the catalog needs no weights' in site.run("rm", "simulated", code=2)
    own = site.model(site.root / "own")
    site.settings(f"catalog: {{own: {{path: {own}}}, far: {{id: org/far}}}}")
    assert site.run("rm", "own", "--yes", code=2).startswith(
        '"own" is at ROOT/own, as the catalog says (ROOT/site.yml, line 2), so it is not removed.'
    )
    assert site.run("rm", "far", "--yes", code=4) == (
        'Model "far" is not in ONE, TWO, CACHE. To download it: launcher models add org/far\n'
    )
    for word in ("tiny-chat", "own"):
        assert "all right" in site.run("verify", word)
    snapshot(site.one / "name")
    assert "was not made by `launcher models add`" in site.run("rm", "name", "--yes", code=2)
    repository(site.one, "name")
    assert site.run("rm", "NAME", "--yes", code=2).startswith("ONE/name was not made by")
    assert os.listdir(site.one / "name") != []


@pytest.mark.parametrize("text", TYPED)
def test_hostile_words_get_one_line(site: Site, text: str) -> None:
    site.model(site.one / "own")
    assert site.run("rm", text, "--yes", code=2).count("\n") == 1
    assert site.run("verify", text, code=2).count("\n") == 1
    assert site.run("add", text, code=2).count("\n") == 1
    for words in (["ls", text], ["ls", "--task", text]):
        assert text.strip() == "" or site.run(*words).startswith("No model here ")


def test_a_plain_copy_is_not_mended(site: Site) -> None:
    plain = site.model(site.one / "org" / "name")
    file = plain / "model.safetensors"
    os.truncate(file, file.stat().st_size - 4)
    for words in ((), ("--repair",)):
        out = site.run("verify", "org/name", *words, code=4)
        assert "org/name: model.safetensors: it has 82 of 86 bytes" in out
        assert out.splitlines()[-1].startswith("ONE/org/name is not for the launcher to mend: copy the model")
    file.write_bytes(b"\0" * 86)
    assert "is not a safetensors file" in site.run("verify", "org/name", code=4)


def test_only_the_copy_that_is_meant_is_checked(site: Site) -> None:
    for folder in (site.one, site.two):
        repository(folder, "org/name")
    assert site.run("verify", "org/name").count("all right") == 2
    assert site.run("verify", "org/name", "--from", str(site.two)).count("all right") == 1
    assert site.run("verify", "--from", str(site.two), code=2).startswith("--from is for one model.")


def test_an_empty_list_says_what_is_here(site: Site) -> None:
    nothing = "No models. Download one with: launcher models add org/name\n"
    assert site.run("ls", "x") == nothing
    site.settings("allow: {downloads: false}")
    assert site.run("ls", "x") == "No models.\n"
    site.settings()
    site.model(site.one / "openai" / "whisper-large-v3")
    assert site.run("ls", "whispr") == 'No model here has "whispr" in its name. Did you mean whisper?\n'
    assert site.run("ls", "zzz") == 'No model here has "zzz" in its name.\n'
    tasks = 'No model here is for the task "chats". The tasks are: completion.\n'
    assert site.run("ls", "--task", "chats") == tasks
    assert "whisper-large-v3" in site.run("ls", " WHISPER ", "--task", "completion")


def test_where_only_the_catalog_may_be_started_only_that_is_listed(site: Site) -> None:
    for name in ("org/name", "org/other", "org/third"):
        site.model(repository(site.one, name) / "snapshots" / OTHER_COMMIT)
    site.model(site.two / "own")
    site.settings(
        f"allow: {{models: catalog}}\ncatalog: {{nice: {{id: org/name}}, own: {{path: {site.two}/own}}}}"
    )
    out = site.run("ls")
    assert ("org/name" in out, "own" in out, "org/other" in out) == (True, True, False)
    assert out.endswith("4 more models here, but not in the site's catalog (ROOT/site.yml, line 2).\n")
    listed = json.loads(site.run("ls", "--json"))
    assert {model["id"] for model in listed["models"]} == {"org/name", "own"}
    assert listed["not_offered"] == 4


def test_sizes_are_of_the_disk_and_brackets_are_explained(site: Site) -> None:
    site.settings("clusters: {here: {scheduler: local}}\nprofiles: {small: {cluster: here, memory_gb: 8}}")
    root = repository(site.one, "org/name", COMMIT, OTHER_COMMIT)
    weights(root / "blobs" / f"{COMMIT}-model.safetensors", 40_000)
    shared = root / "snapshots" / OTHER_COMMIT / "model.safetensors"
    shared.unlink()
    shared.symlink_to(f"../../blobs/{COMMIT}-model.safetensors")
    out = site.run("ls")
    assert "On disk" in out
    assert out.count(" 39.1 kB ") == 2
    assert "\n2 models, 39.1 kB" in out  # what both share is there once
    assert "(profile)" not in out
    site.model(site.one / "Long", max_position_embeddings=100_000_000)
    out = site.run("ls", "long")
    assert " (small) " in out
    assert out.endswith("(profile): fits with a change; launcher fit MODEL --profile PROFILE says which.\n")


def test_what_is_no_model_has_its_own_column(site: Site) -> None:
    site.model(site.one / "good")
    assert "Trouble" not in site.run("ls")
    adapter = site.one / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (row,) = [line for line in site.run("ls").splitlines() if " lora " in line]
    assert "LoRA adapter, not a model of its own." in row
    assert "Trouble" in site.run("ls")

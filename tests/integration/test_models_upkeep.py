"""`launcher models`: what is listed, mended and removed of what is here, and what the next step is said to be."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.models import BIG, CONFIG, FILES, Models, before_a_hub, weights

ADAPTER = {
    "adapter_config.json": b'{"base_model_name_or_path": "org/base"}',
    "adapter_model.safetensors": weights(20_000),
    "tokenizer.json": b"{}",
}


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with before_a_hub(tmp_path) as made:
        yield made


def listed(models: Models, *words: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(models.run("ls", *words, "--json")[0])["models"]
    return found


def aged(folder: Path) -> None:
    """As on any other day: what has just changed is never believed."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def two_revisions(models: Models) -> None:
    models.run("add", "org/name")
    models.hub.add("org/name", {**FILES, "config.json": CONFIG + b"\n"}, revision="v2")
    models.run("add", "org/name@v2")


def run_on_a_terminal(models: Models, answer: bytes, *arguments: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "models", *arguments],
        env=models.env, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer)
    out = process.communicate(timeout=60)[0]
    os.close(ours)
    return process.returncode, out


def test_a_folder_that_was_copied_with_its_links_followed_is_removed_in_whole_steps(models: Models) -> None:
    two_revisions(models)
    shutil.copytree(models.own, models.shared, dirs_exist_ok=True)
    shutil.rmtree(models.own)
    root = models.shared / "models--org--name"
    shutil.rmtree(root / "blobs")
    (root / ".launcher.lock").unlink()
    out = models.run("rm", "org/name", "--revision", "v2", "--yes")[0]
    assert "org/name at v2 (" in out
    assert sorted(os.listdir(root)) == ["refs", "snapshots"]
    (left,) = listed(models)
    assert (left["refs"], left["trouble"]) == (["main"], None)
    models.run("rm", "org/name", "--yes")
    assert os.listdir(models.shared) == []


def test_several_revisions_are_not_removed_by_the_way(models: Models) -> None:
    two_revisions(models)
    said = models.refused("rm", "org/name", code=2)
    assert said.startswith('Model "org/name" is here in 2 revisions: ')
    assert "main (" in said
    assert said.endswith("Say which with --revision, or --all for all of them.")
    assert "cannot both be meant" in models.refused("rm", "org/name@v2", "--all", code=2)
    assert len(listed(models)) == 2
    gone = json.loads(models.run("rm", "org/name", "--all", "--yes", "--json")[0])
    assert (len(gone["removed"]), gone["bytes"] > 4_000_000, listed(models)) == (2, True, [])


def test_what_goes_is_said_and_asked_before(models: Models) -> None:
    models.run("add", "org/name")
    refusal = "Remove 3.9 MB: nobody can be asked here. Add --yes if that is meant."
    assert models.refused("rm", "org/name", code=2) == refusal
    said = json.loads(models.run("rm", "org/name", "--json", code=2)[0])["error"]
    assert f"{said['message']} {said['hint']}" == refusal
    for answer in (b"\n", b"what?\n", b"\x04"):
        status, out = run_on_a_terminal(models, answer, "rm", "org/name")
        assert (status, "Nothing is removed." in out) == (1, True)
        assert f"{models.own / 'models--org--name'}: main (" in out
        assert "Remove 3.9 MB? [y/N]" in out
    assert len(listed(models)) == 1
    assert run_on_a_terminal(models, b"y\n", "rm", "org/name")[0] == 0
    assert listed(models) == []


def test_a_damaged_file_is_named_and_mended_by_the_command_that_is_said(models: Models) -> None:
    models.run("add", "org/name")
    blob = models.blob(BIG)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    command = f"launcher models verify org/name --from {models.own} --repair"
    out = models.run("verify", code=4)[0]
    assert f"{BIG}: it is damaged (its hash is not the hub's)" in out
    assert out.splitlines()[-1] == f"To mend it: {command}"
    before = len(models.hub.transferred(BIG))
    out = models.run(*command.split()[2:])[0]
    assert "mended, 3.8 MB came from the hub." in out
    assert len(models.hub.transferred(BIG)) == before + 1
    assert blob.read_bytes() == FILES[BIG]
    blob.unlink()
    assert f"{BIG}: it is a link to nothing" in models.run("verify", "org/name", code=4)[0]
    said = json.loads(models.run("verify", "org/name", "--repair", "--json")[0])["models"][0]
    assert (said["mended"], said["mend"]) == (True, None)
    assert "all right" in models.run("verify")[0]


def test_a_cut_file_is_seen_in_the_list_and_after_it_was_mended_no_more(models: Models) -> None:
    models.run("add", "org/name")
    blob = models.blob(BIG)
    os.truncate(blob, 1 << 20)
    aged(models.own)
    trouble = f"{BIG} is incomplete: it has 1.0 of 3.8 MB."
    (cut,) = listed(models)
    assert (cut["trouble"], cut["fits"]) == (trouble, {})
    assert trouble in models.run("ls")[0]
    assert f"{BIG}: it has 1.0 of 3.8 MB" in models.run("verify", code=4)[0]
    assert json.loads(models.run("add", "org/name", "--json")[0])["transferred"] == len(FILES[BIG])
    (whole,) = listed(models)
    assert (whole["trouble"], int(str(whole["bytes"])) > 4_000_000) == (None, True)


def test_a_size_that_was_remembered_is_forgotten_when_the_model_is_mended(models: Models) -> None:
    """Blackfish 4: `model ls --refresh`."""
    models.run("add", "org/name")
    aged(models.own)
    whole = listed(models)[0]["bytes"]
    licence = models.blob("LICENSE")
    licence.write_bytes(b"fr")
    (models.blob("tokenizer.json")).write_bytes(b"")
    aged(models.own)
    models.run("ls", "--refresh")
    assert listed(models)[0]["bytes"] != whole
    models.run("add", "org/name")
    aged(models.own)
    assert listed(models)[0]["bytes"] == whole


def test_an_adapter_is_refused_before_the_download_and_left_in_peace_after_it(models: Models) -> None:
    models.hub.add("org/lora", ADAPTER)
    models.hub.add("org/merged", {**FILES, **ADAPTER})
    models.hub.add("org/pictures", {"model_index.json": b"{}", "unet/x.safetensors": weights(10)})
    said = models.refused("add", "org/lora")
    assert said.startswith(
        'Model "org/lora" is a LoRA adapter, not a model of its own. Launch its base model'
    )
    assert "Diffusers pipeline" in models.refused("add", "org/pictures")
    assert not [asked for asked in models.hub.requests if asked.cdn]
    assert "launcher launch org/merged" in models.run("add", "org/merged")[0]
    # As `hf download` leaves it.
    commit = models.hub.repositories["org/lora"].refs["main"]
    folder = models.own / "models--org--lora" / "snapshots" / commit
    folder.mkdir(parents=True)
    for name, content in ADAPTER.items():
        (folder / name).write_bytes(content)
    out = models.run("verify", "org/lora")[0]
    assert "all right" in out
    assert "is a LoRA adapter for org/base" in out
    assert "mend" not in out
    trouble = {str(model["id"]): model["trouble"] for model in listed(models)}
    assert trouble["org/lora"] == "LoRA adapter, not a model of its own."


def test_the_next_step_after_a_download_is_one_that_works(models: Models) -> None:
    assert models.run("add", "org/name@main")[0].endswith("launcher launch org/name --revision main\n")
    no_tokenizer = {name: content for name, content in FILES.items() if name != "tokenizer.json"}
    models.hub.add("org/mute", no_tokenizer)
    out = models.run("add", "https://huggingface.co/org/mute")[0]
    assert "It cannot be started: " in out
    assert "has no tokenizer" in out
    assert "launcher launch" not in out
    assert "has no tokenizer" in json.loads(models.run("add", "org/mute", "--json")[0])["trouble"]
    # Its files are here under another branch: the name has to come too.
    models.hub.repositories["org/name"].refs["v1"] = models.hub.repositories["org/name"].refs["main"]
    assert "launch org/name --revision v1\n" in models.run("add", "org/name", "--revision", "v1")[0]
    assert "names a revision, and so does" in models.refused("add", "org/name@v1", "--revision", "v1", code=2)

"""Which copy of a model a name means: each place, each revision, and each way in which there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.models.siblings import siblings
from tests.snapshots import COMMIT, OTHER_COMMIT, Folders, repository, snapshot

THIRD = "0123456fffffffffffffffffffffffffffffffff"  # begins as COMMIT does


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


# What lies where, what is asked for (model, revision), which copy is taken, and what is said of it.
Layout = Callable[[Folders], object]
FOUND: dict[str, tuple[Layout, str, str | None, str, str]] = {
    "hub": (
        lambda s: repository(s.one, "org/name"), "org/name", None,
        f"ONE/models--org--name/snapshots/{COMMIT}", "branch main in the shared folder ONE",
    ),
    "hub, without an organisation": (
        lambda s: repository(s.one, "gpt2"), "gpt2", None,
        f"ONE/models--gpt2/snapshots/{COMMIT}", "branch main in the shared folder ONE",
    ),
    "branch": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, dev=OTHER_COMMIT),
        "org/name", "dev", f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", '"dev" in the shared folder ONE',
    ),
    "tag with a slash": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, **{"main": COMMIT, "refs/pr/1": OTHER_COMMIT}),
        "org/name", "refs/pr/1", f"ONE/models--org--name/snapshots/{OTHER_COMMIT}",
        '"refs/pr/1" in the shared folder ONE',
    ),
    "whole commit": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT), "org/name", OTHER_COMMIT,
        f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", f"commit {OTHER_COMMIT} in the shared folder ONE",
    ),
    "short commit": (
        lambda s: repository(s.one, "org/name"), "org/name", COMMIT[:7],
        f"ONE/models--org--name/snapshots/{COMMIT}", f"commit {COMMIT} in the shared folder ONE",
    ),
    "one commit and no branch": (
        lambda s: repository(s.one, "org/name", OTHER_COMMIT, v1=OTHER_COMMIT), "org/name", None,
        f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", "the only commit in the shared folder ONE",
    ),
    "a branch called like a commit is the branch": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, **{COMMIT[:7]: OTHER_COMMIT}),
        "org/name", COMMIT[:7], f"ONE/models--org--name/snapshots/{OTHER_COMMIT}",
        f'"{COMMIT[:7]}" in the shared folder ONE',
    ),
    "plain org/name": (
        lambda s: snapshot(s.one / "org" / "name"), "org/name", None,
        "ONE/org/name", "the plain folder org/name in the shared folder ONE",
    ),
    "vec-inf's family-variant, by its name": (
        lambda s: snapshot(s.one / "Meta-Llama-3.1-8B-Instruct"), "Meta-Llama-3.1-8B-Instruct", None,
        "ONE/Meta-Llama-3.1-8B-Instruct", "the plain folder Meta-Llama-3.1-8B-Instruct in the shared folder ONE",
    ),
    "vec-inf's family-variant, by the id": (
        lambda s: snapshot(s.one / "Meta-Llama-3.1-8B-Instruct"), "meta-llama/Meta-Llama-3.1-8B-Instruct", None,
        "ONE/Meta-Llama-3.1-8B-Instruct",
        "the plain folder Meta-Llama-3.1-8B-Instruct in the shared folder ONE, by the last part of the id",
    ),
    "the last part of one id": (
        lambda s: repository(s.two, "org/name"), "name", None,
        f"TWO/models--org--name/snapshots/{COMMIT}", "branch main in the shared folder TWO",
    ),
    "other letters": (
        lambda s: snapshot(s.one / "Meta-Llama-3.1-8B-Instruct"), "meta-llama-3.1-8b-instruct", None,
        "ONE/Meta-Llama-3.1-8B-Instruct",
        "the plain folder Meta-Llama-3.1-8B-Instruct in the shared folder ONE, written Meta-Llama-3.1-8B-Instruct",
    ),
    "an id in other letters": (
        lambda s: repository(s.one, "Org/Name"), "org/NAME", None,
        f"ONE/models--Org--Name/snapshots/{COMMIT}", "branch main in the shared folder ONE, written Org/Name",
    ),
    "the last part in other letters": (
        lambda s: repository(s.one, "Org/Name"), "NAME", None,
        f"ONE/models--Org--Name/snapshots/{COMMIT}", "branch main in the shared folder ONE, written Name",
    ),
    "the letters that are there before others": (
        lambda s: (repository(s.one, "org/Name"), repository(s.two, "org/name")), "org/name", None,
        f"TWO/models--org--name/snapshots/{COMMIT}", "branch main in the shared folder TWO",
    ),
    "spaces around it": (
        lambda s: repository(s.one, "org/name"), "  org/name ", None,
        f"ONE/models--org--name/snapshots/{COMMIT}", "branch main in the shared folder ONE",
    ),
    "its page on the hub": (
        lambda s: repository(s.one, "org/name"), "https://huggingface.co/org/name?library=vllm", None,
        f"ONE/models--org--name/snapshots/{COMMIT}", "branch main in the shared folder ONE",
    ),
    "its page at a revision": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, **{"main": COMMIT, "refs/pr/1": OTHER_COMMIT}),
        "https://huggingface.co/org/name/tree/refs%2Fpr%2F1", None,
        f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", '"refs/pr/1" in the shared folder ONE',
    ),
    "its name at a revision": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, dev=OTHER_COMMIT),
        "org/name@dev", None, f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", '"dev" in the shared folder ONE',
    ),
    "the user's cache": (
        lambda s: repository(s.cache, "org/name"), "org/name", None,
        f"CACHE/models--org--name/snapshots/{COMMIT}", "branch main in your cache CACHE",
    ),
    "shared before the user's own": (
        lambda s: (repository(s.cache, "org/name"), snapshot(s.two / "org" / "name")), "org/name", None,
        "TWO/org/name", "the plain folder org/name in the shared folder TWO",
    ),
    "a path": (
        lambda s: snapshot(s.root / "my model"), "ROOT/my model", None, "ROOT/my model", "the path ROOT/my model",
    ),
    "a path to a snapshot": (
        lambda s: repository(s.one, "org/name"), f"ONE/models--org--name/snapshots/{COMMIT}", None,
        f"ONE/models--org--name/snapshots/{COMMIT}", f"the path ONE/models--org--name/snapshots/{COMMIT}",
    ),
    "a path to a repository": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, v1=OTHER_COMMIT),
        "ONE/models--org--name", "v1",
        f"ONE/models--org--name/snapshots/{OTHER_COMMIT}", "the path ONE/models--org--name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_each_place_and_revision(site: Folders, case: str) -> None:
    """Blackfish 5: the plan has the commit, whatever was typed."""
    lay, model, revision, snapshot_at, why = FOUND[case]
    lay(site)
    for name, folder in (("ONE", site.one), ("ROOT", site.root)):
        model = model.replace(name, str(folder))
    found = site.found(model, revision)
    assert (site.short(str(found.snapshot)), site.short(found.found)) == (snapshot_at, why)
    assert found.revision == (snapshot_at.rpartition("/")[2] if "/snapshots/" in snapshot_at else None)


MISSING = "was not found in the catalog or in ONE, TWO, CACHE."
NOT_FOUND: dict[str, tuple[Layout, str, str | None, str]] = {
    "nowhere": (
        lambda s: None, "org/name", None,
        f'Model "org/name" {MISSING} To download it: launcher models add org/name',
    ),
    "a letter is wrong": (
        lambda s: repository(s.two, "org/name"), "org/nam", None,
        f'Model "org/nam" {MISSING} Did you mean org/name? To download it: launcher models add org/nam',
    ),
    "the organisation is wrong": (
        lambda s: repository(s.two, "deepseek-ai/Some-Model-7B"), "deepsek/Some-Model-7B", None,
        f'Model "deepsek/Some-Model-7B" {MISSING} Did you mean deepseek-ai/Some-Model-7B? '
        "To download it: launcher models add deepsek/Some-Model-7B",
    ),
    "two spellings, and neither is typed": (
        lambda s: (repository(s.one, "org/Name"), repository(s.two, "org/NAME")), "org/name", None,
        'Several models are called "org/name". Choose one of: org/NAME, org/Name.',
    ),
    "numbers are no typing errors": (
        lambda s: [repository(s.two, f"org/Some-Model-{size}B") for size in (7, 8, 70)], "org/Some-Modle-7B", None,
        f'Model "org/Some-Modle-7B" {MISSING} Did you mean org/Some-Model-7B? '
        "To download it: launcher models add org/Some-Modle-7B",
    ),
    "a catalog name": (lambda s: None, "tiny-caht", None, f'Model "tiny-caht" {MISSING} Did you mean tiny-chat?'),
    "a folder that is not there": (
        lambda s: s.two.rmdir(), "org/name", None,
        'Model "org/name" was not found in the catalog or in ONE, TWO (which is not there), CACHE. '
        "To download it: launcher models add org/name",
    ),
    "two organisations": (
        lambda s: (repository(s.one, "a/name"), snapshot(s.two / "b" / "name")), "name", None,
        'Several models are called "name". Choose one of: a/name, b/name.',
    ),
    "a revision of what is not here": (
        lambda s: None, "org/name", "v9",
        'Model "org/name" at revision "v9" was not found in the catalog or in ONE, TWO, CACHE. '
        "To download it: launcher models add org/name --revision v9",
    ),
    "no such revision": (
        lambda s: repository(s.one, "org/name"), "org/name", "v9",
        f'Model "org/name" is not here at revision "v9". Here are: {COMMIT[:7]} (main). '
        "To download it: launcher models add org/name --revision v9",
    ),
    "no such revision of the last part of an id": (
        lambda s: repository(s.one, "org/name"), "name", "v9",
        f'Model "org/name" is not here at revision "v9". Here are: {COMMIT[:7]} (main). '
        "To download it: launcher models add org/name --revision v9",
    ),
    "a branch whose commit is not there": (
        lambda s: repository(s.one, "org/name", COMMIT, main=OTHER_COMMIT), "org/name", None,
        f'Model "org/name": in ONE, its "main" is at commit {OTHER_COMMIT[:7]}, which is not there. '
        f"Here are: {COMMIT[:7]}. To download it: launcher models add org/name",
    ),
    "several commits and no branch": (
        lambda s: repository(s.one, "org/name", COMMIT, OTHER_COMMIT, v1=COMMIT), "org/name", None,
        'Model "org/name": in ONE, it has several commits and no branch main. '
        f"Here are: {COMMIT[:7]} (v1), {OTHER_COMMIT[:7]}. To download it: launcher models add org/name",
    ),
    "a commit cut too short": (
        lambda s: repository(s.one, "org/name", COMMIT, THIRD), "org/name", COMMIT[:7],
        f'Model "org/name" is not here at revision "{COMMIT[:7]}": several of its commits begin with {COMMIT[:7]}. '
        f"Here are: {COMMIT[:7]} (main), {COMMIT[:7]}. "
        f"To download it: launcher models add org/name --revision {COMMIT[:7]}",
    ),
    "a revision of a plain folder": (
        lambda s: snapshot(s.one / "name"), "name", "main",
        'Model "name" is not here at revision "main": it is a plain folder, which has no revisions. '
        "Leave the revision out.",
    ),
    "a revision of a plain folder with an id": (
        lambda s: snapshot(s.one / "org" / "name"), "org/name", "main",
        'Model "org/name" is not here at revision "main": it is a plain folder, which has no revisions. '
        'Leave the revision out. To have "main" as well: launcher models add org/name --revision main',
    ),
    "a revision given twice": (
        lambda s: repository(s.one, "org/name"), "org/name@v1", "v1",
        '"org/name@v1" names a revision, and so does --revision v1. Leave one of them out.',
    ),
    "a page that is no model's": (
        lambda s: None, "https://huggingface.co/datasets/org/name", None,
        '"https://huggingface.co/datasets/org/name" is not the page of a model. Give an id such as org/name.',
    ),
    "a revision of a path": (
        lambda s: snapshot(s.root / "own"), "ROOT/own", "main",
        'Model "own": ROOT/own is a plain folder, which has no revisions. Leave the revision out.',
    ),
    "a revision that a path has not": (
        lambda s: repository(s.one, "org/name"), "ONE/models--org--name", "v9",
        f'Model "org/name": in ONE/models--org--name, it is not at revision "v9". Here are: {COMMIT[:7]} (main).',
    ),
    "a path to nothing": (lambda s: None, "ROOT/nowhere", None, "There is no folder ROOT/nowhere. "
                          "Check the path of the model."),
    "a path to a file": (
        lambda s: snapshot(s.root / "own"), "ROOT/own/model.safetensors", None,
        "ROOT/own/model.safetensors is a file, not a folder. Give the folder that holds the model.",
    ),
    "only half of it": (
        lambda s: os.unlink(repository(s.one, "org/name") / "blobs" / f"{COMMIT}-model.safetensors"),
        "org/name", None,
        f'Model "org/name" is incomplete: ONE/models--org--name/snapshots/{COMMIT}/model.safetensors is a link to '
        f"../../blobs/{COMMIT}-model.safetensors, which is not there. "
        f"To download what is missing: launcher models add org/name --revision {COMMIT}",
    ),
    "a repository with nothing in it": (
        lambda s: (s.one / "models--org--name" / "blobs").mkdir(parents=True), "org/name", None,
        'Model "org/name" is incomplete: ONE/models--org--name holds no snapshot. '
        "To download what is missing: launcher models add org/name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FOUND)
def test_each_way_in_which_there_is_none(site: Folders, case: str) -> None:
    lay, model, revision, sentence = NOT_FOUND[case]
    lay(site)
    for name, folder in (("ONE", site.one), ("ROOT", site.root)):
        model = model.replace(name, str(folder))
    assert site.trouble(model, revision) == sentence


def test_a_broken_copy_is_passed_over_for_a_whole_one(site: Folders) -> None:
    broken = repository(site.one, "org/name")
    (broken / "snapshots" / COMMIT / "model.safetensors").unlink()
    snapshot(site.two / "org" / "name")
    repository(site.cache, "org/name", OTHER_COMMIT)
    found = site.found("org/name")
    assert found.snapshot == site.two / "org" / "name"
    passed = [(site.short(str(other.path)), site.short(other.why)) for other in found.passed_over]
    first = f"ONE/models--org--name/snapshots/{COMMIT}"
    assert passed == [(first, f"{first} has a config.json but no weights (*.safetensors)")]
    everywhere = site.found("org/name", everywhere=True)
    assert (everywhere.snapshot, everywhere.passed_over[0]) == (found.snapshot, found.passed_over[0])
    last = everywhere.passed_over[1]
    assert site.short(str(last.path)) == f"CACHE/models--org--name/snapshots/{OTHER_COMMIT}"
    assert last.why == "it comes later"


def test_a_plain_copy_is_passed_over_where_a_revision_is_asked_for(site: Folders) -> None:
    snapshot(site.one / "org" / "name")
    repository(site.two, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, v1=OTHER_COMMIT)
    found = site.found("org/name", "v1")
    assert (found.revision, found.refs, found.layout) == (OTHER_COMMIT, ("v1",), "hub")
    assert [site.short(f"{other.path}: {other.why}") for other in found.passed_over] == [
        "ONE/org/name: it is a plain folder, which has no revisions",
        f"TWO/models--org--name/snapshots/{COMMIT}: it is another revision (main)",
    ]


def test_a_folder_that_has_the_model_spares_the_others(
    site: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(site.one, "org/name")
    opened: list[str] = []
    scandir = os.scandir

    def noted(path: str) -> object:
        opened.append(str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", noted)
    site.found("org/name")
    assert opened
    assert all(path.startswith(f"{site.one}/") for path in opened)


def test_a_known_model_that_is_not_here_is_offered_for_download(site: Folders) -> None:
    from launcher.models.known import known_ids

    model = known_ids()[0]
    hint = f"It is not here; to download it: launcher models add {model}"
    assert site.trouble(model.lower()).endswith(f"Did you mean {model}? {hint}")
    assert site.trouble(model.rpartition("/")[2]).endswith(f"Did you mean {model}? {hint}")
    assert site.trouble(model).endswith(f"{MISSING} To download it: launcher models add {model}")
    base = model.removesuffix("-Instruct")
    assert base != model
    assert site.trouble(base).endswith(f"{hint}, or the one you named: launcher models add {base}")


def test_quantised_copies_are_siblings(site: Folders) -> None:
    for name in ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B-GPTQ-Int4", "Qwen/Qwen3-80B-AWQ"):
        repository(site.one, name)
    repository(site.two, "RedHatAI/Qwen3-8B-quantized.w4a16")
    repository(site.two, "someone/Qwen3-8B-GGUF")
    snapshot(site.two / "Qwen3-8B-FP8-dynamic")
    broken = repository(site.cache, "RedHatAI/Qwen3-8B-NVFP4")
    (broken / "snapshots" / COMMIT / "model.safetensors").unlink()
    found = [sibling.id for sibling in siblings("Qwen/Qwen3-8B", site.settings())]
    assert found == [
        "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B-GPTQ-Int4", "Qwen3-8B-FP8-dynamic", "RedHatAI/Qwen3-8B-quantized.w4a16",
    ]  # fmt: skip
    assert "Qwen/Qwen3-8B-AWQ" not in [s.id for s in siblings("Qwen/Qwen3-8B-AWQ", site.settings())]
    assert siblings("Qwen/Qwen3-80B", site.settings())[0].id == "Qwen/Qwen3-80B-AWQ"

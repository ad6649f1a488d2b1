"""Models: path, catalog, folders, the hub's layout; and each way in which a snapshot can be broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.resolve import resolve
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights(path: Path, size: int = 16) -> None:
    header = json.dumps({"t": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * size)


def snapshot(folder: Path, *shards: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for shard in shards or ("model.safetensors",):
        weights(folder / shard)
    if shards:
        index = {"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    hub = made / "models--org--name"
    snapshot(hub / "snapshots" / COMMIT)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(COMMIT)
    snapshot(made / "Llama-3.1-8B-Instruct")
    return made


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> Settings:
    site = tmp_path / "site.yml"
    site.write_text(f"models: {{folders: [{folder}], cache: {tmp_path / 'cache'}}}\n")
    return load({"LAUNCHER_SITE": str(site), "XDG_CONFIG_HOME": str(tmp_path)})


def test_an_id_in_the_hubs_layout_becomes_its_commit(settings: Settings, folder: Path) -> None:
    for revision in (None, "main", COMMIT, COMMIT[:8]):
        found = resolve("org/name", settings, revision)
        assert (found.id, found.revision) == ("org/name", COMMIT)
        assert found.snapshot == folder / "models--org--name" / "snapshots" / COMMIT
        assert str(folder) in found.found


def test_a_plain_folder_is_found_by_name_and_by_path(settings: Settings, folder: Path) -> None:
    by_name = resolve("Llama-3.1-8B-Instruct", settings)
    by_path = resolve(str(folder / "Llama-3.1-8B-Instruct"), settings)
    assert by_name.snapshot == by_path.snapshot == folder / "Llama-3.1-8B-Instruct"
    assert by_name.id == by_path.id == "Llama-3.1-8B-Instruct"


def test_a_path_into_the_hubs_layout_keeps_id_and_commit(settings: Settings, folder: Path) -> None:
    found = resolve(str(folder / "models--org--name" / "snapshots" / COMMIT), settings)
    assert (found.id, found.revision) == ("org/name", COMMIT)


def test_the_shipped_model_is_complete(settings: Settings) -> None:
    assert resolve("tiny-chat", settings).snapshot is not None
    assert resolve("simulated", settings).snapshot is None


@pytest.mark.parametrize(
    ("typed", "near"),
    [("tiny-caht", "tiny-chat"), ("org/nam", "org/name"), ("llama-3.1-8b-instruct", "Llama-3.1-8B-Instruct")],
)
def test_an_unknown_model_is_answered_with_near_names(settings: Settings, typed: str, near: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(typed, settings)
    assert f'Model "{typed}"' in caught.value.message
    assert near in (caught.value.hint or "")


def test_an_unknown_revision_is_named(settings: Settings) -> None:
    with pytest.raises(ModelError, match='at revision "v9"'):
        resolve("org/name", settings, "v9")
    for revision in ("../main", "-x", "a b", "$(id)"):
        with pytest.raises(RequestError, match="is not a revision"):
            resolve("org/name", settings, revision)


def test_a_missing_shard_is_named(settings: Settings, tmp_path: Path) -> None:
    broken = snapshot(tmp_path / "broken", "model-1.safetensors", "model-2.safetensors")
    (broken / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"incomplete: .*model-2.safetensors is missing"):
        resolve(str(broken), settings)


def test_a_short_file_is_noticed(settings: Settings, tmp_path: Path) -> None:
    broken = snapshot(tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=f"has {len(whole) - 4} of {len(whole)} bytes"):
        resolve(str(broken), settings)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, struct.pack("<Q", 4) + b"[1]\n"])
def test_a_file_that_is_not_safetensors_is_refused(
    settings: Settings, tmp_path: Path, content: bytes
) -> None:
    broken = snapshot(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        resolve(str(broken), settings)


def test_pickle_weights_are_refused(settings: Settings, tmp_path: Path) -> None:
    broken = snapshot(tmp_path / "broken")
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle weights, which can run code"):
        resolve(str(broken), settings)


def test_a_folder_without_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config.json"):
        resolve(str(tmp_path / "empty"), settings)
    with pytest.raises(ModelError, match="There is no folder"):
        resolve(str(tmp_path / "nowhere"), settings)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_refused_in_one_sentence(settings: Settings, text: str) -> None:
    for model in (text, f"/{text}"):
        with pytest.raises(LauncherError) as caught:
            resolve(model, settings)
        assert caught.value.exit_code in (2, 4)


def test_a_site_may_offer_its_catalog_only(settings: Settings, tmp_path: Path, folder: Path) -> None:
    site = tmp_path / "strict.yml"
    catalog = "allow: {models: catalog}\ncatalog: {nice: {id: org/name}}\n"
    site.write_text(f"models: {{folders: [{folder}]}}\n{catalog}")
    strict = load({"LAUNCHER_SITE": str(site), "XDG_CONFIG_HOME": str(tmp_path)})
    assert resolve("nice", strict).id == "org/name"
    for model in ("Llama-3.1-8B-Instruct", str(folder / "Llama-3.1-8B-Instruct")):
        with pytest.raises(ModelError, match="offered here"):
            resolve(model, strict)

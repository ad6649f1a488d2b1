"""The index of kept models: every layout, every trouble, and that what it remembers is never believed too long."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path

import pytest

from launcher.models.index import Kept, forget, kept, note_use
from launcher.models.resolve import SHIPPED
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = COMMIT[::-1]
CONFIG = (SHIPPED / "tiny-chat" / "config.json").read_bytes()


def weights(path: Path, size: int = 16) -> None:
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def model(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    for name in files or ("model.safetensors",):
        weights(folder / name)
    return folder


def repository(folder: Path, model_id: str, *commits: str) -> Path:
    root = folder / f"models--{model_id.replace('/', '--')}"
    for commit in commits or (COMMIT,):
        model(root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text((commits or (COMMIT,))[-1])
    return root


def aged(folder: Path) -> None:
    """Make everything in `folder` old, as it is on any other day: what has just changed is never believed."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    made.mkdir()
    return made


@pytest.fixture
def settings(tmp_path: Path, shared: Path) -> Settings:
    site = tmp_path / "site.yml"
    site.write_text(
        json.dumps(
            {
                "models": {"folders": [str(shared)], "cache": str(tmp_path / "own")},
                "places": {"cache": str(tmp_path / "cache")},
            }
        )
    )
    return load({"LAUNCHER_SITE": str(site), "XDG_CONFIG_HOME": str(tmp_path)})


def plain(found: list[Kept]) -> list[tuple[object, ...]]:
    return [
        (k.id, k.revision, k.refs, k.at, k.layout, k.bytes, k.trouble, k.modified_at, k.facts) for k in found
    ]


def test_every_layout_is_listed_with_what_it_is(settings: Settings, shared: Path, tmp_path: Path) -> None:
    repository(shared, "org/name", LATER, COMMIT)
    (shared / "models--org--name" / "refs" / "release").mkdir()
    (shared / "models--org--name" / "refs" / "release" / "v1").write_text(LATER)
    model(shared / "Llama-3.1-8B")
    model(shared / "meta" / "large")
    repository(tmp_path / "own", "org/name")
    aged(shared)
    found = {(k.id, k.revision, k.folder): k for k in kept(settings)}
    assert len(found) == 5
    newest = found["org/name", COMMIT, shared]
    assert newest.refs == ("main",)
    assert newest.path == shared / "models--org--name" / "snapshots" / COMMIT
    assert newest.trouble is None
    assert newest.facts is not None
    assert newest.facts.architecture == "LlamaForCausalLM"
    assert newest.bytes == sum(path.stat().st_size for path in newest.path.iterdir())
    assert newest.modified_at == 1_700_000_000
    assert found["org/name", LATER, shared].refs == ("release/v1",)
    assert {"Llama-3.1-8B", "meta/large"} < {k.id for k in found.values()}


def test_a_second_look_says_the_same_and_reads_no_model(settings: Settings, shared: Path) -> None:
    repository(shared, "org/name", COMMIT, LATER)
    model(shared / "org" / "plain")
    model(shared / "flat")
    aged(shared)
    first = plain(kept(settings))
    # What was read before is not read again: this would be another size.
    weights(shared / "flat" / "model.safetensors", 32)
    os.utime(shared / "flat", (1_700_000_000, 1_700_000_000))
    assert plain(kept(settings)) == first
    assert plain(kept(settings, refresh=True)) != first


@pytest.mark.parametrize("change", ["snapshot", "removed", "flat", "plain", "new in org", "new"])
def test_a_change_is_noticed(settings: Settings, shared: Path, change: str) -> None:
    root = repository(shared, "org/name")
    model(shared / "org" / "plain")
    model(shared / "flat")
    aged(shared)
    before = plain(kept(settings))
    if change == "snapshot":
        model(root / "snapshots" / LATER)
    elif change == "removed":
        (root / "refs" / "main").unlink()
        os.rename(root, shared / ".gone")
    elif change == "flat":
        weights(shared / "flat" / "more.safetensors")
    elif change == "plain":
        weights(shared / "org" / "plain" / "more.safetensors")
    elif change == "new in org":
        model(shared / "org" / "other")
    else:
        model(shared / "other")
    after = plain(kept(settings))
    assert after != before
    assert after == plain(kept(settings, refresh=True))


def test_what_has_just_changed_is_looked_at_again(settings: Settings, shared: Path) -> None:
    model(shared / "flat")
    kept(settings)
    # Within one tick of a coarse clock the folder's time stays as it was.
    stamp = os.stat(shared / "flat")
    weights(shared / "flat" / "more.safetensors")
    os.utime(shared / "flat", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert kept(settings)[0].bytes > 2 * 16 + len(CONFIG)


def test_trouble_is_said_and_looked_at_again(settings: Settings, shared: Path) -> None:
    shards = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors")
    model(shared / "half", *shards)
    (model(shared / "pickle") / "model.safetensors").rename(shared / "pickle" / "pytorch_model.bin")
    (shared / "link").mkdir()
    (shared / "link" / "config.json").write_bytes(CONFIG)
    (shared / "link" / "model.safetensors").symlink_to("../../nowhere")
    (shared / "models--org--begun" / "blobs").mkdir(parents=True)
    (shared / "models--org--begun" / "blobs" / f"{COMMIT}.incomplete").write_bytes(b"x" * 100)
    model(shared / "broken")
    (shared / "broken" / "model.safetensors").write_bytes(b"short")
    aged(shared)
    for _ in range(2):
        found = {k.id: k for k in kept(settings)}
        assert found["half"].trouble == "It is incomplete: 2 of 3 files of weights are here."
        assert found["pickle"].trouble == "It has no weights in safetensors format."
        assert found["link"].trouble == "It is incomplete: model.safetensors is a link to nothing."
        assert "is not a safetensors file" in (found["broken"].trouble or "")
        begun = found["org/begun"]
        assert (begun.bytes, begun.revision) == (100, None)
        assert begun.trouble == "Its download has not ended. Go on with: launcher models add org/begun"
    weights(shared / "half" / "model-00003-of-00003.safetensors")
    aged(shared)
    assert next(k for k in kept(settings) if k.id == "half").trouble is None


def test_weights_that_were_cut_are_not_offered(settings: Settings, shared: Path) -> None:
    for name in ("bytes", "larger"):
        weights(model(shared / name) / "model.safetensors", 16 if name == "bytes" else 40_000)
        path = shared / name / "model.safetensors"
        os.truncate(path, path.stat().st_size - (4 if name == "bytes" else 30_000))
    aged(shared)
    for _ in range(2):
        found = {k.id: k.trouble for k in kept(settings)}
        whole = 8 + len(json.dumps({"t": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}})) + 16
        assert found["bytes"] == f"model.safetensors is incomplete: it has {whole - 4} of {whole} bytes."
        assert found["larger"] == "model.safetensors is incomplete: it has 9.8 of 39.1 kB."


def test_what_is_no_model_for_vllm_has_its_own_words(settings: Settings, shared: Path) -> None:
    holds = {
        "gguf": ("m-Q4_K_M.gguf",),
        "adapter": ("adapter_config.json", "adapter_model.safetensors"),
        "adapter with a config": ("config.json", "adapter_config.json", "adapter_model.safetensors"),
        "pictures": ("model_index.json",),
        "ct2": ("model.bin", "vocabulary.json"),
    }
    for folder, files in holds.items():
        (shared / folder).mkdir()
        for name in files:
            (shared / folder / name).write_bytes(CONFIG)
    assert {k.id: k.trouble for k in kept(settings)} == {
        "gguf": "GGUF weights, made for llama.cpp.",
        "adapter": "LoRA adapter, not a model of its own.",
        "adapter with a config": "LoRA adapter, not a model of its own.",
        "pictures": "Diffusers pipeline, which makes pictures.",
        "ct2": "CTranslate2 weights, made for faster-whisper.",
    }


def test_what_was_changed_by_us_is_looked_at_again(settings: Settings, shared: Path) -> None:
    repository(shared, "org/name")
    model(shared / "org" / "plain")
    aged(shared)
    before = {k.id: k.bytes for k in kept(settings)}
    for path in shared.rglob("model.safetensors"):
        weights(path, 32)
        os.utime(path.parent, (1_700_000_000, 1_700_000_000))
    aged(shared)
    assert {k.id: k.bytes for k in kept(settings)} == before
    forget(shared / "models--org--name" / "snapshots" / COMMIT, settings)
    after = {k.id: k.bytes for k in kept(settings)}
    assert (after["org/name"] > before["org/name"], after["org/plain"]) == (True, before["org/plain"])
    forget(shared / "org" / "plain", settings)
    assert {k.id: k.bytes for k in kept(settings)}["org/plain"] > before["org/plain"]
    forget(shared / "nowhere", settings)
    forget(Path("/"), settings)


def test_patience_ends_the_reading_and_a_later_look_goes_on(settings: Settings, shared: Path) -> None:
    model(shared / "flat")
    aged(shared)
    assert kept(settings, patience_s=-1)[0].facts is None
    assert kept(settings, patience_s=60)[0].facts is not None
    assert kept(settings, patience_s=-1)[0].facts is not None


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"[1, 2]\nx", b"short", None])
def test_a_damaged_index_is_as_good_as_none(
    settings: Settings, shared: Path, tmp_path: Path, damage: bytes | None
) -> None:
    for name in ("one", "two"):
        model(shared / name)
    aged(shared)
    before = plain(kept(settings))
    files = [path for path in (tmp_path / "cache" / "models").iterdir() if path.stat().st_size > 200]
    assert {path.suffix for path in files} == {".index", ".facts"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    for path in files:
        content = path.read_bytes()
        for broken in (
            [damage, content] if damage is not None else [content[:-3], content.replace(b"one", b"two")]
        ):
            path.write_bytes(broken)
            assert plain(kept(settings)) == before
    for path in files:
        path.unlink()
        assert plain(kept(settings)) == before


def test_a_cache_that_cannot_be_written_costs_time_only(
    settings: Settings, shared: Path, tmp_path: Path
) -> None:
    model(shared / "flat")
    (tmp_path / "cache").write_text("a file in the way")
    note_use(shared / "flat", Path(settings.places.cache))
    assert [k.id for k in kept(settings)] == ["flat"]


def test_the_last_use_is_remembered(settings: Settings, shared: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model(shared / name)
    assert [k.used_at for k in kept(settings)] == [None, None]
    note_use(shared / "two", Path(settings.places.cache))
    (note,) = (tmp_path / "cache" / "models" / "used").iterdir()
    os.utime(note, (1_700_000_000, 1_700_000_000))
    assert [k.used_at for k in kept(settings)] == [None, 1_700_000_000]


def test_many_at_once_see_the_same(settings: Settings, shared: Path) -> None:
    for number in range(20):
        model(shared / f"model-{number:02}")
    aged(shared)
    expected = plain(kept(settings, refresh=True))
    seen: list[list[tuple[object, ...]]] = []
    threads = [
        threading.Thread(target=lambda odd=odd: seen.append(plain(kept(settings, refresh=odd))))
        for odd in (True, False) * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 8
    assert plain(kept(settings)) == expected


def test_hostile_names_are_listed_or_left_out_and_break_nothing(settings: Settings, shared: Path) -> None:
    for text in HOSTILE:
        if text.strip() and "\0" not in text and len(text) < 200 and "/" not in text:
            model(shared / text)
    os.mkfifo(model(shared / "fifo") / "extra.safetensors")
    (shared / "fifo" / "model.safetensors").unlink()
    os.mkfifo(shared / "not-a-folder")
    (shared / "models--a--loop").symlink_to("models--a--loop")
    aged(shared)
    first = plain(kept(settings))
    assert len(first) > 10
    assert plain(kept(settings)) == first
    assert kept(settings, patience_s=-1)

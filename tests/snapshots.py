"""Models as they lie on disks: real safetensors files of a few bytes, in each layout, in the folders of a site."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.models.resolve import ResolvedModel, resolve
from launcher.settings.layers import load
from launcher.settings.schema import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
_NOBODY = 65534


def weights(path: Path, size: int = 16) -> None:
    """One safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"t": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * size)


def snapshot(folder: Path, *shards: str) -> Path:
    """A whole model in `folder`, in one file or in these shards with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    for shard in shards or ("model.safetensors",):
        weights(folder / shard)
    if shards:
        index = {"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def repository(folder: Path, model: str, *commits: str, **refs: str) -> Path:
    """A repository in the hub's layout: files are links into blobs/, refs are branches and tags (default: main)."""
    root = folder / f"models--{model.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    for commit in commits or (COMMIT,):
        made = snapshot(root / "snapshots" / commit)
        for file in list(made.iterdir()):
            blob = root / "blobs" / f"{commit}-{file.name}"
            file.rename(blob)
            file.symlink_to(f"../../blobs/{blob.name}")
    for ref, commit in (refs or {"main": (commits or (COMMIT,))[0]}).items():
        file = root / "refs" / ref
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)
    return root


def as_nobody(say: Callable[[], str]) -> str:
    """What `say` returns in a process that may read only what everybody may."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            os.write(write, say().encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}"[:1000].encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


class Folders:
    """Two shared folders and the user's cache, all empty, and the settings that name them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.one, self.two, self.cache = (root / name for name in ("one", "two", "cache"))
        for folder in (self.one, self.two, self.cache):
            folder.mkdir()

    def settings(self, more: str = "") -> Settings:
        site = self.root / "site.yml"
        site.write_text(f"models: {{folders: [{self.one}, {self.two}], cache: {self.cache}}}\n{more}\n")
        return load({"LAUNCHER_SITE": str(site), "XDG_CONFIG_HOME": str(self.root)})

    def found(self, model: str, revision: str | None = None, more: str = "", **how: bool) -> ResolvedModel:
        return resolve(model, self.settings(more), revision, **how)

    def trouble(self, model: str, revision: str | None = None, more: str = "") -> str:
        """What is said where nothing is found, the folders written as ONE, TWO and CACHE."""
        with pytest.raises(LauncherError) as caught:
            resolve(model, self.settings(more), revision)
        return self.short(str(caught.value))

    def short(self, text: str) -> str:
        for folder, name in (
            (self.one, "ONE"),
            (self.two, "TWO"),
            (self.cache, "CACHE"),
            (self.root, "ROOT"),
        ):
            text = text.replace(str(folder), name)
        return text


def variables(
    mels: int = 80, layers: int = 2, hidden: int = 64, vocabulary: int = 96
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of some of a Whisper model's variables, as CTranslate2 calls them."""
    found: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (hidden, mels, 3),
        "decoder/embeddings/weight": (vocabulary, hidden),
        "decoder/position_encodings/encodings": (448, hidden),
        "decoder/num_heads": (),
    }
    for layer in range(layers):
        found[f"encoder/layer_{layer}/ffn/linear_0/weight"] = (4 * hidden, hidden)
        found[f"decoder/layer_{layer}/ffn/linear_0/weight"] = (4 * hidden, hidden)
    return found


def ctranslate2(
    spec: str = "WhisperSpec", shapes: dict[str, tuple[int, ...]] | None = None, *, version: int = 6
) -> bytes:
    """A `model.bin` of CTranslate2 with float16 zeros (ctranslate2/specs/model_spec.py, _serialize)."""

    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    shapes = variables() if shapes is None else shapes
    made = [struct.pack("<I", version), text(spec), struct.pack("<II", 3, len(shapes))]
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        made += [text(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape), struct.pack("<BI", 4, size)]
        made.append(bytes(size))
    return b"".join([*made, struct.pack("<I", 1), text("alias"), text("decoder/embeddings/weight")])


def whisper(folder: Path, *, mels: int = 80) -> Path:
    """A whole Whisper model in CTranslate2's format, of zeros, in `folder`; it loads in no engine."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(ctranslate2(shapes=variables(mels)))
    for name, text in (("config.json", "{}"), ("tokenizer.json", "{}"), ("vocabulary.json", "[]")):
        (folder / name).write_text(text)
    if mels != 80:
        (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels}))
    return folder

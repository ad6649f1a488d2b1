"""Headers of safetensors files: read whole, and no hostile file holds up or misleads whoever reads them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ModelError
from launcher.models.inspect.facts import facts
from launcher.models.inspect.header import local_tensors, tensor

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 64, "intermediate_size": 64, "torch_dtype": "bfloat16",
}  # fmt: skip
NAME = "model.layers.0.mlp.up_proj.weight"


def entry(dtype: str = "BF16", shape: object = (4, 4), end: int = 32) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def write(path: Path, header: object, size: int = 64, length: int | None = None) -> None:
    """A safetensors file with this header; sparse, so that it weighs nothing."""
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text)
        file.truncate(8 + len(text) + size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_all_files_without_an_index(folder: Path) -> None:
    write(folder / "b.safetensors", {"__metadata__": {"format": "pt"}, NAME: entry()})
    write(folder / "a.safetensors", {"lm_head.weight": entry("F8_E4M3", (8, 4))})
    write(folder / "consolidated.safetensors", {"tok_embeddings.weight": entry()})
    found = local_tensors(folder)
    assert found is not None
    assert [(one.name, one.dtype, one.bytes) for one in found] == [
        ("lm_head.weight", "F8_E4M3", 32),
        (NAME, "BF16", 32),
    ]


def test_only_the_files_of_the_index(folder: Path) -> None:
    write(folder / "one.safetensors", {NAME: entry()})
    write(folder / "stray.safetensors", {"x": entry()})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {NAME: "one.safetensors"}})
    )
    assert [one.name for one in local_tensors(folder) or ()] == [NAME]


def test_no_weights_at_all(folder: Path) -> None:
    assert local_tensors(folder) is None
    assert not facts(folder).counted


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("BF16", (3, 5), 30), ("F4", (4, 4), 8), ("F8_E8M0", (7,), 7), ("F32", (), 4)],
)
def test_bytes_follow_from_type_and_shape(dtype: str, shape: tuple[int, ...], size: int) -> None:
    assert tensor("x", dtype, shape).bytes == size


HEADERS: dict[str, object] = {
    "a list": [1],
    "no entry": {NAME: 7},
    "no shape": {NAME: {"dtype": "BF16", "data_offsets": [0, 1]}},
    "an unheard-of type": {NAME: entry("B\x00F16")},
    "a negative side": {NAME: entry(shape=[-4, 4])},
    "a side without end": {NAME: entry(shape=[2**63, 4])},
    "a side that is true": {NAME: entry(shape=[True, 16])},
    "a thousand sides": {NAME: entry(shape=[1] * 1000)},
    "other bytes than its shape": {NAME: entry(end=31)},
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_false_header_is_refused(folder: Path, case: str) -> None:
    write(folder / "model.safetensors", HEADERS[case])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        facts(folder)


def test_a_header_longer_than_its_file(folder: Path) -> None:
    write(folder / "model.safetensors", {NAME: entry()}, length=2**40)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        facts(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_pipe_holds_nobody_up(folder: Path, name: str) -> None:
    write(folder / "model.safetensors", {NAME: entry()})
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "tokenizer_config.json":
        assert facts(folder).task == "completion"
    else:
        with pytest.raises(ModelError, match=name):
            facts(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "7", "[]", "\ud800", '{"a": NaN'])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=r"config\.json (is not JSON|does not hold a JSON object)"):
        facts(folder)


def test_a_missing_config_and_a_missing_shard_are_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {NAME: "gone.safetensors"}})
    )
    with pytest.raises(ModelError, match=r"gone\.safetensors is missing\. Download the model again\."):
        facts(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        facts(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\0b"])
def test_an_index_that_names_files_elsewhere(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: name}}))
    with pytest.raises(ModelError, match="names files outside its folder"):
        facts(folder)

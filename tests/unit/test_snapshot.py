"""Each way in which a model's folder can be broken, foreign or hostile has its own sentence."""

from __future__ import annotations

import json
import os
import pwd
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.errors import ModelError
from launcher.models.links import reached
from launcher.models.resolve import SHIPPED
from launcher.models.snapshot import check_snapshot
from tests.snapshots import COMMIT, as_nobody, ctranslate2, repository, snapshot, weights

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def trouble(folder: Path) -> str:
    """What is wrong with `folder`, its path written as F; the model is called m."""
    with pytest.raises(ModelError) as caught:
        check_snapshot(folder, "m", again="AGAIN")
    return str(caught.value).replace(str(folder), "F")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rename(name: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder / new)

    return change


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return change


def only(*files: tuple[str, bytes | str]) -> Callable[[Path], None]:
    """Empty the folder, then write these files."""

    def change(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name, content in files:
            write(name, content)(folder)

    return change


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def fifo(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 4)


def map_to(name: str) -> Callable[[Path], None]:
    return write(INDEX, json.dumps({"weight_map": {"t": name}}))


SIZE = 86  # of the file that tests.snapshots.weights writes
ADAPTER = json.dumps({"base_model_name_or_path": "org/base"})
OUTSIDE = f'Model "m": F/{INDEX} names files outside its folder. Do not use this copy.'
FORMATS = "Use a safetensors copy of the model."
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "short file": (cut, f'Model "m" is incomplete: F/{WEIGHTS} has {SIZE - 4} of {SIZE} bytes. AGAIN'),
    "empty weights": (write(WEIGHTS, b""), f'Model "m": F/{WEIGHTS} is not a safetensors file. AGAIN'),
    "rubbish": (write(WEIGHTS, b"\xff" * 64), f'Model "m": F/{WEIGHTS} is not a safetensors file. AGAIN'),
    "a list for a header": (
        write(WEIGHTS, struct.pack("<Q", 4) + b"[1]\n"), f'Model "m": F/{WEIGHTS} is not a safetensors file. AGAIN'
    ),
    "git lfs pointer": (
        write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f'Model "m": F/{WEIGHTS} is a Git LFS pointer, not the weights. '
        "Run git lfs pull in F, or download the model again.",
    ),
    "dangling link": (
        link(WEIGHTS, "../blobs/gone"),
        f'Model "m" is incomplete: F/{WEIGHTS} is a link to ../blobs/gone, which is not there. AGAIN',
    ),
    "link in a circle": (
        link(WEIGHTS, WEIGHTS),
        f'Model "m": F/{WEIGHTS} cannot be read (Too many levels of symbolic links). Check it, or use another copy.',
    ),
    "link to a device": (link(WEIGHTS, "/dev/zero"), f'Model "m": F/{WEIGHTS} is not a file. AGAIN'),
    "fifo for weights": (fifo(WEIGHTS), f'Model "m": F/{WEIGHTS} is not a file. AGAIN'),
    "fifo for config": (fifo("config.json"), 'Model "m": F/config.json is not a file. AGAIN'),
    "config is no json": (write("config.json", "{"), 'Model "m": F/config.json is not JSON. AGAIN'),
    "config is a list": (write("config.json", "[1]"), 'Model "m": F/config.json does not hold a JSON object. AGAIN'),
    "config without end": (write("config.json", "[" * 200_000), 'Model "m": F/config.json is not JSON. AGAIN'),
    "config is gone": (
        link("config.json", "../blobs/gone"),
        'Model "m": F/config.json is a link to ../blobs/gone, which is not there. Download the model again.',
    ),
    "missing shard": (
        map_to("model-00002-of-00002.safetensors"),
        'Model "m" is incomplete: F/model-00002-of-00002.safetensors is missing. AGAIN',
    ),
    "missing shard, no index": (
        rename(WEIGHTS, "model-00001-of-00002.safetensors"),
        'Model "m" is incomplete: F/model-00002-of-00002.safetensors is missing. AGAIN',
    ),
    "index names a file outside": (
        map_to("../other/model.safetensors"), OUTSIDE
    ),
    "index names the root": (map_to("/etc/passwd"), OUTSIDE),
    "index names its folder": (map_to(".."), OUTSIDE),
    "index names nothing": (write(INDEX, "{}"), f'Model "m": F/{INDEX} has no weight_map. AGAIN'),
    "only a config": (remove(WEIGHTS), 'Model "m": F has a config.json but no weights (*.safetensors). AGAIN'),
    "training leftovers": (
        only(("config.json", "{}"), ("training_args.bin", "x"), ("optimizer.pt", "x")),
        'Model "m": F has a config.json but no weights (*.safetensors). AGAIN',
    ),
    "unfinished download": (
        only(("config.json", "{}"), (".cache/x", "")),
        'Model "m": F has a config.json but no weights (*.safetensors). AGAIN',
    ),
    "empty folder": (only(), 'Model "m": F has no config.json. Give the folder that holds the weights.'),
    "weights without config": (
        remove("config.json"), 'Model "m": F has no config.json. Give the folder that holds the weights.'
    ),
    "pickle weights": (
        only(("config.json", "{}"), ("pytorch_model.bin", "x")),
        'Model "m": F has only pickle weights, which can run code when they are loaded. ' + FORMATS,
    ),
    "adapter": (
        only(("adapter_config.json", ADAPTER), ("adapter_model.safetensors", "")),
        'Model "m": F is a LoRA adapter for org/base, not a model of its own. '
        "Launch org/base with the engine arguments --enable-lora --lora-modules NAME=F.",
    ),
    "adapter with a config": (
        only(("adapter_config.json", "{}"), ("adapter_model.safetensors", ""), ("config.json", "{}")),
        'Model "m": F is a LoRA adapter, not a model of its own. '
        "Launch its base model with the engine arguments --enable-lora --lora-modules NAME=F.",
    ),
    "gguf": (
        only(("m-Q4_K_M.gguf", "GGUF")),
        'Model "m": F has only weights in the format GGUF, made for llama.cpp; vLLM cannot load them. ' + FORMATS,
    ),
    "onnx": (
        only(("config.json", "{}"), ("model.onnx", "")),
        'Model "m": F has only weights in the format ONNX, made for ONNX Runtime; vLLM cannot load them. ' + FORMATS,
    ),
    "another model of ctranslate2": (
        only(("config.json", "{}"), ("model.bin", ctranslate2("TransformerSpec")), ("vocabulary.json", "[]")),
        'Model "m": F is in the format of CTranslate2 (TransformerSpec), of which only Whisper models are served '
        "here. " + FORMATS,
    ),
    "pictures": (
        only(("model_index.json", "{}")),
        'Model "m": F is a Diffusers pipeline, which makes pictures and not text. '
        "Choose a language, embedding or vision-language model.",
    ),
    "a file of another kind called model.bin": (
        only(("config.json", "{}"), ("model.bin", b"PK\x03\x04" + bytes(40))),
        'Model "m": F has only pickle weights, which can run code when they are loaded. ' + FORMATS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_folder_has_its_sentence(tmp_path: Path, case: str) -> None:
    change, sentence = BROKEN[case]
    folder = snapshot(tmp_path / "model")
    change(folder)
    assert trouble(folder) == sentence


def test_a_config_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model")
    os.truncate(folder / "config.json", 10**12)  # a hole, not a terabyte
    assert trouble(folder) == 'Model "m": F/config.json is larger than 64 MB. Do not use this copy.'


def test_a_download_that_broke_off_is_told_with_what_came(tmp_path: Path) -> None:
    root = repository(tmp_path, "org/name")
    folder = root / "snapshots" / COMMIT
    (root / "blobs" / "etag.0a1b2c3d.incomplete").touch()
    os.truncate(root / "blobs" / "etag.0a1b2c3d.incomplete", 3 * 2**29)
    assert check_snapshot(folder, "m").files == (WEIGHTS,)  # of another revision, it seems: this one is whole
    (folder / WEIGHTS).unlink()
    assert trouble(folder) == (
        'Model "m" is incomplete: F has no weights yet, and a download is unfinished (1.5 GB so far). '
        "Wait if it is still running. AGAIN"
    )
    for file in folder.iterdir():
        file.unlink()
    assert trouble(folder) == (
        'Model "m" is incomplete: F has no config.json, and a download is unfinished (1.5 GB so far). '
        "Wait if it is still running, or download the model again."
    )
    folder.rmdir()
    folder.parent.rmdir()
    assert trouble(folder.parent) == (
        f'Model "m" is incomplete: {root} holds no snapshot, and a download is unfinished (1.5 GB so far). '
        "Wait if it is still running. AGAIN"
    )


def test_a_folder_of_models_names_those_in_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        snapshot(tmp_path / "org" / name)
    assert (
        trouble(tmp_path / "org") == 'Model "m": F has no config.json. Give one of the folders in it: a, b.'
    )


def test_a_sentence_transformer_is_a_model_and_its_parts_are_named(tmp_path: Path) -> None:
    whole = snapshot(tmp_path / "whole")
    write("modules.json", "[]")(whole)
    assert check_snapshot(whole, "m").format == "safetensors"
    parts = tmp_path / "parts"
    snapshot(parts / "0_Transformer")
    write("modules.json", "[]")(parts)
    assert trouble(parts) == (
        'Model "m": F is a sentence-transformers model whose transformer is in 0_Transformer/. '
        "Give the path F/0_Transformer."
    )


def test_mistrals_own_format_needs_no_config_json(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model")
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")
    (folder / "config.json").rename(folder / "params.json")
    assert check_snapshot(folder, "m").format == "mistral"


def test_where_there_are_two_formats_the_one_that_vllm_takes_is_looked_at(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model")
    weights(folder / "consolidated.safetensors")
    (folder / WEIGHTS).write_bytes(b"")
    assert check_snapshot(folder, "m").files == ("consolidated.safetensors",)


def test_pickles_are_taken_where_they_are_allowed_and_all_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    only(("config.json", "{}"), ("pytorch_model-00001-of-00002.bin", "x"))(folder)
    with pytest.raises(ModelError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        check_snapshot(folder, "m", pickle_weights=True)
    write("pytorch_model-00002-of-00002.bin", "x")(folder)
    assert check_snapshot(folder, "m", pickle_weights=True).format == "pickle"


def test_a_tokenizer_that_is_missing_is_noticed(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model")
    assert check_snapshot(folder, "m").tokenizer
    (folder / "tokenizer.json").rename(folder / "tokenizer_config.json")
    assert not check_snapshot(folder, "m").tokenizer
    for name in ("tokenizer.model", "vocab.json", "tekken.json", "qwen.tiktoken", "sentencepiece.bpe.model"):
        write(name, "")(folder)
        assert check_snapshot(folder, "m").tokenizer, name
        (folder / name).unlink()
    assert check_snapshot(SHIPPED / "tiny-chat", "m").tokenizer


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder whose path everybody may walk, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("closed", [".", WEIGHTS, "config.json"])
def test_what_may_not_be_read_is_told_with_who_can_change_it(public: Path, closed: str) -> None:
    folder = snapshot(public / "model")
    folder.chmod(0o755)
    (folder / closed).chmod(0)
    me = pwd.getpwuid(os.getuid()).pw_name
    said = as_nobody(lambda: trouble(folder))
    (folder / closed).chmod(0o700)
    file = "F" if closed == "." else f"F/{closed}"
    assert said == (
        f'Model "m": you may not read {file}, which belongs to {me}. '
        f"Ask {me} to let you read it, or use another copy."
    )


def test_the_folders_that_links_lead_to_are_known_for_a_container(tmp_path: Path) -> None:
    root = repository(tmp_path / "hub", "org/name")
    folder = root / "snapshots" / COMMIT
    assert reached(folder) == []
    # huggingface_hub's own store of files that several repositories share.
    store = tmp_path / "hub" / "blobs"
    (store / "ab").mkdir(parents=True)
    (store / ".huggingface-shared-blobs").touch()
    blob = root / "blobs" / f"{COMMIT}-{WEIGHTS}"
    blob.rename(store / "ab" / "hash")
    blob.symlink_to("../../blobs/ab/hash")
    assert reached(folder) == [store]
    # A folder of links made by hand, one to a link.
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    (by_hand / WEIGHTS).symlink_to(folder / WEIGHTS)
    link("circle", "circle")(by_hand)
    link("dangling", "/nowhere/at/all")(by_hand)
    assert reached(by_hand) == sorted([store, folder, root / "blobs"])

"""What a folder holds that is not a whole model for an engine here: an adapter, another format, half a download.

Owns the sentences for these; knows them by file names, and CTranslate2's files by their first bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import ModelError
from launcher.models.disk import read_object, size
from launcher.models.folders import is_model
from launcher.models.hub.wanted import VOCABULARIES
from launcher.models.inspect import ctranslate2

_SAFETENSORS_COPY = "Use a safetensors copy of the model."
_INSTEAD = {
    ".gguf": ("GGUF", "llama.cpp"),
    ".onnx": ("ONNX", "ONNX Runtime"),
    ".h5": ("TensorFlow", "TensorFlow"),
    ".msgpack": ("Flax", "Flax"),
    ".npz": ("MLX", "MLX"),
}
_INSIDE_MAX = 1000


class ForeignError(ModelError):
    """A folder that holds, perhaps all of it, something else than a model that an engine here loads."""


def in_words(names: Collection[str]) -> str | None:
    """In a few words, what a folder with these files and no model's weights holds; None for what has no name."""
    if "adapter_config.json" in names:
        return "LoRA adapter, not a model of its own."
    if "model_index.json" in names:
        return "Diffusers pipeline, which makes pictures."
    if "model.bin" in names and any(name in names for name in VOCABULARIES):
        return "CTranslate2 weights, made for faster-whisper."
    for ending, (name, program) in _INSTEAD.items():
        if any(file.endswith(ending) for file in names):
            return f"{name} weights, made for {program}."
    return None


def without_config(folder: Path, model: str, names: Collection[str]) -> ModelError:
    """The error for a folder with neither config.json nor Mistral's params.json."""
    if "adapter_config.json" in names:
        return _adapter(folder, model)
    if "model_index.json" in names:
        return ForeignError(
            f'Model "{model}": {folder} is a Diffusers pipeline, which makes pictures and not text.',
            "Choose a language, embedding or vision-language model.",
        )
    if (other := _other_format(folder, model, names)) is not None:
        return other
    inside = _models_inside(folder)
    if "modules.json" in names and inside:
        return ForeignError(
            f'Model "{model}": {folder} is a sentence-transformers model whose transformer is in {inside[0]}/.',
            f"Give the path {folder / inside[0]}.",
        )
    if (so_far := unfinished(folder)) is not None:
        return ModelError(
            f'Model "{model}" is incomplete: {folder} has no config.json, and a download is unfinished '
            f"({size(so_far)} so far).",
            "Wait if it is still running, or download the model again.",
        )
    hint = f"Give one of the folders in it: {', '.join(inside[:5])}." if inside else None
    return ModelError(
        f'Model "{model}": {folder} has no config.json.', hint or "Give the folder that holds the weights."
    )


def instead_of_weights(
    folder: Path, model: str, names: Collection[str], config: Mapping[str, Any]
) -> ModelError | None:
    """The error for a folder that has a config.json and, in place of weights, something else that has a name."""
    if "adapter_config.json" in names:
        return _adapter(folder, model)
    if ctranslate2.FILE in names and (spec := _spec(folder)) not in (None, ctranslate2.WHISPER):
        return ForeignError(
            f'Model "{model}": {folder} is in the format of CTranslate2 ({spec}), of which only Whisper models are '
            "served here.",
            _SAFETENSORS_COPY,
        )
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return None
    return _other_format(folder, model, names)


def no_file_beside(folder: Path, model: str, name: str) -> ModelError:
    """The error for a Whisper model in CTranslate2's format without a file that faster-whisper cannot do without."""
    asked = "; faster-whisper would fetch one from the hub" if name == ctranslate2.TOKENIZER else ""
    return ModelError(
        f'Model "{model}": {folder} has no {name}{asked}.',
        f"Copy {name} there from the model that it was converted from, or download a whole copy "
        "(launcher models add Systran/faster-whisper-…).",
    )


def unfinished(folder: Path) -> int | None:
    """Bytes of broken-off or running downloads beside the snapshot `folder`; None where there are none."""
    # huggingface_hub writes blobs/<etag>.<random>.incomplete, and with local_dir .cache/huggingface/download/….
    repository = folder if folder.name == "snapshots" else folder.parent
    place = (
        repository.parent / "blobs"
        if repository.name == "snapshots"
        else folder / ".cache/huggingface/download"
    )
    try:
        with os.scandir(place) as listing:
            sizes = [entry.stat().st_size for entry in listing if entry.name.endswith(".incomplete")]
    except OSError:
        return None
    return sum(sizes) if sizes else None


def _spec(folder: Path) -> str | None:
    try:
        return ctranslate2.spec_in(folder)
    except (OSError, ValueError):
        return None


def _adapter(folder: Path, model: str) -> ModelError:
    base = None
    with contextlib.suppress(ModelError):
        base = read_object(folder / "adapter_config.json", model, "").get("base_model_name_or_path")
    known = isinstance(base, str) and base.isprintable() and 0 < len(base) <= 200
    return ForeignError(
        f'Model "{model}": {folder} is a LoRA adapter{f" for {base}" if known else ""}, not a model of its own.',
        f"Launch {base if known else 'its base model'} with the engine arguments --enable-lora "
        f"--lora-modules NAME={folder}.",
    )


def _other_format(folder: Path, model: str, names: Collection[str]) -> ModelError | None:
    for ending, (name, program) in _INSTEAD.items():
        if any(file.endswith(ending) for file in names):
            return ForeignError(
                f'Model "{model}": {folder} has only weights in the format {name}, made for {program}; vLLM cannot '
                "load them.",
                _SAFETENSORS_COPY,
            )
    return None


def _models_inside(folder: Path) -> list[str]:
    found = []
    try:
        with os.scandir(folder) as listing:
            for _, entry in zip(range(_INSIDE_MAX), listing, strict=False):
                if entry.is_dir() and entry.name.isprintable() and is_model(os.listdir(entry.path)):
                    found.append(entry.name)
    except OSError:
        pass
    return sorted(found)

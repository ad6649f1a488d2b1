"""Which files of a repository an engine needs, judged by their names; nothing here asks the hub or the disk.

One copy of the weights and everything that is text: configs, tokenizers, chat templates, licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from launcher.errors import ModelError

_TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".yml", ".yaml", ".vocab", ".bpe")
_PAPERS = re.compile(r"(README|LICEN[CS]E|NOTICE|USE_POLICY|COPYING)[^/]*", re.IGNORECASE)
# Second copies of the same weights for other programs: Meta's and OpenAI's own format, ONNX, OpenVINO, Apple.
_OTHERS = frozenset(("original", "onnx", "openvino", "coreml", "metal", "gguf", "mlx", "flax", "tflite"))
# model.fp32-00001-of-00002.safetensors: a variant beside the plain files (openai/whisper-large-v3).
_VARIANT = re.compile(
    r"model\.[a-z0-9_]+(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.[a-z0-9_]+\.json"
)
_PLAIN = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLE = re.compile(
    r"pytorch_model.*\.bin|.*\.(pt|pth|ckpt|pkl)|adapter_model\.bin|(model|consolidated).*\.bin"
)
_CTRANSLATE = "model.bin"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt", "source_vocabulary.json")


def wanted(names: Iterable[str], model: str, *, pickle_weights: bool = False) -> list[str]:
    """The names to download, sorted; raises ModelError where there is nothing that an engine could load."""
    here = [
        name for name in names if not (_OTHERS.intersection(name.lower().split("/")[:-1]) or _is_hidden(name))
    ]
    _check_kind(here, model)
    weights = _weights(here, model, pickle_weights)
    texts = [name for name in here if name.endswith(_TEXTS) or _PAPERS.fullmatch(name)]
    plain = any(_PLAIN.fullmatch(name) for name in weights)
    texts = [name for name in texts if not (plain and _is_second(name))]
    return sorted({*weights, *texts})


def _check_kind(names: list[str], model: str) -> None:
    # As launcher.models.others says it of a folder; here before anything is transferred.
    own = [n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_model")]
    if "adapter_config.json" in names and not own:
        raise ModelError(
            f'Model "{model}" is a LoRA adapter, not a model of its own.',
            f"Launch its base model with --enable-lora --lora-modules NAME=FOLDER, after: hf download {model} "
            "--local-dir FOLDER",
        )
    if "model_index.json" in names and "config.json" not in names:
        raise ModelError(
            f'Model "{model}" is a Diffusers pipeline, which makes pictures and not text.',
            "Choose a language, embedding or vision-language model.",
        )


def _weights(names: list[str], model: str, pickle_weights: bool) -> list[str]:
    if found := [name for name in names if name.endswith(".safetensors")]:
        if any(_PLAIN.fullmatch(name) for name in found):
            found = [name for name in found if not _is_second(name)]
        return found
    if _CTRANSLATE in names and any(name in names for name in VOCABULARIES):
        return [_CTRANSLATE]  # CTranslate2's own format, which runs no code: faster-whisper's models
    pickles = [name for name in names if _PICKLE.fullmatch(name.rpartition("/")[2])]
    if pickles and pickle_weights:
        return pickles
    if pickles:
        raise ModelError(
            f'Model "{model}" has only pickle weights ({pickles[0]}), which can run code when they are loaded.',
            "Look on the hub for a copy of it in safetensors.",
        )
    if gguf := [name for name in names if name.lower().endswith(".gguf")]:
        raise ModelError(
            f'Model "{model}" has only GGUF weights ({gguf[0]}), which are made for llama.cpp.',
            "Take the model that it was made from, or an AWQ, GPTQ or FP8 copy of it.",
        )
    raise ModelError(
        f'Model "{model}" has no weights (*.safetensors) on the hub.', "Check the id; it may be a data set."
    )


def _is_hidden(name: str) -> bool:
    # No model needs one, and programs believe what such names hold, wherever they are: .ipython, .git, .env.
    return any(part.startswith(".") for part in name.split("/"))


def _is_second(name: str) -> bool:
    # Only in the repository's first folder: sentence-transformers keep further weights in folders of their own.
    return name.startswith("consolidated") or _VARIANT.fullmatch(name) is not None

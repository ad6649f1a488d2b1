"""Which files of a repository are downloaded: one copy of the weights, and everything that is text."""

from __future__ import annotations

import pytest

from launcher.errors import ModelError
from launcher.models.hub.wanted import wanted

TEXTS = ["config.json", "generation_config.json", "tokenizer.json", "LICENSE", "chat_template.jinja"]
SHARDS = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
]


@pytest.mark.parametrize(
    ("weights", "left_out"),
    [
        # Llama: Meta's own format beside it
        (SHARDS, ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"]),
        # Mistral: the same weights twice
        (SHARDS, ["consolidated-00001-of-00002.safetensors", "consolidated.safetensors.index.json"]),
        (["consolidated.safetensors", "params.json", "tekken.json"], []),
        # GPT-OSS
        (SHARDS, ["metal/model.bin", "original/model.safetensors", "original/config.json"]),
        # openai/whisper-large-v3
        (
            ["model.safetensors"],
            [
                "model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json", "pytorch_model.bin",
                "flax_model.msgpack", "pytorch_model.fp32-00001-of-00002.bin",
            ],
        ),
        # sentence-transformers: weights in folders of their own
        (
            ["model.safetensors", "2_Dense/model.safetensors", "1_Pooling/config.json", "modules.json"],
            ["onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", "model.tflite", "image.png"],
        ),
        # Systran/faster-whisper: CTranslate2's format runs no code
        (["model.bin", "vocabulary.json"], []),
        # A model that an adapter was merged into
        (["model.safetensors", "adapter_config.json", "adapter_model.safetensors"], ["training_args.bin"]),
    ],
)  # fmt: skip
def test_one_copy_of_the_weights_and_all_texts(weights: list[str], left_out: list[str]) -> None:
    assert wanted([*TEXTS, *weights, *left_out, ".gitattributes"], "org/name") == sorted([*TEXTS, *weights])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["pytorch_model-00001-of-00002.bin"], "only pickle weights (pytorch_model-00001-of-00002.bin)"),
        (["model.bin"], "only pickle weights (model.bin)"),
        (["consolidated.00.pth"], "only pickle weights"),
        (["name-Q4_K_M.gguf"], "only GGUF weights (name-Q4_K_M.gguf)"),
        (["adapter_model.safetensors", "adapter_config.json"], "is a LoRA adapter"),
        (["adapter_model.bin", "adapter_config.json"], "is a LoRA adapter"),
        (["data.parquet"], "no weights (*.safetensors)"),
        ([], "no weights (*.safetensors)"),
    ],
)
def test_nothing_to_load_is_said(files: list[str], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        wanted([*TEXTS, *files], "org/name")
    assert said in caught.value.message


def test_pickles_come_only_when_the_site_allows_them() -> None:
    files = [*TEXTS, "pytorch_model.bin", "original/consolidated.00.pth"]
    assert wanted(files, "org/name", pickle_weights=True) == sorted([*TEXTS, "pytorch_model.bin"])

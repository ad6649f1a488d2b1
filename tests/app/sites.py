"""Three sites for the form: one cluster with two partitions, three clusters, and one that says next to nothing.

Owns their settings and the models in their folders, for chat and for speech: configs by hand and headers of weights
whose bytes are a hole in the file, so that a model of 140 GB costs a few kB of disk.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from tests.hostile import HOSTILE

GB = 2**30
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
LARGE = LLAMA | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "float32", "hidden_size": 384,
    "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30522,
    "max_position_embeddings": 512,
}  # fmt: skip

# Every text that a site can write as it likes, once with each hostile value.
TEXTS = [text for text in HOSTILE if text.strip() and "\0" not in text]

_A100 = {"gpu_type": "a100", "gpu_memory_gb": 80, "cpus": 16, "memory_gb": 120}
TWO_PARTITIONS: dict[str, Any] = {
    "clusters": {"test": {"scheduler": "slurm", "login_host": "login.example.edu"}},
    "profiles": {
        "gpu-small": {
            "cluster": "test", "partition": "gpu", "gpus": 1, "hours": 4, "hours_max": 24, **_A100,
            "accounts": ["physics", "chem_2"], "account_required": True, "qos_choices": ["normal", "long"],
        },
        "gpu-quad": {
            "cluster": "test", "partition": "gpu", "gpus": 2, "gpus_max": 4, "hours_max": 12, **_A100,
            "accounts": ["physics"],
        },
        "cpu": {"cluster": "test", "partition": "cpu", "cpus": 8, "memory_gb": 32, "hours_max": 0.5, "account": "free"},
    },
    "catalog": {
        "llama": {"title": "Llama, eight billion", "id": "meta/Llama-8B", "aliases": ["l8"]},
        "absent": {"id": "org/not-here"},
        "secret": {"id": "org/Hidden-8B", "hidden": True},
        "quad-only": {"id": "meta/Llama-8B-Chat", "profiles": ["gpu-quad"]},
    },
    "session": {"idle_minutes": 30},
    "locks": ["session.idle_minutes"],
    "allow": {"trust_remote_code": True},
}  # fmt: skip
THREE_CLUSTERS: dict[str, Any] = {
    "clusters": {
        "alpha": {"scheduler": "slurm", "ondemand": ["alpha_1", "alpha-2"]},
        "80gb": {"scheduler": "slurm"},
        "gamma.x": {"scheduler": "slurm"},
        "here": {"scheduler": "local"},
    },
    "profiles": {
        "A-1": {"cluster": "alpha", "partition": "gpu", "gpus": 1, "gpu_memory_gb": 80, "hours_max": 8},
        "80gb_a100": {"cluster": "80gb", "partition": "gpu", "gpus": 1, "gpu_memory_gb": 80, "hours_max": 4},
        "gamma.x": {"cluster": "gamma.x", "gpus": 1, "gpu_memory_gb": 24, "hours_max": 2},
        "desk": {"cluster": "here"},
        **{
            f"hostile{number}": {"cluster": "alpha", "description": text, "hours_max": 1}
            for number, text in enumerate(TEXTS)
        },
    },
    "catalog": {
        f"hostile{number}": {"title": text, "engine": "simulated"} for number, text in enumerate(TEXTS)
    },
}  # fmt: skip
MINIMAL: dict[str, Any] = {
    "clusters": {"test": {}},
    "profiles": {"all": {"cluster": "test"}},
}


def write_model(folder: Path, config: dict[str, Any], weights_bytes: int) -> Path:
    """A whole model in `folder`: its config, a tokenizer, and one file of weights that is a hole of that size."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    layers = config["num_hidden_layers"]
    hidden = config["hidden_size"]
    each = weights_bytes // layers // (2 * hidden) * (2 * hidden)
    tensors = {
        f"model.layers.{layer}.mlp.down_proj.weight": {
            "dtype": "BF16", "shape": [hidden, each // 2 // hidden], "data_offsets": [layer * each, (layer + 1) * each]
        }
        for layer in range(layers)
    }  # fmt: skip
    header = json.dumps(tensors).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + layers * each)
    return folder


def write_whisper(folder: Path, weights_bytes: int, *, hidden: int = 1280) -> Path:
    """A Whisper model in CTranslate2's format, in `folder`: the weights are a hole of about that size, in float16."""
    folder.mkdir(parents=True)
    config = {
        "alignment_heads": [[0, 0]],
        "lang_ids": [50259, 50260],
        "suppress_ids": [],
        "suppress_ids_begin": [],
    }
    for name in ("config.json", "tokenizer.json", "vocabulary.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(config if name == "config.json" else {"feature_size": 128}))
    shapes = {
        "encoder/conv1/weight": (hidden, 128, 3),
        "decoder/embeddings/weight": (51866, hidden),
        "decoder/position_encodings/encodings": (448, hidden),
        "decoder/layer_0/ffn/linear_0/weight": (4 * hidden, hidden),
    }
    rest = weights_bytes // 2 - sum(math.prod(shape) for shape in shapes.values())
    shapes["encoder/layer_0/ffn/linear_0/weight"] = (max(1, rest // hidden), hidden)
    with (folder / "model.bin").open("wb") as file:
        # As ctranslate2/specs/model_spec.py, ModelSpec._serialize, writes it; 4 is the type float16.
        file.write(struct.pack("<I", 6) + _ct2_text("WhisperSpec") + struct.pack("<II", 3, len(shapes)))
        for name, shape in shapes.items():
            size = 2 * math.prod(shape)
            file.write(_ct2_text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape))
            file.write(struct.pack("<BI", 4, size % 2**32))
            file.seek(size, os.SEEK_CUR)
        file.write(struct.pack("<I", 0))
    return folder


def _ct2_text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def two_partitions_models(folder: Path) -> None:
    """What lies in that site's folder of models."""
    write_model(folder / "meta" / "Llama-8B", LLAMA, 15 * GB)
    write_model(folder / "meta" / "Llama-8B-Chat", LLAMA, 15 * GB)
    write_model(folder / "meta" / "Llama-70B", LARGE, 131 * GB)
    write_model(folder / "meta" / "Llama-400B", LARGE, 750 * GB)
    write_model(folder / "org" / "Hidden-8B", LLAMA, 15 * GB)
    write_model(folder / "org" / "embed", BERT, 130 * 2**20)
    write_whisper(folder / "Systran" / "faster-whisper-large-v3", 3 * GB)
    write_whisper(folder / "org" / "whisper-small", GB // 2, hidden=768)
    write_model(folder / "org" / 'a "b" <i>', LLAMA, GB)
    broken = write_model(folder / "org" / "cut-short", LLAMA, GB)
    (broken / "model.safetensors").write_bytes(b"\x08")

"""Shapes of well-known models, from the config.json files that their publishers put on the hub: for tests of the fit.

Only what decides about memory; tests/unit/models holds the whole set with hand-computed bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from launcher.models.inspect.blueprint import blueprint
from launcher.models.inspect.quantization import quantization_of
from launcher.models.inspect.shape import shape_of


def _llama(hidden: int, layers: int, heads: int, inner: int, **more: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 8,
        "intermediate_size": inner, "vocab_size": 128256, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", **more,
    }  # fmt: skip


def _awq(**config: Any) -> dict[str, Any]:
    quantization = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "version": "gemm",
        "zero_point": True,
    }
    return {**config, "torch_dtype": "float16", "quantization_config": quantization}


_LLAMA_8B = _llama(4096, 32, 32, 14336)
_LLAMA_70B = _llama(8192, 80, 64, 28672)
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-8b": _LLAMA_8B,
    "llama-70b": _LLAMA_70B,
    "llama-70b-awq": _awq(**_LLAMA_70B),
    "llama-70b-fp8": {**_LLAMA_70B, "quantization_config": _FP8},
    "llama-8b-bnb": {**_LLAMA_8B, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
        "max_position_embeddings": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151936, "max_position_embeddings": 40960,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "deepseek-v3": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "first_k_dense_replace": 3, "moe_layer_freq": 1, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
        "max_position_embeddings": 163840, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "quantization_config": {**_FP8, "weight_block_size": [128, 128], "fmt": "e4m3"},
    },
    "gemma-3-27b": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16",
        "image_token_index": 262144, "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32,
            "num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 21504, "sliding_window": 1024,
            "vocab_size": 262208, "max_position_embeddings": 131072,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27,
            "num_attention_heads": 16, "intermediate_size": 4304, "image_size": 896, "patch_size": 14,
        },
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
        "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128, "vocab_size": 201088,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"},
    },
    "whisper-large-v3": {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": 1280,
        "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20, "decoder_attention_heads": 20,
        "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866, "max_source_positions": 1500,
        "max_target_positions": 448, "num_mel_bins": 128, "torch_dtype": "float16", "num_hidden_layers": 32,
    },
    "bge-large": {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 30522, "max_position_embeddings": 512,
        "torch_dtype": "float32",
    },
}  # fmt: skip


def snapshot(folder: Path, name: str, *, weights: bool = True) -> Path:
    """A folder with the model's config.json, and weights of the true size that take no space on the disk."""
    folder.mkdir(parents=True)
    config = CONFIGS[name]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (folder / "tokenizer.json").write_text("{}")
    if not weights:
        return folder
    shape = shape_of(config)
    dtype = str(config["torch_dtype"])
    header: dict[str, Any] = {}
    end = 0
    for tensor in blueprint(config, shape, dtype, quantization_of(config, {})):
        offsets = [end, end + tensor.bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        end += tensor.bytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder

"""The numbers of a `config.json`, under one name each: heads, layers, lengths, kinds of layers.

Owns what transformers fills in where a file leaves a number out, and where vLLM looks for a number that
architectures call by different names (vllm/transformers_utils/model_arch_config_convertor.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import ModelError

_TEXT = ("text_config", "language_config", "llm_config", "thinker_config", "decoder", "text_encoder")
_SIDE = 10_000_000  # no width and no vocabulary is larger; a context may be
_DEEP = 2000  # no model has more layers
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,80}")

# What the config classes of transformers 5 fill in, for the architectures whose published files leave it out.
_LLAMA = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
_GEMMA2 = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "sliding_window": 4096,
    "vocab_size": 256000, "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA3 = {**_GEMMA2, "max_position_embeddings": 131072, "vocab_size": 262208, "sliding_window_pattern": 6}
_LLAMA4 = {
    "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16,
    "interleave_moe_layer_step": 1, "attention_chunk_size": 8192, "max_position_embeddings": 131072,
    "vocab_size": 202048,
}  # fmt: skip
_LINEAR = {
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "head_dim": 256,
}  # fmt: skip
_BERT = {"max_position_embeddings": 512, "tie_word_embeddings": True, "type_vocab_size": 2}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8},
    "gemma": {"head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    "gemma2": {**_GEMMA2, "sliding_window_pattern": 2},
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma3n_text": {**_GEMMA3, "sliding_window": 512, "sliding_window_pattern": 5, "num_key_value_heads": 2},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window": 4096, "sliding_window_pattern": 4},
    "exaone4": {"sliding_window_pattern": 4},
    "olmo3": {"sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window": 128, "sliding_window_pattern": 2, "head_dim": 64, "num_key_value_heads": 8},
    "llama4_text": _LLAMA4,
    "qwen3": {"head_dim": 128},
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "whisper": {"tie_word_embeddings": True, "max_target_positions": 448, "max_source_positions": 1500},
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "modernbert": {"tie_word_embeddings": True, "max_position_embeddings": 8192},
    "gpt2": {"tie_word_embeddings": True, "n_positions": 1024},
    "starcoder2": {"tie_word_embeddings": True},
    "opt": {"tie_word_embeddings": True},
    "smollm3": {"tie_word_embeddings": True},
    "falcon": {"tie_word_embeddings": True, "head_dim": 64},
}  # fmt: skip
# One name for each number; the first that a config has counts.
_NAMES = {
    "hidden_size": ("hidden_size", "d_model", "n_embd", "dim"),
    "num_hidden_layers": ("num_hidden_layers", "decoder_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": (
        "num_attention_heads",
        "decoder_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
    ),
    "intermediate_size": ("intermediate_size", "decoder_ffn_dim", "ffn_dim", "n_inner", "ffn_hidden_size"),
}
_KV_HEADS = (
    "n_head_kv",
    "num_kv_heads",
    "num_key_value_heads",
    "multi_query_group_num",
    "num_attention_groups",
)
_EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
_MLA = {  # vllm/transformers_utils/model_arch_config_convertor.py, is_deepseek_mla
    "axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots3_note",
    "glm4_moe_lite", "glm5_next", "glm5_next_text", "glm_moe_dsa", "hy_v4", "kimi_k2", "kimi_linear",
    "longcat_flash", "pangu_ultra_moe",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """The decoder (or, for an encoder alone, the encoder) of one model."""

    text: Mapping[str, Any]  # its config, with what transformers fills in
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int
    mla: bool
    tied: bool
    kinds: tuple[
        str, ...
    ]  # of each layer: full sliding chunked mla mamba1 mamba2 gdn kda conv linear none, joined by "+"

    def number(self, *names: str, default: int = 0) -> int:
        """The first of `names` that the config has, as a whole number."""
        return number(self.text, *names, default=default)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that `config` (a whole config.json) describes; ModelError where a number is missing or absurd."""
    text = text_config(config)
    model_type = plain_name(text.get("model_type") or config.get("model_type"), "")
    found = {key: number(text, *names) for key, names in _NAMES.items()}
    hidden, layers = found["hidden_size"], found["num_hidden_layers"]
    heads = found["num_attention_heads"]
    attentionless = model_type in ("mamba", "mamba2", "falcon_mamba")
    if not hidden or not layers or not (heads or attentionless):
        raise ModelError(
            "config.json does not say how many layers, heads and hidden values the model has.",
            "Check that it is the config.json of a language model.",
        )
    heads = heads or 1
    mla = model_type in _MLA and number(text, "kv_lora_rank") > 0
    head_dim = number(text, "head_dim", "hidden_size_per_head") or hidden // heads
    if not head_dim:
        raise ModelError(
            f"config.json: {heads} heads cannot share {hidden} hidden values.", "Download the model again."
        )
    experts = number(text, *_EXPERTS)
    return Shape(
        text, model_type, hidden, layers, heads, _kv_heads(text, model_type, heads), head_dim,
        _intermediate(text, found["intermediate_size"] or 4 * hidden), number(text, "vocab_size"), experts, mla,
        bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        _kinds(text, model_type, layers, mla),
    )  # fmt: skip


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `config` that describes the language model, with the defaults of its type beneath."""
    inner: Mapping[str, Any] = config
    for _ in range(3):  # a thinker's text is two deep
        nested = next((inner[key] for key in _TEXT if isinstance(inner.get(key), Mapping)), None)
        if nested is None:
            break
        inner = nested
    given = {key: value for key, value in inner.items() if value is not None}
    if inner is not config and "tie_word_embeddings" not in given and "tie_word_embeddings" in config:
        given["tie_word_embeddings"] = config["tie_word_embeddings"]
    defaults = dict(DEFAULTS.get(str(given.get("model_type") or config.get("model_type") or ""), {}))
    if "sliding_window" in inner:  # null switches it off; only a missing key means the default
        defaults.pop("sliding_window", None)
    return {**defaults, **given}


def plain_name(value: object, otherwise: str = "unknown") -> str:
    """`value` where it is one plain word, as the names of architectures are: it is shown in terminals and pages."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else otherwise


def listed(config: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The list that `config` has under `name`, () for none; ModelError for what is no list of things per layer."""
    value = config.get(name)
    if value is None or value is False:
        return ()
    if not isinstance(value, list | tuple) or len(value) > _DEEP:
        raise ModelError(f"config.json: {name} is no list of layers.", "Download the model again.")
    return value


def number(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """The first of `names` that `config` has, as a whole number; ModelError for one that cannot be."""
    for name in names:
        value = config.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            value = value[0]  # Gemma 3n and Ernie VL list one number per layer, all the same
        if value is None or isinstance(value, bool):
            continue
        most = _DEEP if "layer" in name or name == "depth" else _SIDE
        if not isinstance(value, int | float) or not 0 <= value <= most:
            raise ModelError(
                f"config.json: {name} cannot be {str(value)[:40]!r}.", "Download the model again."
            )
        return int(value)
    return default


def _intermediate(text: Mapping[str, Any], given: int) -> int:
    if not text.get("block_auto_adjust_ff_dim"):
        return given
    step = number(text, "block_multiple_of", default=256)  # LFM2 writes down another width than it has
    return -(-int(2 * given / 3) // step) * step


def _kv_heads(text: Mapping[str, Any], model_type: str, heads: int) -> int:
    if model_type == "falcon" and not text.get("new_decoder_architecture") and text.get("multi_query", True):
        return 1
    attention = text.get("attn_config")
    if model_type == "dbrx" and isinstance(attention, Mapping):
        return number(attention, "kv_n_heads", default=heads)
    return number(text, *_KV_HEADS, default=heads) or heads


def _kinds(text: Mapping[str, Any], model_type: str, layers: int, mla: bool) -> tuple[str, ...]:
    """What each layer keeps for a request; as the models in vllm/model_executor/models build them."""
    full = "mla" if mla else "full"
    named = {
        "full_attention": full, "attention": full, "sliding_attention": "sliding", "linear_attention": "gdn",
        "chunked_attention": "chunked", "mamba": "mamba2", "conv": "conv", "hybrid": f"{full}+mamba2",
    }  # fmt: skip
    if model_type in ("mamba", "falcon_mamba"):
        return ("mamba1",) * layers
    if model_type == "mamba2":
        return ("mamba2",) * layers
    if model_type == "falcon_h1":
        return (f"{full}+mamba2",) * layers
    if model_type == "jamba":
        period, offset = (
            number(text, "attn_layer_period", default=8),
            number(text, "attn_layer_offset", default=4),
        )
        return tuple(full if i % period == offset else "mamba1" for i in range(layers))
    if isinstance(pattern := text.get("hybrid_override_pattern"), str):  # Nemotron-H: "M-M*-…"
        return tuple({"M": "mamba2", "*": full}.get(letter, "none") for letter in pattern[:layers])
    if isinstance(linear := text.get("linear_attn_config"), Mapping):  # Kimi Linear, counted from 1
        own = listed(linear, "kda_layers")
        return tuple("kda" if i + 1 in own else full for i in range(layers))
    if isinstance(types := text.get("attn_type_list"), Sequence):  # MiniMax
        return tuple(full if kind == 1 else "linear" for kind in types[:layers])
    if model_type == "llama4_text":  # llama4.py: the layers without positions see everything
        return _chunked(text, layers)
    if model_type == "gpt_oss":  # gpt_oss.py goes by the number of the layer, not by layer_types
        return tuple("sliding" if i % 2 == 0 else full for i in range(layers))
    kinds = _named_kinds(text, named, layers)
    if kinds is None and model_type in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        every = number(text, "full_attention_interval", default=4)
        kinds = tuple(full if (i + 1) % every == 0 else "gdn" for i in range(layers))
    window = _window(text, model_type)
    if kinds is None and window and (pattern_length := _pattern(text)):
        kinds = tuple("sliding" if (i + 1) % pattern_length else full for i in range(layers))
    if kinds is None:
        # Without layer_types one window counts for every layer (vllm/engine/arg_utils.py, create_engine_config).
        kinds = ("sliding" if window else full,) * layers
    if not window:
        kinds = tuple(full if kind == "sliding" else kind for kind in kinds)
    shared = number(text, "num_kv_shared_layers")  # Gemma 3n: the last layers read an earlier layer's cache
    return kinds[: layers - shared] + ("none",) * min(shared, layers) if shared else kinds


def _chunked(text: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    if not number(text, "attention_chunk_size"):
        return ("full",) * layers
    every = number(text, "no_rope_layer_interval", default=4)
    marks = listed(text, "no_rope_layers") or [(i + 1) % every for i in range(layers)]
    return tuple("chunked" if positions else "full" for positions in marks[:layers])


def _named_kinds(text: Mapping[str, Any], named: Mapping[str, str], layers: int) -> tuple[str, ...] | None:
    types = text.get("layer_types") or text.get("layers_block_type")
    if not isinstance(types, Sequence) or isinstance(types, str) or not types:
        return None
    return tuple(named.get(str(kind), named["attention"]) for kind in types[:layers])


def _pattern(text: Mapping[str, Any]) -> int:
    pattern = text.get("sliding_window_pattern")
    return len(pattern) if isinstance(pattern, str) else number(text, "sliding_window_pattern")


def _window(text: Mapping[str, Any], model_type: str) -> int:
    if "qwen" in model_type and (
        not text.get("use_sliding_window")
        or number(text, "max_window_layers") >= number(text, *_NAMES["num_hidden_layers"])
    ):
        return 0
    return number(text, "sliding_window") + (1 if model_type.startswith("cohere2") else 0)


def window_of(shape: Shape) -> int:
    """The tokens that a sliding layer of `shape` looks back on, itself among them; 0 where there is none."""
    return _window(shape.text, shape.model_type)

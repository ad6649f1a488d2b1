"""The tensors that a model of a given config has: what its weights weigh when no safetensors header can be read.

Names follow the published checkpoints, so that `weights` treats them as it treats real ones. Norms and biases are
left out: together they are less than one part in a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher.errors import ModelError
from launcher.models.inspect.header import Tensor, tensor
from launcher.models.inspect.quantization import Quantization
from launcher.models.inspect.shape import Shape, listed, number

_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Two matrices in the feed-forward part instead of three (no gate).
_UNGATED = {
    "bert", "bloom", "distilbert", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "nemotron", "nemotron_h",
    "opt", "phi", "roberta", "stablelm_epoch", "starcoder2", "whisper", "xlm-roberta",
}  # fmt: skip
_RATIO_MAX = 100
_VISION = ("vision_config", "vision_tower_config", "vit_config")


def blueprint(
    config: Mapping[str, Any], shape: Shape, dtype: str, quantization: Quantization | None
) -> list[Tensor]:
    """The tensors that the model of `config` would have in its files; `dtype` is that of what is not quantised."""
    stored = _TYPES.get(dtype, "BF16")
    found: list[Tensor] = []
    for name, sides in (*_ends(shape), *_layers(shape), *_tower(config, shape)):
        if quantization is not None and quantization.covers(name):
            found.extend(quantization.tensors(name, sides))
        else:
            found.append(tensor(name, stored, sides))
    return found


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _ends(shape: Shape) -> _Shapes:
    vocabulary, hidden = shape.vocabulary, shape.number("word_embed_proj_dim", default=shape.hidden)
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    if not shape.tied:
        yield "lm_head.weight", (vocabulary, hidden)
    if shape.model_type in ("bert", "roberta", "xlm-roberta", "gpt2", "opt", "whisper"):
        positions = shape.number("max_position_embeddings", "n_positions", "max_target_positions")
        yield "model.embed_positions.weight", (positions, hidden)
    if side := shape.number("hidden_size_per_layer_input"):  # Gemma 3n and 4 keep a second, wider embedding
        rows = shape.number("vocab_size_per_layer_input", default=vocabulary)
        yield "model.embed_tokens_per_layer.weight", (rows, side * shape.layers)


def _layers(shape: Shape) -> _Shapes:
    for i, kinds in enumerate(shape.kinds):
        base = f"model.layers.{i}"
        for kind in kinds.split("+"):
            if kind == "mla":
                yield from _mla(base, shape)
            elif kind in ("full", "sliding", "chunked"):
                yield from _attention(f"{base}.self_attn", shape, kind)
            elif kind == "none" and shape.number("num_kv_shared_layers"):
                yield f"{base}.self_attn.q_proj.weight", (shape.heads * shape.head_dim, shape.hidden)
                yield f"{base}.self_attn.o_proj.weight", (shape.hidden, shape.heads * shape.head_dim)
            elif kind != "none":
                yield from _mixer(base, shape, kind)
        if shape.model_type == "whisper":
            yield from _attention(f"{base}.encoder_attn", shape, "full")
        yield from _feed_forward(base, shape, i)


def _attention(base: str, shape: Shape, kind: str) -> _Shapes:
    head, kv_heads = shape.head_dim, shape.kv_heads
    if kind == "full" and (wide := shape.number("global_head_dim")):
        head, kv_heads = wide, shape.number("num_global_key_value_heads", default=kv_heads)
    query = shape.heads * head * (2 if shape.text.get("attn_output_gate", "linear" in _types(shape)) else 1)
    yield f"{base}.q_proj.weight", (query, shape.hidden)
    yield f"{base}.k_proj.weight", (kv_heads * head, shape.hidden)
    yield f"{base}.v_proj.weight", (kv_heads * head, shape.hidden)
    yield f"{base}.o_proj.weight", (shape.hidden, shape.heads * head)


def _types(shape: Shape) -> str:
    # Qwen3-Next gates the output of attention in every model that also has linear attention.
    return "linear" if "gdn" in shape.kinds else ""


def _mla(base: str, shape: Shape) -> _Shapes:
    rope, nope, value = (shape.number(f"{part}_head_dim") for part in ("qk_rope", "qk_nope", "v"))
    latent, query = shape.number("kv_lora_rank"), shape.number("q_lora_rank")
    if query:
        yield f"{base}.self_attn.q_a_proj.weight", (query, shape.hidden)
        yield f"{base}.self_attn.q_b_proj.weight", (shape.heads * (nope + rope), query)
    else:
        yield f"{base}.self_attn.q_proj.weight", (shape.heads * (nope + rope), shape.hidden)
    yield f"{base}.self_attn.kv_a_proj_with_mqa.weight", (latent + rope, shape.hidden)
    yield f"{base}.self_attn.kv_b_proj.weight", (shape.heads * (nope + value), latent)
    yield f"{base}.self_attn.o_proj.weight", (shape.hidden, shape.heads * value)


def _mixer(base: str, shape: Shape, kind: str) -> _Shapes:
    value = shape.number
    if kind in ("gdn", "kda"):
        linear = shape.text.get("linear_attn_config") or {}
        keys = value("linear_num_key_heads") * value("linear_key_head_dim")
        values = value("linear_num_value_heads") * value("linear_value_head_dim")
        heads = value("linear_num_value_heads")
        if kind == "kda":
            heads = number(linear, "num_heads")
            keys = values = heads * number(linear, "head_dim")
        yield f"{base}.linear_attn.in_proj_qkvz.weight", (2 * keys + 2 * values, shape.hidden)
        yield f"{base}.linear_attn.in_proj_ba.weight", (2 * heads, shape.hidden)
        yield f"{base}.linear_attn.out_proj.weight", (shape.hidden, values)
    elif kind == "conv":
        yield f"{base}.conv.in_proj.weight", (3 * value("conv_dim", default=shape.hidden), shape.hidden)
        yield f"{base}.conv.out_proj.weight", (shape.hidden, value("conv_dim", default=shape.hidden))
    else:
        inner = value("mamba_d_ssm") or value("mamba_expand", "expand", default=2) * shape.hidden
        heads = value("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
        if shape.model_type == "nemotron_h":
            inner = heads * value("mamba_head_dim")
        size = value("mamba_d_state", "ssm_state_size", "state_size", default=16)
        groups = value("mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
        side = 2 * inner + (2 * groups * size + heads if kind == "mamba2" else 0)
        yield f"{base}.mamba.in_proj.weight", (side, shape.hidden)
        yield f"{base}.mamba.out_proj.weight", (shape.hidden, inner)


def _feed_forward(base: str, shape: Shape, layer: int) -> _Shapes:
    if shape.experts and _is_sparse(shape, layer):
        side = shape.number("moe_intermediate_size", "expert_intermediate_size", default=shape.intermediate)
        yield f"{base}.mlp.gate.weight", (shape.experts, shape.hidden)
        yield f"{base}.mlp.experts.gate_up_proj.weight", (shape.experts, 2 * side, shape.hidden)
        yield f"{base}.mlp.experts.down_proj.weight", (shape.experts, shape.hidden, side)
        shared = shape.number("shared_expert_intermediate_size", "shared_intermediate_size")
        shared = shared or side * shape.number("n_shared_experts", "num_shared_experts")
        if shape.model_type == "llama4_text":
            shared = side
        if shared:
            yield f"{base}.mlp.shared_expert.gate_up_proj.weight", (2 * shared, shape.hidden)
            yield f"{base}.mlp.shared_expert.down_proj.weight", (shape.hidden, shared)
        return
    side = shape.intermediate
    if shape.experts:
        side = shape.number("intermediate_size_mlp", "dense_intermediate_size", default=side)
    if shape.model_type == "nemotron_h" and not _is_feed_forward(shape, layer):
        return
    if shape.model_type in ("mamba", "mamba2", "falcon_mamba"):
        return
    up = 1 if shape.model_type in _UNGATED else 2
    yield f"{base}.mlp.gate_up_proj.weight", (up * side, shape.hidden)
    yield f"{base}.mlp.down_proj.weight", (shape.hidden, side)


def _is_feed_forward(shape: Shape, layer: int) -> bool:
    pattern = str(shape.text.get("hybrid_override_pattern", ""))
    return pattern[layer : layer + 1] == "-"


def _is_sparse(shape: Shape, layer: int) -> bool:
    """Whether this layer's feed-forward part is a mixture of experts."""
    text, value = shape.text, shape.number
    if layer in listed(text, "mlp_only_layers") or layer < value("first_k_dense_replace", "num_dense_layers"):
        return False
    if "moe_layers" in text:
        return layer in listed(text, "moe_layers")
    if isinstance(pattern := text.get("hybrid_override_pattern"), str):
        return pattern[layer : layer + 1] == "E"
    if shape.model_type == "jamba":
        return layer % value("expert_layer_period", default=2) == value("expert_layer_offset", default=1)
    step = value("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1) or 1
    return (layer + 1) % step == 0


def _tower(config: Mapping[str, Any], shape: Shape) -> _Shapes:
    """The encoder of images or sound beside the language model, in the plain shape that most have."""
    if shape.model_type == "whisper":
        side, hidden = number(config, "encoder_ffn_dim", default=4 * shape.hidden), shape.hidden
        yield "model.encoder.conv1.weight", (hidden, number(config, "num_mel_bins", default=80), 3)
        yield "model.encoder.conv2.weight", (hidden, hidden, 3)
        yield (
            "model.encoder.embed_positions.weight",
            (number(config, "max_source_positions", default=1500), hidden),
        )
        yield from _tower_layers("model.encoder", number(config, "encoder_layers"), hidden, side, 1)
        return
    inner = config.get("thinker_config")
    config = inner if isinstance(inner, Mapping) else config
    vision = next((config[key] for key in _VISION if isinstance(config.get(key), Mapping)), None)
    if vision is None:
        return
    hidden = number(vision, "hidden_size", "embed_dim", "width", default=1024)
    if "qwen2_vl" in str(config.get("model_type")):
        hidden = number(vision, "embed_dim", default=1280)  # there hidden_size is that of the language model
    layers = number(vision, "depth", "num_hidden_layers", "layers", default=24)
    gated = bool(vision.get("hidden_act") == "silu" or vision.get("model_type") in ("pixtral", "qwen2_5_vl"))
    side = number(vision, "intermediate_size") or int(_ratio(vision) * hidden)
    yield from _tower_layers("visual", layers, hidden, side, 2 if gated else 1)
    merged = hidden * max(1, number(vision, "spatial_merge_size") ** 2)
    yield "visual.merger.0.weight", (merged, merged)
    yield "visual.merger.2.weight", (shape.hidden, merged)


def _ratio(vision: Mapping[str, Any]) -> float:
    ratio = vision.get("mlp_ratio")
    if not isinstance(ratio, int | float):
        return 4
    if not 0 < ratio <= _RATIO_MAX:  # also not a number
        raise ModelError(
            "config.json: mlp_ratio of the vision part is no ratio.", "Download the model again."
        )
    return ratio


def _tower_layers(base: str, layers: int, hidden: int, side: int, up: int) -> _Shapes:
    for i in range(layers):
        yield f"{base}.layers.{i}.self_attn.qkv.weight", (3 * hidden, hidden)
        yield f"{base}.layers.{i}.self_attn.out_proj.weight", (hidden, hidden)
        yield f"{base}.layers.{i}.mlp.up.weight", (up * side, hidden)
        yield f"{base}.layers.{i}.mlp.down.weight", (hidden, side)

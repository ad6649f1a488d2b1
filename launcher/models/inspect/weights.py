"""How a model's tensors spread over GPUs: which layer they belong to, and whether a split divides or copies them.

vLLM divides the large matrices by the tensor-parallel size, divides the matrices of the KV heads only until each GPU
has one head, and copies norms, biases and routers (vllm/model_executor/layers/linear.py, fused_moe/layer.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from launcher.models.inspect.header import Tensor
from launcher.models.inspect.shape import Shape

_FLOATS = ("F64", "F32", "F16", "BF16")
# Not weights, or weights that vLLM does not load: buffers, and heads for speculative decoding.
_DROPPED = re.compile(
    r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$|position_ids$|(^|\.)(mtp|nextn|mtp_layers|eagle)(\.|$)"
    r"|(^|\.)(pooler\.dense|cls\.predictions)\."
)
_TOWER = re.compile(
    r"(^|\.)(vision\w*|visual\w*|vit|image\w*|img_\w+|audio\w*|speech\w*|multi_modal_projector|mm_\w+|mlp1|"
    r"embed_vision|embed_audio|aligner|patch_\w+|resampler|conv1|conv2|vpm|apm)(\.|$)"
)
_LAYER = re.compile(r"(^|\.)(?:layers|layer|h|blocks|block)\.(\d{1,9})\.")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens\w*|tok_embeddings|wte|word_embeddings|embed_in|token_embedding)\.|(^|\.)shared\.weight$"
)
_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out|proj_out)\.(weight|bias)$")
_EXPERTS = re.compile(r"\.experts\.|\.block_sparse_moe\.(w1|w2|w3)|\.experts_\w+|\.moe\.(gate|up|down)_proj")
_COPIED = re.compile(
    r"\.(q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj|indexer|router|gate_weight|shared_expert_gate|wpe|"
    r"position_embeddings|token_type_embeddings|embed_positions)\.|\.(gate|router)\.(weight|e_score)"
)
_KV = re.compile(r"\.(k_proj|v_proj|key|value|wk|wv)\.")
_FUSED = re.compile(r"\.(qkv_proj|query_key_value|Wqkv|qkv|c_attn|in_proj_weight)\.")
_SCALES = ("scale", "scales", "_scale_inv", "zero_point", "zeros", "absmax", "quant_map", "_shape", "g_idx")


@dataclass(frozen=True, slots=True)
class Weight:
    """Weights that spread alike: `floats` values in the model's type, and `fixed` bytes in a type of their own.

    `place` is layer (each of `count` layers from `start` on), first, last, ends (first and last stage) or every;
    `split` is tensor, kv, expert or copied.
    """

    place: str
    start: int
    count: int
    split: str
    floats: int
    fixed: int

    def bytes(self, itemsize: int) -> int:
        """Of one layer, or of one copy, before any split."""
        return self.floats * itemsize + self.fixed


def weights_of(
    tensors: Iterable[Tensor], shape: Shape, *, encoder_decoder: bool = False
) -> tuple[Weight, ...]:
    """The tensors of a whole model, gathered by where they go; what vLLM does not load is left out."""
    places: dict[tuple[str, int], dict[str, list[int]]] = {}
    for tensor in tensors:
        place = _place(tensor.name, shape, encoder_decoder)
        for split, share in _splits(tensor, place[0], shape):
            amount = places.setdefault(place, {}).setdefault(split, [0, 0])
            if tensor.dtype in _FLOATS and not _is_scale(tensor.name):
                amount[0] += int(tensor.elements * share)
            else:
                amount[1] += int(tensor.bytes * share)
    return tuple(_runs(places))


def loaded(tensors: Iterable[Tensor], shape: Shape, *, pooling: bool) -> Iterator[Tensor]:
    """What vLLM takes of `tensors`: no buffers, no second copy of a tied head, no layer beyond the model's own.

    With `pooling` there is no head at all: such a model gives vectors, not words.
    """
    for tensor in tensors:
        layer = _LAYER.search(tensor.name)
        if _DROPPED.search(tensor.name) or ((shape.tied or pooling) and _HEAD.search(tensor.name)):
            continue
        if (
            layer
            and int(layer[2]) >= shape.layers
            and not _is_tower(tensor.name)
            and "encoder" not in tensor.name
        ):
            continue  # DeepSeek-V3 and GLM-4.5 keep the layer for speculative decoding after the last
        yield tensor


def parameters_of(tensors: Iterable[Tensor], bits: float | None) -> int:
    """The parameters that the tensors hold, those packed into integers counted one by one."""
    total = 0
    for tensor in tensors:
        if _is_scale(tensor.name):
            continue
        packed = tensor.dtype in ("I32", "U32", "I64") or (tensor.dtype in ("U8", "I8") and (bits or 8) < 8)
        total += int(tensor.bytes * 8 / bits) if packed and bits else tensor.elements
    return total


def gpu_bytes(
    weights: Sequence[Weight],
    *,
    kv_heads: int,
    layers: int,
    tensor: int,
    stage: range,
    itemsize: int,
    expert_padding: float,
) -> int:
    """Bytes on one GPU of `tensor` that holds the layers of `stage` out of `layers`.

    `itemsize` is the size of a value in the model's type, `expert_padding` how much larger kernels keep the experts.
    """
    first, last = stage.start == 0, stage.stop == layers
    copies = {"first": int(first), "last": int(last), "ends": int(first or last), "every": 1}
    shares = {
        "tensor": 1 / tensor,
        "expert": expert_padding / tensor,
        "kv": 1 / min(tensor, max(kv_heads, 1)),
        "copied": 1.0,
    }
    total = 0.0
    for weight in weights:
        within = range(max(weight.start, stage.start), min(weight.start + weight.count, stage.stop))
        times = len(within) if weight.place == "layer" else copies[weight.place]
        total += times * shares[weight.split] * weight.bytes(itemsize)
    return math.ceil(total)


def _is_scale(name: str) -> bool:
    return (
        name.endswith(_SCALES) or ".quant_state" in name
    )  # bitsandbytes: ….weight.quant_state.bitsandbytes__nf4


def _is_tower(name: str) -> bool:
    return _TOWER.search(name) is not None


def _place(name: str, shape: Shape, encoder_decoder: bool) -> tuple[str, int]:
    if _is_tower(name) or (encoder_decoder and "encoder." in name and "decoder." not in name):
        return ("every", 0)
    if layer := _LAYER.search(name):
        return ("layer", int(layer[2]))
    if _HEAD.search(name):
        return ("last", 0)
    if _EMBEDDING.search(name):
        if shape.model_type == "gpt_oss":
            return ("every", 0)  # gpt_oss.py builds it on each stage
        return ("ends", 0) if shape.tied else ("first", 0)
    return ("last", 0) if re.search(r"norm|ln_f|score|classifier|dense", name) else ("first", 0)


def _splits(tensor: Tensor, place: str, shape: Shape) -> Iterator[tuple[str, float]]:
    if len(tensor.shape) < 2 or _COPIED.search(tensor.name):
        yield ("copied", 1.0)
    elif place == "every":
        yield ("tensor", 1.0)
    elif _EXPERTS.search(tensor.name):
        yield ("expert", 1.0)
    elif _KV.search(tensor.name):
        yield ("kv", 1.0)
    elif _FUSED.search(tensor.name) and shape.kv_heads != shape.heads:
        share = 2 * shape.kv_heads / (shape.heads + 2 * shape.kv_heads)
        yield ("kv", share)
        yield ("tensor", 1 - share)
    else:
        yield ("tensor", 1.0)


def _runs(places: dict[tuple[str, int], dict[str, list[int]]]) -> Iterator[Weight]:
    """Neighbouring layers alike become one run: an index of many models stays small."""
    previous: tuple[int, int, dict[str, list[int]]] | None = None
    for (place, number), amounts in sorted(places.items()):
        if place != "layer":
            yield from (Weight(place, 0, 1, split, *amount) for split, amount in sorted(amounts.items()))
        elif previous and previous[2] == amounts and previous[0] + previous[1] == number:
            previous = (previous[0], previous[1] + 1, amounts)
        else:
            yield from _run(previous)
            previous = (number, 1, amounts)
    yield from _run(previous)


def _run(run: tuple[int, int, dict[str, list[int]]] | None) -> Iterator[Weight]:
    if run is not None:
        start, count, amounts = run
        yield from (
            Weight("layer", start, count, split, *amount) for split, amount in sorted(amounts.items())
        )

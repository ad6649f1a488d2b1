"""What one GPU of a split must hold: its part of the weights, and the KV cache of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.models.inspect.caches import KV_TYPES, Lengths, Pool, pool_of, token_bytes
from launcher.models.inspect.facts import ITEMSIZE, Facts
from launcher.models.inspect.weights import gpu_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the fullest GPU of one split."""

    weights_bytes: int
    # For display: what one more token costs in a short context.
    kv_bytes_per_token: int
    # What vLLM holds back of the cache for a block that nobody gets.
    block_bytes: int
    pools: tuple[Pool, ...] = field(repr=False)

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the KV cache that one request of `tokens` tokens takes."""
        return max((pool.request_bytes(tokens) for pool in self.pools), default=0) if tokens > 0 else 0

    def tokens_in(self, kv_bytes: int, most: int) -> int:
        """The longest single request, at most `most` tokens, that a KV cache of `kv_bytes` holds; 0 where none fits.

        As vllm/v1/core/kv_cache_utils.py, _estimate_max_model_len_from_groups: one block is held back.
        """
        return _longest(lambda tokens: self.kv_bytes(tokens) <= kv_bytes - self.block_bytes, max(most, 0))

    def requests_in(self, kv_bytes: int, tokens: int) -> float:
        """How many requests of `tokens` tokens a KV cache of `kv_bytes` holds at once: vLLM's maximum concurrency."""
        need = self.kv_bytes(tokens)
        if not need or not self.block_bytes:
            return float("inf")
        return (kv_bytes // self.block_bytes) / (need // self.block_bytes)


def needs(
    facts: Facts,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    kv_dtype: str = "auto",
    quantize: str | None = None,
    batch_tokens: int = 8192,
    batches: int | None = None,
    block_size: int = 16,
) -> Needs:
    """What the fullest GPU needs when the model is split over `tensor` × `pipeline` GPUs.

    `kv_dtype` and `block_size` as vLLM's `--kv-cache-dtype` and `--block-size`.
    `quantize` is `fp8` where the engine quantises a plain model as it loads it (`--quantization fp8`).
    `batch_tokens` is `--max-num-batched-tokens`; `batches` how many are under way at once (default: one more than
    `pipeline`, vllm/config/vllm.py, max_concurrent_batches; 1 on CPUs): sliding windows keep them besides themselves.
    """
    itemsize = ITEMSIZE[facts.dtype]
    kv = kv_type(facts, kv_dtype, itemsize)
    in_flight = batch_tokens * (batches or pipeline + 1)
    lengths = Lengths(block_size, in_flight, batch_tokens, 2 if facts.prefixes else 1)
    if quantize and facts.quantization is None:
        facts = facts.quantised(quantize)
    stages = stages_of(facts.layers, pipeline)
    pools = tuple(pool_of(facts.caches, tensor, stage, kv, itemsize, lengths) for stage in stages)
    weights = max(
        gpu_bytes(
            facts.weights,
            kv_heads=facts.kv_heads,
            layers=facts.layers,
            tensor=tensor,
            stage=stage,
            itemsize=itemsize,
            expert_padding=_padding(facts, tensor),
        )
        for stage in stages
    )
    per_token = max(
        sum(
            token_bytes(cache, tensor, kv) * sum(layer in stage for layer in cache.layers)
            for cache in facts.caches
            if cache.kind in ("full", "mla", "sliding", "chunked")
        )
        for stage in stages
    )
    return Needs(weights, per_token, max(pool.block_bytes for pool in pools), pools)


def kv_type(facts: Facts, kv_dtype: str, itemsize: int) -> tuple[float, int]:
    """Bytes of one value of the KV cache, and of its scales for each head and token."""
    if kv_dtype == "auto" and facts.kv_dtype is not None:
        kv_dtype = facts.kv_dtype
    return KV_TYPES.get(kv_dtype, (float(itemsize), 0))


def stages_of(layers: int, pipeline: int) -> list[range]:
    """The layers of each pipeline stage; vllm/distributed/utils.py, get_pp_indices."""
    counts = [layers // pipeline] * pipeline
    for i in range(2, layers % pipeline + 2):
        counts[-i] += 1
    ends = [sum(counts[: i + 1]) for i in range(pipeline)]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _padding(facts: Facts, tensor: int) -> float:
    """How much larger the kernels for mxfp4 keep the experts than the file does.

    vllm/model_executor/layers/fused_moe/oracle/mxfp4.py: Marlin (Ampere) and TRT-LLM (Blackwell) want the hidden size
    in 256s and each GPU's part of an expert in 128s; Triton (Hopper) pads less.
    """
    if facts.quantization != "mxfp4" or not facts.expert_width:
        return 1.0
    part = -(-facts.expert_width // tensor)
    return _up(facts.hidden, 256) / facts.hidden * _up(part, 128) * tensor / facts.expert_width


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _longest(fits: Callable[[int], bool], most: int) -> int:
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def split_trouble(facts: Facts, tensor: int, pipeline: int) -> str | None:
    """Why vLLM refuses this split, as one sentence; None where it accepts it.

    vllm/config/model.py, verify_with_parallel_config; layers/linear.py, QKVParallelLinear; quantization/utils.
    """
    if facts.heads % tensor:
        return f"{facts.heads} attention heads cannot be divided by {tensor}."
    few, many = sorted((tensor, max(facts.kv_heads, 1)))
    if any(cache.kind in ("full", "sliding", "chunked") for cache in facts.caches) and many % few:
        return f"{facts.kv_heads} key-value heads cannot be divided by {tensor}."
    if _up(facts.vocabulary, 64) % tensor:
        return f"A vocabulary of {facts.vocabulary} cannot be divided by {tensor}."
    for name, width in (("An expert's", facts.expert_width), ("The layers'", facts.intermediate)):
        if name == "The layers'" and facts.expert_width:
            continue
        if trouble := _width_trouble(facts, name, width, tensor):
            return trouble
    if pipeline > 1 and (facts.encoder_decoder or not facts.caches):
        return f"vLLM does not split {facts.architecture} over pipeline stages."
    if pipeline > facts.layers:
        return f"{facts.layers} layers cannot be divided into {pipeline} pipeline stages."
    return None


def _width_trouble(facts: Facts, whose: str, width: int, tensor: int) -> str | None:
    if width % tensor:
        return f"{whose} inner width of {width} cannot be divided by {tensor}."
    # Experts quantised in groups get smaller groups instead (vllm/.../quantization/moe_wna16.py).
    step = facts.block[0] if facts.block else 0 if facts.expert_width else facts.group
    if (
        facts.quantization not in (None, "mxfp4", "bitsandbytes")
        and tensor > 1
        and step > 1
        and width // tensor % step
    ):
        return (
            f"{whose} inner width of {width} divided by {tensor} is no multiple of {step}, "
            f"the block of its {facts.quantization} quantisation."
        )
    return None

"""What the layers of a model keep for one request, and how many bytes vLLM takes for it.

vLLM hands out memory in blocks: all layers of a group share a block table, all groups draw from one pool, so a
request costs (blocks of every group) × (bytes of the widest group). Rules: vllm/v1/kv_cache_interface.py and
vllm/v1/core/kv_cache_utils.py, get_kv_cache_groups and _max_memory_usage_bytes_from_groups (vLLM 0.32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from launcher.models.inspect.shape import Shape, number, window_of

# Bytes of one value, and of what is stored besides for each head and token, per vLLM's --kv-cache-dtype
# (vllm/utils/torch_utils.py, STR_DTYPE_TO_TORCH_DTYPE; vllm/v1/attention/backends/triton_attn.py, customize_spec).
KV_TYPES = {
    "float32": (4.0, 0), "float16": (2.0, 0), "half": (2.0, 0), "bfloat16": (2.0, 0), "fp8": (1.0, 0),
    "fp8_e4m3": (1.0, 0), "fp8_e5m2": (1.0, 0), "fp8_inc": (1.0, 0), "fp8_ds_mla": (1.0, 0),
    "int8_per_token_head": (1.0, 8), "fp8_per_token_head": (1.0, 8), "int4_per_token_head": (0.5, 8),
    "nvfp4": (0.5625, 0), "nvfp4_4over6": (0.5625, 0), "nvfp4_ds_mla": (0.5625, 0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cache:
    """One kind of cache and the layers that have it; sizes before any split over GPUs."""

    kind: str  # full mla sliding chunked state cross
    layers: tuple[int, ...]
    heads: int = 0  # KV heads
    width: int = 0  # values of one token and head, key and value together
    fixed: int = 0  # bytes of one token that no cache type changes
    window: int = 0
    conv: int = 0  # values of a state in the model's type
    state: int = 0  # values of a state in `state_itemsize` bytes each; 0: in the model's type
    state_itemsize: int = 0
    checkpoints: int = 0  # blocks of a state besides, where prefixes are kept


def caches_of(shape: Shape) -> tuple[Cache, ...]:
    """The caches of a decoder, in the order of its layers."""
    found: list[Cache] = []
    for kind in dict.fromkeys(part for kinds in shape.kinds for part in kinds.split("+")):
        layers = tuple(i for i, kinds in enumerate(shape.kinds) if kind in kinds.split("+"))
        if kind == "mla":
            width = shape.number("kv_lora_rank") + shape.number("qk_rope_head_dim")
            found.append(Cache("mla", layers, 1, width))
            if index := shape.number("index_head_dim"):  # sparse attention: a byte per value, a scale per 128
                found.append(Cache("mla", layers, 1, fixed=index + index // 128 * 4))
        elif kind in ("full", "sliding", "chunked"):
            heads, width = shape.kv_heads, shape.head_dim + (shape.number("v_head_dim") or shape.head_dim)
            if kind == "full" and (wide := shape.number("global_head_dim")):  # Gemma 4
                heads, width = shape.number("num_global_key_value_heads", default=heads), 2 * wide
            window = {
                "full": 0,
                "sliding": window_of(shape),
                "chunked": shape.number("attention_chunk_size"),
            }[kind]
            found.append(Cache(kind, layers, heads, width, window=window))
        elif kind != "none":
            # mamba_mixer2.py and kda.py, get_kv_cache_spec: the state at the end of the prompt's last whole block
            checkpoints = 1 if kind in ("mamba2", "kda") else 0
            found.append(replace(_state(shape, kind), layers=layers, checkpoints=checkpoints))
    return tuple(sorted(found, key=lambda cache: cache.layers[:1]))


def _state(shape: Shape, kind: str) -> Cache:
    """What a layer without attention keeps; vllm/model_executor/layers/mamba/mamba_utils.py."""
    value = shape.number
    if kind == "gdn":
        keys = value("linear_num_key_heads") * value("linear_key_head_dim")
        values = value("linear_num_value_heads") * value("linear_value_head_dim")
        conv = (2 * keys + values) * (value("linear_conv_kernel_dim", default=4) - 1)
        return Cache(
            "state", (), conv=conv, state=values * value("linear_key_head_dim"), state_itemsize=_ssm(shape)
        )
    if kind == "kda":
        linear = shape.text.get("linear_attn_config") or {}
        heads, width = number(linear, "num_heads"), number(linear, "head_dim")
        conv = 3 * heads * width * (number(linear, "short_conv_kernel_size", default=4) - 1)
        return Cache("state", (), conv=conv, state=heads * width * width, state_itemsize=4)
    if kind == "conv":
        width = value("conv_dim", default=shape.hidden)
        return Cache("state", (), conv=width * (value("conv_L_cache", default=3) - 1))
    if kind == "linear":
        return Cache("state", (), state=shape.heads * shape.head_dim * shape.head_dim)
    size = value("mamba_d_state", "ssm_state_size", "state_size", default=128 if kind == "mamba2" else 16)
    kernel = value("mamba_d_conv", "conv_kernel", default=4) - 1
    inner = (
        value("mamba_d_ssm", "mamba_intermediate_size")
        or value("mamba_expand", "expand", default=2) * shape.hidden
    )
    if kind == "mamba1":
        inner = value("intermediate_size") or inner if shape.model_type != "jamba" else inner
        return Cache("state", (), conv=inner * kernel, state=inner * size, state_itemsize=_ssm(shape))
    heads = value("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    width = value("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
    if shape.model_type == "nemotron_h":
        inner = heads * width
    groups = value("mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
    conv = (inner + 2 * groups * size) * kernel
    return Cache("state", (), conv=conv, state=heads * width * size, state_itemsize=_ssm(shape))


def _ssm(shape: Shape) -> int:
    """Bytes of a state's value where the model says so; 0: the model's own type."""
    named = shape.text.get("mamba_ssm_dtype") or shape.text.get("mamba_ssm_cache_dtype")
    if named is None and shape.model_type == "nemotron_h":
        named = "float32"  # vllm/model_executor/models/config.py, NemotronHForCausalLMConfig
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(str(named), 0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """What besides the request decides how many blocks it takes, in tokens."""

    block: int = 16
    in_flight: int = 16384  # of a sliding window: vllm/config/vllm.py, max_in_flight_tokens
    encoder: int = 0  # of cross attention: what is kept of the encoder's output
    # Blocks of a state: 2 where prefixes are kept (MambaSpec.max_memory_usage_bytes, mode "align"), else 1.
    states: int = 2


@dataclass(frozen=True, slots=True)
class _Page:
    """One cache of one layer on one GPU: vLLM's KVCacheSpec."""

    layer: int
    kind: str
    block: int  # tokens in a block
    bytes: int  # of a block
    window: int = 0
    checkpoints: int = 0

    @property
    def spec(self) -> tuple[object, ...]:
        return (self.kind, self.block, self.bytes, self.window, self.checkpoints)

    def blocks(self, tokens: int, lengths: Lengths) -> int:
        """Blocks that a request of `tokens` tokens takes."""
        if self.kind == "state":
            return lengths.states + (self.checkpoints if lengths.states > 1 else 0)
        if self.kind == "cross":
            return -(-lengths.encoder // self.block)
        if self.kind == "sliding":
            # SlidingWindowSpec: the window may begin in the middle of a block, hence one more.
            return -(-min(self.window - 1 + lengths.in_flight, tokens) // self.block) + 1
        if self.kind == "chunked":
            return -(-min(self.window + lengths.in_flight, tokens) // self.block)  # ChunkedLocalAttentionSpec
        return -(-tokens // self.block)


@dataclass(frozen=True, slots=True)
class Pool:
    """The groups of one GPU: how wide a block is, and what takes blocks."""

    block_bytes: int
    groups: tuple[tuple[_Page, ...], ...]  # one page for each distinct need of a group
    lengths: Lengths

    def request_bytes(self, tokens: int) -> int:
        """Bytes that one request of `tokens` tokens takes."""
        blocks = (max(page.blocks(tokens, self.lengths) for page in group) for group in self.groups)
        return self.block_bytes * sum(blocks)


def pool_of(
    caches: Sequence[Cache], tensor: int, stage: range, kv: tuple[float, int], itemsize: int, lengths: Lengths
) -> Pool:
    """How vLLM lays out `caches` on one GPU of `tensor` that holds the layers of `stage`.

    `kv` is of KV_TYPES; `itemsize` the bytes of a value in the model's own type.
    """
    groups = _groups(_pages(caches, tensor, kv, itemsize, lengths.block))
    widest = max((sum(page.bytes for page in group if page.layer in stage) for group in groups), default=0)
    return Pool(
        widest, tuple(tuple({page.spec: page for page in group}.values()) for group in groups), lengths
    )


def token_bytes(cache: Cache, tensor: int, kv: tuple[float, int]) -> int:
    """Bytes of one token in one layer of `cache` on one GPU; KV heads are copied where there are fewer than GPUs."""
    heads = 1 if cache.kind == "mla" else max(1, cache.heads // tensor)
    extra = kv[1] if cache.width and cache.kind != "mla" else 0
    return cache.fixed or heads * (int(cache.width * kv[0]) + extra)


def _pages(
    caches: Sequence[Cache], tensor: int, kv: tuple[float, int], itemsize: int, block: int
) -> list[_Page]:
    state = max(
        (_state_bytes(cache, tensor, itemsize) for cache in caches if cache.kind == "state"), default=0
    )
    attention = [cache for cache in caches if cache.kind != "state"]
    if state and attention:
        # A block of attention must be no smaller than a state (vllm/platforms/interface.py, _align_hybrid_block_size).
        step = max(block, 128) if any(cache.kind == "mla" for cache in attention) else block
        token = token_bytes(attention[0], tensor, kv)
        block = max(block, step * -(-state // (step * token)))
        state = block * token
    pages = [
        _Page(layer, "state", block, state, checkpoints=cache.checkpoints) if cache.kind == "state"
        else _Page(layer, cache.kind, block, block * token_bytes(cache, tensor, kv), cache.window)
        for cache in caches for layer in cache.layers
    ]  # fmt: skip
    return sorted(pages, key=lambda page: page.layer)


def _state_bytes(cache: Cache, tensor: int, itemsize: int) -> int:
    return (cache.conv * itemsize + cache.state * (cache.state_itemsize or itemsize)) // tensor


def _family(page: _Page) -> tuple[object, ...]:
    """Pages of one family need the same number of blocks (KVCacheSpec.is_uniform_with_collection)."""
    if page.kind in ("full", "mla"):
        return ("full", page.block)
    if page.kind == "state":
        return ("state", page.bytes)
    return (page.kind, page.block, page.window)


def _groups(pages: Sequence[_Page]) -> list[list[_Page]]:
    if len({_family(page) for page in pages}) <= 1:
        return [list(pages)] if pages else []
    pages = _unified(pages)
    buckets: dict[tuple[object, ...], list[_Page]] = {}
    for page in pages:
        buckets.setdefault(page.spec, []).append(page)
    sizes = Counter({spec: len(found) for spec, found in buckets.items()})
    least, most = min(sizes.values()), max(sizes.values())
    size = most if most < 1.5 * least else least  # kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size
    groups: list[list[_Page]] = []
    for found in buckets.values():
        count = -(-len(found) // size)
        groups.extend(found[i::count] for i in range(count))
    return groups


def _unified(pages: Sequence[_Page]) -> list[_Page]:
    """The pages made equally large: longer blocks where that divides, else padding (unify_kv_cache_spec_page_size)."""
    most = max(page.bytes for page in pages)
    return [
        replace(page, block=page.block * (most // page.bytes), bytes=most)
        if page.kind != "state" and page.bytes and most % page.bytes == 0
        else replace(page, bytes=most)
        for page in pages
    ]

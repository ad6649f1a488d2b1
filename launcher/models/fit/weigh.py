"""The weighing itself: one model on one split of one kind of hardware, in bytes.

Owns the sum (memory × fraction − weights − reserve = room for the KV cache) and the longest context that the room
holds; verdicts and advice are `launcher.models.fit.verdict`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import Options
from launcher.models.fit.reserve import GB, MEMORY_FRACTION, batch, reserve, watches
from launcher.models.inspect.facts import ITEMSIZE, Facts
from launcher.models.inspect.needs import Needs, needs, split_trouble

# What vLLM's processes take on a processor besides weights and cache: 2.8 GB were seen with 1 GB of cache and a
# model of 10 MB (three processes, each with its own PyTorch).
CPU_OVERHEAD = int(2.5 * GB)
_CPU_CACHE = 4 * GB  # what a processor gets for its cache where a request does not need more
_CPU_BLOCK = 128  # vllm/platforms/cpu.py
_GPU_BLOCK = 16
SHORTEST = 2048  # a context below this is of no use to a chat
# `--quantization` of a model that is not quantised: its linear layers are stored in 8 bits while it is loaded.
_ONLINE = ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only",
           "experts_int8", "mxfp8")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weighed:
    """One GPU of a split (or one node without): bytes of what it has, what it must hold, and what is left.

    `context` is the longest that is `wanted` or less and leaves room for all `requests` at once, 0 where none does.
    """

    tensor: int
    pipeline: int
    gpus: int
    total_bytes: int
    memory_bytes: int
    weights_bytes: int
    reserve_bytes: int
    room_bytes: int
    wanted: int
    context: int
    need: Needs

    @property
    def fits(self) -> bool:
        """Whether the wanted context fits."""
        return self.room_bytes >= 0 and self.context >= self.wanted

    @property
    def usable(self) -> bool:
        """Whether any context that is of use fits."""
        return self.room_bytes >= 0 and self.context >= min(self.wanted, SHORTEST)

    @property
    def at_once(self) -> float | None:
        """How many requests of `context` tokens fit at once; None where a request takes no cache."""
        if not self.context or self.need.kv_bytes(self.context) <= 0:
            return None
        return self.need.requests_in(self.room_bytes, self.context)

    def needed_bytes(self, context: int) -> int:
        """Memory of all GPUs together that one request of `context` tokens needs."""
        one = self.weights_bytes + self.reserve_bytes + self.need.kv_bytes(context)
        return int(one * self.gpus * self.total_bytes / self.memory_bytes)


def weigh(
    facts: Facts, gpu: Gpu, options: Options, *, tensor: int, pipeline: int, context: int, requests: float
) -> Weighed:
    """The sum for one GPU of `tensor` × `pipeline`, with `requests` requests of up to `context` tokens at once."""
    found = _weigh(facts, gpu, options, tensor, pipeline, context, context, requests)
    shorter = context
    while not found.fits and shorter // 2 >= SHORTEST and watches(facts, options):
        shorter //= 2  # a shorter context also leaves more room: the longest video is shorter
        other = _weigh(facts, gpu, options, tensor, pipeline, context, shorter, requests)
        if other.context > found.context:
            found = other
    return found


def _weigh(
    facts: Facts,
    gpu: Gpu,
    options: Options,
    tensor: int,
    pipeline: int,
    wanted: int,
    context: int,
    requests: float,
) -> Weighed:
    step = batch(options, gpu, context)
    need = needs(
        facts,
        tensor=tensor,
        pipeline=pipeline,
        kv_dtype=options.kv_dtype,
        quantize=options.quantization if options.quantization in _ONLINE else None,
        batch_tokens=step.tokens,
        block_size=_GPU_BLOCK,
    )
    fraction = options.memory_fraction or MEMORY_FRACTION
    total = int(gpu.memory_gb * GB)
    weights = max(0, need.weights_bytes - int(options.offload_gb * GB))
    kept = reserve(facts, gpu, options, tensor=tensor, pipeline=pipeline, context=context)
    memory = int(total * fraction)
    room = memory - weights - kept
    if options.kv_cache_bytes is not None:
        # It is taken instead of the fraction (vllm/config/cache.py, kv_cache_memory_bytes).
        memory = total
        room = min(options.kv_cache_bytes, total - weights - kept)
        if room < options.kv_cache_bytes:
            room = -1
    longest = need.tokens_in(int(room / requests), context) if room >= 0 else 0
    return Weighed(
        tensor, pipeline, tensor * pipeline, total, memory, weights, kept, room, wanted, longest, need
    )


def weigh_processor(
    facts: Facts,
    memory_gb: float,
    options: Options,
    cache_bytes: int | None,
    *,
    context: int,
    requests: float,
) -> Weighed:
    """The sum for a node without GPU; `cache_bytes` is what was asked for as its KV cache, if anything was.

    What vLLM's processes take is in `reserve_bytes` only where the cache is ours to choose.
    """
    step = batch(options, None, context)
    need = needs(
        facts,
        kv_dtype=options.kv_dtype,
        quantize=options.quantization if options.quantization in _ONLINE else None,
        batch_tokens=step.tokens,
        batches=1,
        block_size=_CPU_BLOCK,
    )
    total = int(memory_gb * GB)
    left = total - need.weights_bytes
    if cache_bytes is not None:
        room = cache_bytes if cache_bytes <= left else -1
        kept = 0
    else:
        kept = min(CPU_OVERHEAD, max(0, left))
        room = min(
            left - CPU_OVERHEAD, max(_CPU_CACHE, int(need.kv_bytes(context) * requests) + need.block_bytes)
        )
    longest = need.tokens_in(int(room / requests), context) if room >= 0 else 0
    return Weighed(1, 1, 1, total, total, need.weights_bytes, kept, room, context, longest, need)


def held_bytes(facts: Facts, options: Options) -> int:
    """The weights as the engine holds them, in the type that it computes in, with nothing copied."""
    if options.quantization in _ONLINE and facts.quantization is None:
        facts = facts.quantised(str(options.quantization))
    return round(sum(weight.count * weight.bytes(ITEMSIZE[facts.dtype]) for weight in facts.weights))


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is spread over GPUs; `trouble` says why vLLM would refuse it."""

    tensor: int
    pipeline: int
    trouble: str | None = None


def split(facts: Facts, options: Options, nodes: int, gpus: int) -> Split:
    """What was asked for, else: all GPUs of a node together, and one stage for each node.

    Where heads do not divide by the GPUs, as many as do, and stages over the rest; what then still is left stands idle.
    Each node has the same number of the processes (vllm/engine/arg_utils.py, create_engine_config).
    """
    have = nodes * gpus // options.data
    if options.tensor or options.pipeline:
        tensor = options.tensor or max(1, have // (options.pipeline or 1))
        pipeline = options.pipeline or 1
        if tensor * pipeline > have:
            asked = f"{tensor} × {pipeline}" if pipeline > 1 else str(tensor)
            copies = f" in each of {options.data} copies" if options.data > 1 else ""
            return Split(
                tensor,
                pipeline,
                f"A split over {asked} GPUs{copies} is more than the {nodes * gpus} there are.",
            )
        if tensor * pipeline % nodes:
            shown = f"{tensor} × {pipeline}" if pipeline > 1 else str(tensor)
            return Split(tensor, pipeline, f"A split over {shown} GPUs cannot be shared by {nodes} nodes.")
        return Split(tensor, pipeline, split_trouble(facts, tensor, pipeline))
    by_layers = split_trouble(facts, 1, min(2, facts.layers)) is None
    if nodes > 1 and not by_layers:  # one that has no stages: its heads go over the network
        for tensor in range(have, 1, -1):
            if tensor % nodes == 0 and split_trouble(facts, tensor, 1) is None:
                return Split(tensor, 1)
        return Split(1, 1, f"It cannot be divided over {nodes} nodes.")
    each = max(1, min(gpus, have))
    for tensor in range(each, 0, -1):
        stages = max(1, have // tensor) if by_layers else 1
        if (by_layers and have % tensor) or split_trouble(facts, tensor, stages):
            continue
        return Split(tensor, stages)
    for tensor in range(each, 0, -1):
        if nodes == 1 and split_trouble(facts, tensor, 1) is None:
            return Split(tensor, 1)
    alone = split_trouble(facts, 1, 1)
    return Split(1, 1, alone if nodes == 1 else alone or f"It cannot be divided over {nodes} nodes.")

"""The sum of a fit in lines that a person can check; sizes in GB of 2**30 bytes, as Slurm counts them."""

from __future__ import annotations

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import Options
from launcher.models.fit.reserve import GB, MEMORY_FRACTION
from launcher.models.fit.weigh import CPU_OVERHEAD, Weighed, held_bytes
from launcher.models.inspect.facts import Facts


def lines(facts: Facts, gpu: Gpu, options: Options, weighed: Weighed) -> tuple[str, ...]:
    """The sum of one GPU."""
    each = " on each GPU" if weighed.gpus > 1 else ""
    fraction = options.memory_fraction or MEMORY_FRACTION
    told: list[str] = []
    whole = weighed.need.weights_bytes
    held = held_bytes(facts, options)
    if weighed.gpus > 1:
        all_, shared = size(held), whole * weighed.gpus > 1.02 * held
        split = (
            f"{all_} / {weighed.gpus} GPUs"
            if not shared
            else f"{all_} over {weighed.gpus} GPUs, some on each"
        )
        told.append(f"weights {split} = {size(whole)} on each")
    else:
        told.append(f"weights {size(whole)}")
    if options.offload_gb:
        told.append(
            f"less {options.offload_gb:g} GB in the node's memory = {size(weighed.weights_bytes)}{each}"
        )
    told.append(f"activations, CUDA graphs and CUDA itself about {size(weighed.reserve_bytes)}{each}")
    left = "left for the KV cache" if weighed.need.kv_bytes(weighed.wanted) > 0 else "left"
    if options.kv_cache_bytes is None:
        told.append(
            f"{gpu.name}: {size(weighed.total_bytes)} × {fraction:g} (--gpu-memory-utilization) "
            f"= {size(weighed.memory_bytes)}"
        )
        told.append(
            f"{left} {size(weighed.memory_bytes)} − {size(weighed.weights_bytes)} − "
            f"{size(weighed.reserve_bytes)} = {size(weighed.room_bytes)}{each}"
        )
    else:
        told.append(
            f"{gpu.name}: {size(weighed.total_bytes)}, of it for the KV cache {size(options.kv_cache_bytes)}"
        )
    return (*told, *_cache(facts, weighed, options.kv_dtype, each))


def processor_lines(facts: Facts, weighed: Weighed) -> tuple[str, ...]:
    """The sum of a node without GPU."""
    if weighed.weights_bytes > weighed.total_bytes:
        return (
            f"weights {size(weighed.weights_bytes)}, more than the {size(weighed.total_bytes)} of memory",
        )
    if weighed.room_bytes < 0:
        kept = size(CPU_OVERHEAD)
        return (
            f"weights {size(weighed.weights_bytes)} + vLLM's processes about {kept}, which leaves nothing of "
            f"{size(weighed.total_bytes)} memory for the KV cache",
        )
    room = max(weighed.room_bytes, 0)
    kept = f" + vLLM's processes about {size(weighed.reserve_bytes)}" if weighed.reserve_bytes else ""
    total = weighed.weights_bytes + weighed.reserve_bytes + room
    sum_ = f"weights {size(weighed.weights_bytes)}{kept} + KV cache {size(room)} = {size(total)}"
    return (f"{sum_} of {size(weighed.total_bytes)} memory", *_cache(facts, weighed, "auto", ""))


def size(count: float) -> str:
    """`30.5 GB`; small sizes in MB and kB."""
    for unit, bytes_ in (("GB", GB), ("MB", 2**20)):
        if abs(count) >= bytes_ * 0.0995:
            return f"{count / bytes_:.1f} {unit}".replace("-", "−")
    return f"{count / 1024:.1f} kB"


def _per_token(count: int) -> str:
    # In kB as far as anybody can still multiply it.
    return f"{count / 1024:.1f} kB" if count < 10_000 * 1024 else size(count)


def _exceptions(facts: Facts) -> str:
    """Why the cache of a request is no product of its tokens: what some layers keep instead; else nothing."""
    told = []
    for cache in facts.caches:
        some = f"{len(cache.layers)} of {facts.layers} layers"
        if cache.kind == "sliding":
            told.append(f"{some} only look at the last {cache.window} tokens")
        elif cache.kind == "chunked":
            told.append(f"{some} only look at chunks of {cache.window} tokens")
        elif cache.kind == "state":
            told.append(f"{some} keep a state of one size instead")
        elif cache.kind == "cross":
            told.append("what the encoder heard or saw comes to it")
    return f" ({'; '.join(dict.fromkeys(told))})" if told else ""


def whole(size_gb: float) -> str:
    """GB for a sentence: `146`, and `7.9` where a tenth matters."""
    return f"{size_gb:.0f}" if size_gb >= 10 else f"{size_gb:.1f}"


def _cache(facts: Facts, weighed: Weighed, kv_dtype: str, each: str) -> tuple[str, ...]:
    one = weighed.need.kv_bytes(weighed.wanted)
    if one <= 0:
        return ("no KV cache: each request is answered in one pass",)
    kind = f" ({kv_dtype})" if kv_dtype != "auto" else ""
    told = [
        f"KV cache{kind} {_per_token(weighed.need.kv_bytes_per_token)} for each token, "
        f"{size(one)} for a request of {weighed.wanted} tokens{each}{_exceptions(facts)}"
    ]
    if weighed.context and weighed.at_once is not None:
        told.append(f"longest context {weighed.context} tokens, {weighed.at_once:.1f} such requests at once")
    return tuple(told)

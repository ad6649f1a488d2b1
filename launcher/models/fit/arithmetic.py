"""The sum of a fit in lines that a person can check; sizes in GB of 2**30 bytes, as Slurm counts them."""

from __future__ import annotations

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import Options
from launcher.models.fit.reserve import GB, MEMORY_FRACTION
from launcher.models.fit.weigh import Weighed
from launcher.models.inspect.facts import Facts


def lines(facts: Facts, gpu: Gpu, options: Options, weighed: Weighed) -> tuple[str, ...]:
    """The sum of one GPU."""
    each = " on each GPU" if weighed.gpus > 1 else ""
    fraction = options.memory_fraction or MEMORY_FRACTION
    told: list[str] = []
    whole = weighed.need.weights_bytes
    if weighed.gpus > 1:
        all_, shared = size(facts.weights_bytes), whole * weighed.gpus > 1.02 * facts.weights_bytes
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
    if options.kv_cache_bytes is None:
        told.append(
            f"{gpu.name}: {size(weighed.total_bytes)} × {fraction:g} (--gpu-memory-utilization) "
            f"= {size(weighed.memory_bytes)}"
        )
        told.append(
            f"left for the KV cache {size(weighed.memory_bytes)} − {size(weighed.weights_bytes)} − "
            f"{size(weighed.reserve_bytes)} = {size(weighed.room_bytes)}{each}"
        )
    else:
        told.append(
            f"{gpu.name}: {size(weighed.total_bytes)}, of it for the KV cache {size(options.kv_cache_bytes)}"
        )
    return (*told, *_cache(weighed, options.kv_dtype, each))


def processor_lines(facts: Facts, weighed: Weighed) -> tuple[str, ...]:
    """The sum of a node without GPU."""
    room = max(weighed.room_bytes, 0)
    kept = f" + vLLM's processes about {size(weighed.reserve_bytes)}" if weighed.reserve_bytes else ""
    total = weighed.weights_bytes + weighed.reserve_bytes + room
    sum_ = f"weights {size(weighed.weights_bytes)}{kept} + KV cache {size(room)} = {size(total)}"
    return (f"{sum_} of {size(weighed.total_bytes)} memory", *_cache(weighed, "auto", ""))


def size(count: float) -> str:
    """`30.5 GB`; small sizes in MB and kB."""
    for unit, bytes_ in (("GB", GB), ("MB", 2**20)):
        if abs(count) >= bytes_ * 0.0995:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 1024:.1f} kB"


def _cache(weighed: Weighed, kv_dtype: str, each: str) -> tuple[str, ...]:
    one = weighed.need.kv_bytes(weighed.wanted)
    if one <= 0:
        return ("no KV cache: each request is answered in one pass",)
    kind = f" ({kv_dtype})" if kv_dtype != "auto" else ""
    told = [
        f"KV cache{kind} {size(weighed.need.kv_bytes_per_token)} for each token, "
        f"{size(one)} for a request of {weighed.wanted} tokens{each}"
    ]
    if weighed.context and weighed.at_once is not None:
        told.append(f"longest context {weighed.context} tokens, {weighed.at_once:.1f} such requests at once")
    return tuple(told)

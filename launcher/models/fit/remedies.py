"""What would make a model fit that does not: each remedy is weighed before it is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from launcher.errors import ModelError
from launcher.models.fit.gpus import Gpu
from launcher.models.fit.hardware import Hardware
from launcher.models.fit.options import Options
from launcher.models.fit.reserve import GB
from launcher.models.fit.rules import fp8_cache, ruling
from launcher.models.fit.weigh import CPU_OVERHEAD, Weighed, split, weigh
from launcher.models.inspect.facts import Facts
from launcher.models.inspect.fence import NUMBERS, understood

_BESIDE_GB = 8  # of the node's memory, what is left to vLLM's processes where weights lie there
_MEMORY_TIMES = 2
_OFFLOAD_SHARE = 0.4  # beyond this part of the weights a GPU only waits for the bus


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to change: `text` for people, then the same as fields of a request and as engine arguments."""

    text: str
    request_changes: Mapping[str, Any] = field(default_factory=dict)
    engine_args: tuple[str, ...] = ()

    @property
    def within_reach(self) -> bool:
        """Whether it is only a matter of asking for it."""
        return bool(self.request_changes or self.engine_args)

    @classmethod
    def shorter(cls, context: int) -> Self:
        """A context of at most so many tokens."""
        return cls(
            f"a context of at most {context} tokens (--max-model-len {context})",
            {"max_model_len": context},
            ("--max-model-len", str(context)),
        )


def for_gpus(
    facts: Facts,
    hardware: Hardware,
    gpu: Gpu,
    options: Options,
    weighed: Weighed,
    requests: float,
    siblings: Sequence[tuple[str, Facts]],
    repairs: tuple[Remedy, ...] | None,
) -> tuple[Remedy, ...]:
    """What helps on GPUs; `repairs` are for a trouble that is not one of memory (None: there is none)."""

    def holds(facts: Facts, gpus: int, options: Options) -> bool:
        parts = split(facts, options, hardware.nodes, gpus)
        if parts.trouble or ruling(facts, gpu, options).troubles:
            return False
        again = weigh(
            facts,
            gpu,
            options,
            tensor=parts.tensor,
            pipeline=parts.pipeline,
            context=context,
            requests=requests,
        )
        if offload_trouble(hardware, gpus, options, again):
            return False
        return again.fits or (options.context is None and again.usable and not weighed.usable)

    def sound(copy: Facts) -> bool:
        try:
            with understood(NUMBERS):
                return holds(copy, hardware.gpus, options)
        except ModelError:
            return False  # a broken copy is no way out, and no trouble of this model

    context = weighed.wanted
    found = list(repairs or ())
    found += [
        Remedy(f"its copy {name} in fewer bits (as MODEL)", {"model": name})
        for name, other in siblings
        if other.weights_bytes < facts.weights_bytes and sound(other)
    ][:2]
    for count in range(hardware.gpus + 1, (hardware.gpus_max or 0) + 1):
        if holds(facts, count, options):
            found.append(Remedy(f"{count} GPUs (--gpus {count})", {"gpus": count}))
            break
    if repairs is not None:
        found += _splits(facts, hardware, options, holds)
        if offload_trouble(hardware, hardware.gpus, options, weighed) and hardware.memory_gb is not None:
            most = float(max(0, int((hardware.memory_gb - _BESIDE_GB) / hardware.gpus)))
            for less in dict.fromkeys((0.0, most)):
                if holds(facts, hardware.gpus, dataclasses.replace(options, offload_gb=less)):
                    found.append(_offloaded(less))
                    break
        return tuple(found)
    if weighed.usable and weighed.context < weighed.wanted:
        found.append(Remedy.shorter(weighed.context))
    if options.kv_dtype == "auto" and fp8_cache(gpu):
        changed = dataclasses.replace(options, kv_dtype="fp8")
        if holds(facts, hardware.gpus, changed):
            found.append(
                Remedy("a KV cache in 8 bits (-- --kv-cache-dtype fp8)", {}, ("--kv-cache-dtype", "fp8"))
            )
    if not options.eager and holds(facts, hardware.gpus, dataclasses.replace(options, eager=True)):
        text = "a start without CUDA graphs, which is slower (-- --enforce-eager)"
        found.append(Remedy(text, {}, ("--enforce-eager",)))
    if not weighed.usable and (offload := _offload(facts, hardware, options, weighed)):
        changed = dataclasses.replace(options, offload_gb=offload)
        if holds(facts, hardware.gpus, changed):
            found.append(_offloaded(offload))
    return tuple(found)


def for_processor(
    weighed: Weighed, least: int, cache_bytes: int | None
) -> tuple[tuple[Remedy, ...], tuple[str, ...]]:
    """What helps where there is no GPU, and why it is needed; a context of `least` tokens is the shortest of use."""
    whole = processor_bytes(weighed, weighed.wanted, cache_bytes)
    found: list[Remedy] = []
    reasons: list[str] = []
    if not weighed.fits or weighed.total_bytes < whole:
        # With less than the whole context it may start all the same: then the whole is what lacks.
        told = weighed.wanted if weighed.usable else least
        reasons.append(
            "Weights, vLLM's own processes and the KV cache need about "
            f"{_whole_gb(processor_bytes(weighed, told, cache_bytes)):g} GB of memory{_for(told)}; "
            f"there are {weighed.total_bytes / GB:g} GB."
        )
        for context in dict.fromkeys((weighed.wanted, told)):
            memory_gb = _whole_gb(processor_bytes(weighed, context, cache_bytes))
            # What a node has at most is not known; several times the profile's is no longer the same hardware.
            if memory_gb * GB <= _MEMORY_TIMES * weighed.total_bytes:
                text = f"{memory_gb:g} GB of memory{_for(context)} (--memory-gb {memory_gb:g})"
                found.append(Remedy(text, {"memory_gb": memory_gb}))
                break
    if weighed.usable and weighed.context < weighed.wanted:
        found.append(Remedy.shorter(weighed.context))
    return tuple(found), tuple(reasons)


def processor_bytes(weighed: Weighed, context: int, cache_bytes: int | None) -> int:
    """What a node without GPU needs for one request of `context` tokens, or for the cache that was asked for."""
    cache = cache_bytes if cache_bytes is not None else max(weighed.need.kv_bytes(context), 0)
    return weighed.need.weights_bytes + CPU_OVERHEAD + cache


def _whole_gb(size: int) -> float:
    return float(-(-size // GB))


def _for(context: int) -> str:
    return f" for a context of {context} tokens"


def _splits(
    facts: Facts, hardware: Hardware, options: Options, holds: Callable[[Facts, int, Options], bool]
) -> list[Remedy]:
    """The splits that vLLM takes in place of the one that was asked for, the largest first."""
    if options.tensor is None or options.data > 1:
        return []
    found = []
    for tensor in range(hardware.gpus // (options.pipeline or 1), 0, -1):
        if tensor != options.tensor and holds(
            facts, hardware.gpus, dataclasses.replace(options, tensor=tensor)
        ):
            text = (
                f"a split over {tensor} GPU{'s' if tensor > 1 else ''} (-- --tensor-parallel-size {tensor})"
            )
            found.append(Remedy(text, {}, ("--tensor-parallel-size", str(tensor))))
    return found[:2]


def _offload(facts: Facts, hardware: Hardware, options: Options, weighed: Weighed) -> float:
    """GB of weights to move to the node's memory, 0 where that is no way out."""
    if options.offload_gb or options.kv_cache_bytes is not None or facts.experts:
        return 0
    short = weighed.need.kv_bytes(min(weighed.wanted, 8192)) - weighed.room_bytes
    offload = float(-(-short // GB))
    memory_gb = hardware.memory_gb or 0
    if offload <= 0 or offload * GB > _OFFLOAD_SHARE * weighed.need.weights_bytes:
        return 0
    return offload if offload * hardware.gpus + _BESIDE_GB <= memory_gb else 0


def _offloaded(offload_gb: float) -> Remedy:
    text = f"{offload_gb:g} GB of the weights of each GPU in the node's memory, which is much slower"
    return Remedy(
        f"{text if offload_gb else 'all weights on the GPUs'} (-- --cpu-offload-gb {offload_gb:g})",
        {},
        ("--cpu-offload-gb", f"{offload_gb:g}"),
    )


def offload_trouble(hardware: Hardware, gpus: int, options: Options, weighed: Weighed) -> str | None:
    """Why the node's memory does not hold the weights that its GPUs leave there; None where it does."""
    moved = min(options.offload_gb, weighed.need.weights_bytes / GB)
    if hardware.memory_gb is None or moved * gpus <= hardware.memory_gb:
        return None
    each = f" of each of {gpus} GPUs" if gpus > 1 else ""
    return (
        f"{moved:.0f} GB of the weights{each} do not fit into the node's memory: "
        f'profile "{hardware.name}" has {hardware.memory_gb:g} GB.'
    )

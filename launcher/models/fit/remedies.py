"""What would make a model fit that does not: each remedy is weighed before it is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.hardware import Hardware
from launcher.models.fit.options import Options
from launcher.models.fit.reserve import GB
from launcher.models.fit.rules import fp8_cache, ruling
from launcher.models.fit.weigh import CPU_OVERHEAD, Weighed, split, weigh
from launcher.models.inspect.facts import Facts

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
        return again.fits or (options.context is None and again.usable and not weighed.usable)

    context = weighed.wanted
    found = list(repairs or ())
    found += [
        Remedy(f"its copy {name} in fewer bits", {"model": name})
        for name, other in siblings
        if other.weights_bytes < facts.weights_bytes and holds(other, hardware.gpus, options)
    ][:2]
    for count in range(hardware.gpus + 1, (hardware.gpus_max or 0) + 1):
        if holds(facts, count, options):
            found.append(Remedy(f"{count} GPUs (--gpus {count})", {"gpus": count}))
            break
    if repairs is not None:
        return tuple(found)
    if weighed.usable and weighed.context < weighed.wanted:
        found.append(Remedy.shorter(weighed.context))
    if options.kv_dtype == "auto" and fp8_cache(gpu):
        changed = dataclasses.replace(options, kv_dtype="fp8")
        if holds(facts, hardware.gpus, changed):
            found.append(Remedy("a KV cache in 8 bits", {}, ("--kv-cache-dtype", "fp8")))
    if not options.eager and holds(facts, hardware.gpus, dataclasses.replace(options, eager=True)):
        found.append(Remedy("no CUDA graphs, which is slower", {}, ("--enforce-eager",)))
    if not weighed.usable and (offload := _offload(facts, hardware, options, weighed)):
        changed = dataclasses.replace(options, offload_gb=offload)
        if holds(facts, hardware.gpus, changed):
            text = f"{offload:g} GB of the weights of each GPU in the node's memory, which is much slower"
            found.append(Remedy(text, {}, ("--cpu-offload-gb", f"{offload:g}")))
    return tuple(found)


def for_processor(
    weighed: Weighed, options: Options, cache_bytes: int | None
) -> tuple[tuple[Remedy, ...], tuple[str, ...]]:
    """What helps where there is no GPU, and why it is needed."""
    cache = cache_bytes if cache_bytes is not None else max(weighed.need.kv_bytes(weighed.wanted), 0)
    whole = weighed.need.weights_bytes + CPU_OVERHEAD + cache
    found: list[Remedy] = []
    reasons: list[str] = []
    if not weighed.fits or weighed.total_bytes < whole:
        memory_gb = float(-(-whole // GB))
        found.append(
            Remedy(f"{memory_gb:g} GB of memory (--memory-gb {memory_gb:g})", {"memory_gb": memory_gb})
        )
        reasons.append(
            f"Weights, vLLM's own processes and the KV cache need about {memory_gb:g} GB of memory; "
            f"there are {weighed.total_bytes / GB:g} GB."
        )
    if weighed.usable and weighed.context < weighed.wanted:
        found.append(Remedy.shorter(weighed.context))
    return tuple(found), tuple(reasons)


def _offload(facts: Facts, hardware: Hardware, options: Options, weighed: Weighed) -> float:
    """GB of weights to move to the node's memory, 0 where that is no way out."""
    if options.offload_gb or options.kv_cache_bytes is not None or facts.experts:
        return 0
    short = weighed.need.kv_bytes(min(weighed.wanted, 8192)) - weighed.room_bytes
    offload = float(-(-short // GB))
    memory_gb = hardware.memory_gb or 0
    if offload <= 0 or offload * GB > _OFFLOAD_SHARE * weighed.need.weights_bytes:
        return 0
    return offload if offload * hardware.gpus + 8 <= memory_gb else 0

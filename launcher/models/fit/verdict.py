"""Does a model fit on a piece of hardware, what would make it fit, and the arithmetic to show.

Everything is known before a job is queued: facts of the model, GPUs of the site, rules and defaults of vLLM 0.32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.models.fit.arithmetic import lines, processor_lines, whole
from launcher.models.fit.gpus import Gpu, sheet_gb
from launcher.models.fit.hardware import Hardware, hardware
from launcher.models.fit.options import Options, given, read_options
from launcher.models.fit.remedies import Remedy, for_gpus, for_processor, offload_trouble, processor_bytes
from launcher.models.fit.reserve import GB
from launcher.models.fit.rules import Ruling, ruling
from launcher.models.fit.weigh import SHORTEST, Weighed, split, weigh, weigh_processor
from launcher.models.inspect.facts import Facts
from launcher.models.inspect.fence import NUMBERS, understood

__all__ = ["DOES_NOT_FIT", "FITS", "FITS_IF", "UNKNOWN", "Fit", "Hardware", "Remedy", "fit", "hardware"]

FITS, FITS_IF, DOES_NOT_FIT, UNKNOWN = "fits", "fits-if", "does-not-fit", "unknown"


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict for one model on one piece of hardware.

    `gpus` are those of each of `nodes` nodes; `context` is the longest and `requests` how many such at once;
    `engine_args` are what the fit chose and vLLM must be told. With them it `starts`: true for every "fits", and for a
    "fits-if" that only shortens what nobody asked for. `needs_gb` and `has_gb` are of all GPUs together (of the node
    where there is none), in GiB; the first is for one request of `needs_context` tokens. `memory_short`: it is memory
    that lacks. `own_build`: vLLM must be built for it.
    """

    verdict: str
    tensor: int = 1
    pipeline: int = 1
    gpus: int = 0
    context: int | None = None
    requests: float | None = None
    kv_dtype: str = "auto"
    arithmetic: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    engine_args: tuple[str, ...] = ()
    starts: bool = False
    needs_gb: float | None = None
    has_gb: float | None = None
    needs_context: int | None = None
    memory_short: bool = False
    own_build: bool = False
    notes: tuple[str, ...] = field(default=())
    nodes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


@understood(NUMBERS)
def fit(
    facts: Facts,
    hardware: Hardware,
    *,
    context: int | None = None,
    requests: float = 1,
    engine_args: Sequence[str] = (),
    siblings: Sequence[tuple[str, Facts]] = (),
    environment: Mapping[str, str] | None = None,
) -> Fit:
    """Whether `requests` requests of `context` tokens fit at once; without `context`, how long it can be.

    `engine_args` are respected in all of vLLM's spellings; `siblings` are copies of the model in fewer bits, each with
    the name to ask for it; `environment` are the engine's variables.
    """
    options = read_options(engine_args)
    if context is not None:
        options = dataclasses.replace(options, context=context)
    wanted = options.context or facts.context
    if facts.weights_bytes <= 0:
        return Fit(UNKNOWN, reasons=("The size of this model is not known.",), starts=True)
    if 0 < facts.context_limit < wanted and not _longer_allowed(engine_args, environment):
        reason = f"The model's own context is {facts.context_limit} tokens; {wanted} were asked for."
        own = fit(facts, hardware, context=facts.context_limit, requests=requests, engine_args=engine_args,
                  environment=environment)  # fmt: skip
        longest = facts.context_limit if own.starts else own.context or 0
        remedies = (Remedy.shorter(longest),) if longest >= min(SHORTEST, facts.context_limit) else ()
        return dataclasses.replace(
            own,
            verdict=FITS_IF if remedies else DOES_NOT_FIT,
            reasons=(reason, *own.reasons),
            remedies=remedies,
            engine_args=(),
            starts=False,
            memory_short=False,
        )
    if hardware.gpus == 0:
        return _on_processor(facts, hardware, options, wanted, requests, environment or {})
    if hardware.gpu is None:
        rules = ruling(facts, None, options)
        if rules.troubles:
            return Fit(DOES_NOT_FIT, gpus=hardware.gpus, reasons=rules.troubles, remedies=_repairs(rules))
        reason = f'Profile "{hardware.name}" does not say how much memory its GPUs have (gpu_memory_gb).'
        return Fit(UNKNOWN, gpus=hardware.gpus, reasons=(reason,), starts=True)
    found = _on_gpus(facts, hardware, hardware.gpu, options, wanted, requests, engine_args, siblings)
    if found.verdict != FITS and hardware.larger:
        return _of_many(facts, hardware, found, options, wanted, requests, engine_args)
    return found


def _on_gpus(
    facts: Facts,
    hardware: Hardware,
    gpu: Gpu,
    options: Options,
    wanted: int,
    requests: float,
    engine_args: Sequence[str],
    siblings: Sequence[tuple[str, Facts]],
) -> Fit:
    rules = ruling(facts, gpu, options)
    facts = dataclasses.replace(facts, dtype=rules.dtype)
    if rules.dtype == "float32" and options.dtype == "auto":
        options = dataclasses.replace(options, dtype="float32")
    parts = split(facts, options, hardware.nodes, hardware.gpus)
    weighed = weigh(
        facts, gpu, options, tensor=parts.tensor, pipeline=parts.pipeline, context=wanted, requests=requests
    )
    arguments = (*_split_args(parts.tensor, parts.pipeline, engine_args), *rules.engine_args)
    others = tuple(filter(None, (parts.trouble, offload_trouble(hardware, hardware.gpus, options, weighed))))
    troubles = (*rules.troubles, *others)
    verdict, starts, reasons = _judged(weighed, options, troubles)
    remedies: tuple[Remedy, ...] = ()
    if verdict != FITS:
        repairs = None if not troubles else _repairs(rules) if not others else ()
        remedies = for_gpus(facts, hardware, gpu, options, weighed, requests, siblings, repairs)
        if starts:
            arguments = (*arguments, "--max-model-len", str(weighed.context))
        verdict = FITS_IF if starts or any(remedy.within_reach for remedy in remedies) else DOES_NOT_FIT
    least = wanted if options.context else min(wanted, SHORTEST)
    needs, has = weighed.needed_bytes(least) / GB, weighed.total_bytes * hardware.nodes * hardware.gpus / GB
    if not troubles and weighed.room_bytes < 0 and needs > has:
        reasons = (
            f"About {whole(needs)} GB of GPU memory are needed for a context of {least} tokens; "
            f"there are {whole(has)} GB.",
        )
    return Fit(
        verdict=verdict,
        tensor=parts.tensor,
        pipeline=parts.pipeline,
        gpus=hardware.gpus,
        context=weighed.context or None,
        requests=weighed.at_once,
        kv_dtype=options.kv_dtype,
        arithmetic=lines(facts, gpu, options, weighed),
        reasons=reasons,
        remedies=remedies,
        engine_args=arguments,
        starts=starts,
        needs_gb=needs,
        has_gb=has,
        needs_context=least,
        memory_short=not troubles and needs > has,
        own_build=rules.own_build,
        notes=(*rules.notes, *((facts.doubt,) if facts.doubt else ())),
        nodes=hardware.nodes,
    )


def _judged(
    weighed: Weighed, options: Options, troubles: tuple[str, ...]
) -> tuple[str, bool, tuple[str, ...]]:
    """Verdict before any remedy, whether it starts, and why not; `troubles` are not of the GPUs' memory."""
    if troubles:
        return DOES_NOT_FIT, False, troubles
    if weighed.fits:
        return FITS, True, ()
    if weighed.room_bytes < 0:
        return DOES_NOT_FIT, False, ("The weights alone leave no room for a KV cache.",)
    room = f"the KV cache has room for {weighed.context} tokens, not for {weighed.wanted}."
    if options.context is None and weighed.usable:
        return FITS_IF, True, (f"With the model's own context {room}",)
    return DOES_NOT_FIT, False, (f"T{room[1:]}",)


def _repairs(rules: Ruling) -> tuple[Remedy, ...]:
    """What mends a trouble that has nothing to do with memory, where it mends all of them."""
    mended = tuple(Remedy(text, {}, arguments) for text, arguments in rules.repairs)
    return mended if len(mended) == len(rules.troubles) else ()


def _of_many(
    facts: Facts,
    hardware: Hardware,
    smallest: Fit,
    options: Options,
    wanted: int,
    requests: float,
    args: Sequence[str],
) -> Fit:
    """The verdict where the profile's words leave open which GPU it is, and the smallest would be too small."""
    for gpu in hardware.larger:
        found = _on_gpus(facts, hardware, gpu, options, wanted, requests, args, ())
        if found.starts and not smallest.starts:
            sizes = " or ".join(f"{sheet_gb(g):g}" for g in (hardware.gpu, *hardware.larger) if g)
            reason = (
                f'It fits on {sheet_gb(gpu):g} GB, but profile "{hardware.name}" does not say whether its GPUs have '
                f"{sizes} GB (gpu_memory_gb)."
            )
            return dataclasses.replace(found, verdict=UNKNOWN, reasons=(reason,), remedies=())
    return smallest


def _split_args(tensor: int, pipeline: int, engine_args: Sequence[str]) -> tuple[str, ...]:
    arguments: list[str] = []
    for option, size in (("--tensor-parallel-size", tensor), ("--pipeline-parallel-size", pipeline)):
        if size > 1 and not given(engine_args, option):
            arguments += [option, str(size)]
    return tuple(arguments)


def _longer_allowed(args: Sequence[str], environment: Mapping[str, str] | None) -> bool:
    # Rope scaling by hand, or vLLM's own switch: the user knows better (vllm/config/model.py, _get_and_verify_max_len).
    return (environment or {}).get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in ("", "0") or given(
        args, "--hf-overrides"
    )


def _on_processor(
    facts: Facts,
    hardware: Hardware,
    options: Options,
    wanted: int,
    requests: float,
    environment: Mapping[str, str],
) -> Fit:
    rules = ruling(facts, None, options)
    if rules.troubles:
        return Fit(DOES_NOT_FIT, reasons=rules.troubles, remedies=_repairs(rules))
    asked = options.kv_cache_bytes
    if asked is None and environment.get("VLLM_CPU_KVCACHE_SPACE", "").isdigit():
        asked = int(environment["VLLM_CPU_KVCACHE_SPACE"]) * GB  # vllm/platforms/cpu.py
    if hardware.memory_gb is None:
        reason = f'Profile "{hardware.name}" does not say how much memory it has (memory_gb).'
        return Fit(UNKNOWN, reasons=(reason,), starts=True)
    weighed = weigh_processor(facts, hardware.memory_gb, options, asked, context=wanted, requests=requests)
    least = wanted if options.context else min(wanted, SHORTEST)
    remedies, reasons = for_processor(weighed, least, asked)
    starts = weighed.usable and (weighed.fits or options.context is None)
    verdict = FITS if weighed.fits and not reasons else FITS_IF if remedies or starts else DOES_NOT_FIT
    arguments: tuple[str, ...] = ()
    if starts and asked is None:
        arguments = ("--kv-cache-memory-bytes", str(weighed.room_bytes))
    if starts and not weighed.fits:
        arguments = (*arguments, "--max-model-len", str(weighed.context))
    return Fit(
        verdict=verdict,
        nodes=hardware.nodes,
        context=weighed.context or None,
        requests=weighed.at_once,
        kv_dtype=options.kv_dtype,
        arithmetic=processor_lines(facts, weighed),
        reasons=reasons,
        remedies=remedies,
        engine_args=arguments,
        starts=starts,
        needs_gb=(needs := processor_bytes(weighed, least, asked) / GB),
        has_gb=hardware.memory_gb,
        needs_context=least,
        memory_short=needs > hardware.memory_gb,
    )

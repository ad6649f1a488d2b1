"""Quantised copies of a model that are on this disk: what to suggest where the model itself does not fit."""

from __future__ import annotations

import re

from launcher.errors import ModelError
from launcher.models.near import known_names
from launcher.models.resolve import ResolvedModel, catalog_entry, resolve
from launcher.settings.schema import Settings

# As publishers write them: -AWQ, -GPTQ-Int4, -FP8-dynamic, -quantized.w4a16, -AWQ-INT4, -bnb-4bit, -NVFP4, …
_QUANTISED = re.compile(
    r"(?:[-_.](?:quantized|awq|gptq|g?int[48]|[48]bit|bnb|fp8|fp4|nvfp4|mxfp4|w4a16|w8a16|w8a8|w4a4|w4a8|autoround"
    r"|dynamic|block|static|kv|tensor|marlin|unsloth|g\d+|hf))+$",
    re.IGNORECASE,
)
# Copies that vLLM cannot load.
_FOREIGN = re.compile(r"(?:[-_.](?:gguf|mlx|onnx|exl[23]|ct2))", re.IGNORECASE)


def siblings(model: str, settings: Settings) -> list[ResolvedModel]:
    """The whole quantised copies of `model` (an id, a name or a path) here, by name; lists all folders.

    Told by the name: `Qwen/Qwen3-8B-AWQ` and `RedHatAI/Qwen3-8B-quantized.w4a16` are siblings of `Qwen/Qwen3-8B`.
    """
    entry = catalog_entry(model, settings)
    own = (entry.id if entry is not None and entry.id else model).rstrip("/")
    wanted = unquantised(own)
    found: list[ResolvedModel] = []
    names = known_names(settings)
    names += [e.id for e in settings.catalog.values() if e.id is not None and not e.hidden]
    for name in sorted(dict.fromkeys(names)):
        if not _QUANTISED.search(name) or _FOREIGN.search(name) or name == own or unquantised(name) != wanted:
            continue
        try:
            sibling = resolve(name, settings)
        except ModelError:
            continue
        if sibling.snapshot is not None and all(sibling.snapshot != other.snapshot for other in found):
            found.append(sibling)
    return found


def unquantised(model: str) -> str:
    """The name that the copies of one model share: without organisation and quantisation, in lower case."""
    name = _QUANTISED.sub("", model.rpartition("/")[2]).lower()
    return name.removeprefix("meta-")  # Meta-Llama-3.1-8B-Instruct is also called Llama-3.1-8B-Instruct

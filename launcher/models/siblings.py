"""Quantised copies of a model that are on this disk: what to suggest where the model itself does not fit."""

from __future__ import annotations

import re

from launcher.errors import ModelError
from launcher.models.known import COPY, original
from launcher.models.near import known_names
from launcher.models.resolve import ResolvedModel, catalog_entry, resolve
from launcher.settings.schema import Settings

# Copies that vLLM cannot load.
_FOREIGN = re.compile(r"(?:[-_.](?:gguf|mlx|onnx|exl[23]|ct2))", re.IGNORECASE)


def siblings(model: str, settings: Settings) -> list[ResolvedModel]:
    """The whole quantised copies of `model` (an id, a name or a path) here, by name; lists all folders.

    Told by the name: `Qwen/Qwen3-8B-AWQ` and `RedHatAI/Qwen3-8B-quantized.w4a16` are siblings of `Qwen/Qwen3-8B`.
    """
    entry = catalog_entry(model, settings)
    own = (entry.id if entry is not None and entry.id else model).rstrip("/")
    wanted = original(own)
    found: list[ResolvedModel] = []
    names = known_names(settings)
    names += [e.id for e in settings.catalog.values() if e.id is not None and not e.hidden]
    for name in sorted(dict.fromkeys(names)):
        if not COPY.search(name) or _FOREIGN.search(name) or name == own or original(name) != wanted:
            continue
        try:
            sibling = resolve(name, settings)
        except ModelError:
            continue
        if sibling.snapshot is not None and all(sibling.snapshot != other.snapshot for other in found):
            found.append(sibling)
    return found

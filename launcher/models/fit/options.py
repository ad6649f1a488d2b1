"""The options of `vllm serve` that decide how much memory it takes, read out of an argument list.

Owns their spellings and values; what a user may pass at all is `launcher.engines`' business. A value that vLLM would
refuse is passed over here: vLLM says it better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
}
_FLAGS = {"--enforce-eager": True, "--no-enforce-eager": False}
# `1k` is 1000 and `1K` is 1024 (vllm/utils/argparse_utils.py, human_readable_int).
_TIMES = {**{s: 1000**i for i, s in enumerate("kmgt", 1)}, **{s: 1024**i for i, s in enumerate("KMGT", 1)}}
_LEAST_SHORTENED = 6


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked of vLLM; None: its own default, or the fit's choice. `context` and `batched` in tokens."""

    tensor: int | None = None
    pipeline: int | None = None
    data: int = 1
    context: int | None = None
    kv_dtype: str = "auto"
    kv_cache_bytes: int | None = None
    memory_fraction: float | None = None
    quantization: str | None = None
    dtype: str = "auto"
    offload_gb: float = 0
    eager: bool = False
    sequences: int | None = None
    batched: int | None = None


def number(text: str) -> int:
    """A whole number as vLLM reads it: `16384`, `16K`, `16k`, `25.6k`; raises ValueError."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip()):
        return int(float(found[1]) * _TIMES[found[2]])
    return int(text)


def _context(text: str) -> int | None:
    # -1 and auto: vLLM itself shortens the context to what fits (vllm/config/model.py, max_model_len).
    return None if text.strip().lower() in ("auto", "-1") else number(text)


_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--tensor-parallel-size": ("tensor", number),
    "--pipeline-parallel-size": ("pipeline", number),
    "--data-parallel-size": ("data", number),
    "--max-model-len": ("context", _context),
    "--kv-cache-dtype": ("kv_dtype", str.lower),
    "--kv-cache-memory-bytes": ("kv_cache_bytes", number),
    "--gpu-memory-utilization": ("memory_fraction", float),
    "--quantization": ("quantization", str.lower),
    "--dtype": ("dtype", str.lower),
    "--cpu-offload-gb": ("offload_gb", float),
    "--max-num-seqs": ("sequences", number),
    "--max-num-batched-tokens": ("batched", number),
}


def read_options(args: Sequence[str]) -> Options:
    """The options in `args`; the last of each counts, as for vLLM.

    Every spelling that vLLM takes: `--a-b 1`, `--a_b=1`, `-tp 1`, and shortened (argparse).
    """
    values: dict[str, Any] = {}
    for place, argument in enumerate(args):
        word, equals, value = argument.partition("=")
        name = _name(word)
        if name in _FLAGS:
            values["eager"] = _FLAGS[name]
        elif name in _READ:
            field, read = _READ[name]
            text = value if equals else next(iter(args[place + 1 : place + 2]), "")
            try:
                found = read(text)
            except (ValueError, OverflowError):
                continue
            if found is None or isinstance(found, str) or 0 <= found < 1e15:
                values[field] = found
    for field in ("tensor", "pipeline", "data"):
        if values.get(field) == 0:
            del values[field]
    return Options(**values)


def given(args: Sequence[str], option: str) -> bool:
    """Whether `args` sets the long option `option`, in any spelling, also as `--no-…`."""
    names = (option, f"--no-{option[2:]}")
    return any(
        _spelled(argument.partition("=")[0]) in names or _name(argument.partition("=")[0]) == option
        for argument in args
    )


def _spelled(word: str) -> str:
    return "--" + word[2:].replace("_", "-") if word.startswith("--") else word


def _name(word: str) -> str | None:
    if word in _SHORT:
        return _SHORT[word]
    name = _spelled(word)
    known = (*_READ, *_FLAGS)
    if name in known:
        return name
    near = [option for option in known if option.startswith(name)] if len(name) >= _LEAST_SHORTENED else []
    return near[0] if len(near) == 1 else None

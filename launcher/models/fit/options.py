"""The options of `vllm serve` that decide how much memory it takes, read out of an argument list.

Owns their spellings, and which values cannot be; what a user may pass at all is `launcher.engines`' business. Reading
passes over a value that cannot be; `check_options` refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.errors import RequestError
from launcher.models.vision import videos_refused

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
# How like one of ours a word must be to be a slip of the hand; no other option of vLLM is so near.
_NEAR = 0.9
# vllm/config/model.py, _STR_DTYPE_TO_TORCH_DTYPE.
_DTYPES = {
    "auto": "auto", "half": "float16", "float16": "float16", "float": "float32", "float32": "float32",
    "bfloat16": "bfloat16",
}  # fmt: skip


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
    videos: bool = True


def number(text: str) -> int:
    """A whole number as vLLM reads it: `16384`, `16K`, `16k`, `25.6k`; raises ValueError."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip()):
        return int(float(found[1]) * _TIMES[found[2]])
    return int(text)


def _context(text: str) -> int | None:
    # -1 and auto: vLLM itself shortens the context to what fits (vllm/config/model.py, max_model_len).
    return None if text.strip().lower() in ("auto", "-1") else number(text)


def _dtype(text: str) -> str:
    if text not in _DTYPES:
        raise ValueError(f"{text} is no type")
    return _DTYPES[text]


_READ: dict[str, tuple[str, Callable[[str], int | float | str | None]]] = {
    "--tensor-parallel-size": ("tensor", number),
    "--pipeline-parallel-size": ("pipeline", number),
    "--data-parallel-size": ("data", number),
    "--max-model-len": ("context", _context),
    "--kv-cache-dtype": ("kv_dtype", str.lower),
    "--kv-cache-memory-bytes": ("kv_cache_bytes", number),
    "--gpu-memory-utilization": ("memory_fraction", float),
    "--quantization": ("quantization", str.lower),
    "--dtype": ("dtype", _dtype),
    "--cpu-offload-gb": ("offload_gb", float),
    "--max-num-seqs": ("sequences", number),
    "--max-num-batched-tokens": ("batched", number),
}


# What a number must be more than, and its most; where there is none here, at least 1.
_MOST = 10**15
_RANGES: dict[str, tuple[float, float, str]] = {
    "--gpu-memory-utilization": (0, 1, "more than 0 and at most 1"),
    "--cpu-offload-gb": (-1e-9, 1e6, "0 or more, in GB for each GPU"),
}


def read_options(args: Sequence[str]) -> Options:
    """The options in `args`; the last of each counts, as for vLLM.

    Every spelling that vLLM takes: `--a-b 1`, `--a_b=1`, `-tp 1`, and shortened (argparse).
    """
    values: dict[str, Any] = {}
    for _, name, text in _named(args):
        if name in _FLAGS:
            values["eager"] = _FLAGS[name]
            continue
        field, read = _READ[name]
        try:
            found = read(text)
        except (ValueError, OverflowError):
            continue
        if not isinstance(found, (int, float)) or _cannot_be(name, found) is None:
            values[field] = found
    return Options(**values, videos=not videos_refused(args))


def check_options(args: Sequence[str]) -> None:
    """Raise RequestError for a number that cannot be, and for a slip of the hand in the name of an option."""
    for word, name, text in _named(args):
        if name in _FLAGS or name == "--dtype":
            continue
        if not text or (text.startswith("-") and not re.match(r"-[\d.]|-inf|-nan", text)):
            raise RequestError(f"Engine argument {word} has no value.", f"Write {name}=VALUE.")
        try:
            found = _READ[name][1](text)
        except (ValueError, OverflowError):
            raise RequestError(
                f'Engine argument {word} must be a number, not "{text[:40]}".', "Correct it."
            ) from None
        if isinstance(found, (int, float)) and (trouble := _cannot_be(name, found)):
            raise RequestError(f'Engine argument {word} {trouble}, not "{text[:40]}".', "Correct it.")
    for argument in args:
        word = argument.partition("=")[0]
        if (near := near_miss(word)) is not None:
            raise RequestError(f"vLLM has no option {word[:40]}.", f"Did you mean {near}?")


def near_miss(word: str) -> str | None:
    """The option about memory that `word` was meant to be, where it is a slip of the hand; else None."""
    if not word.startswith("--") or _name(word) is not None or len(word) > 40:
        return None
    import difflib  # slow to load, and rarely needed

    name = _spelled(word)
    plain = name.replace("--no-", "--", 1)
    near = difflib.get_close_matches(name, [*_READ, *_FLAGS], 1, _NEAR)
    return near[0] if near and plain not in (*_READ, *_FLAGS) else None


def _named(args: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each option of ours in `args`: as it stands there, its long name, and its value."""
    for place, argument in enumerate(args):
        word, equals, value = argument.partition("=")
        if (name := _name(word)) is not None:
            yield word, name, value if equals else next(iter(args[place + 1 : place + 2]), "")


def _cannot_be(name: str, value: float) -> str | None:
    over, most, words = _RANGES.get(name, (0, _MOST, "1 or more"))
    if value > most and most in (_MOST, 1e6):
        return "is too large"
    return None if over < value <= most else f"must be {words}"


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

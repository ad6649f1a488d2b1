"""How a checkpoint is quantised, as its config says, and how large that makes its matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from launcher.models.inspect.header import Tensor

W4A8_FP8 = "w4a8-fp8"  # of compressed-tensors: weights in 4 bits, arithmetic in fp8
_METHOD = re.compile(r"[a-z0-9_.-]{1,40}")  # it is shown in terminals and pages
_SKIPPED_MAX = 4096  # what is not quantised is asked of each matrix anew
# What no method touches unless its config names it.
_PLAIN = re.compile(r"embed|lm_head|norm|\.gate\.weight|router|visual|vision|encoder\.|conv")


@dataclass(frozen=True, slots=True)
class Quantization:
    """One checkpoint's quantisation; `method` in vLLM's spelling (`--quantization`)."""

    method: str
    # Of compressed-tensors and ModelOpt: pack-quantized, float-quantized, nvfp4, …; of Quark: fp8.
    format: str | None
    bits: float
    group: int  # input values that share a scale; 0: a whole column
    block: tuple[int, int] | None  # of block-wise fp8: output × input values that share a scale
    kv_dtype: str | None  # of the KV cache, where the checkpoint was made for one
    skipped: tuple[str, ...]

    def covers(self, name: str) -> bool:
        """Whether the matrix `name` is quantised."""
        if self.method == "mxfp4":  # gpt_oss: the experts only
            return ".experts." in name
        if _PLAIN.search(name):
            return False
        return not any(skipped and skipped in name for skipped in self.skipped)

    def tensors(self, name: str, sides: tuple[int, ...]) -> Iterator[Tensor]:
        """The quantised matrix and its scales, in the types that a file would hold."""
        rows, columns = prod(sides[:-1]), sides[-1]
        packed = max(1, int(columns * self.bits / 8))
        kind = "U8" if self.bits < 8 else "F8_E4M3"
        yield Tensor(name, kind, (*sides[:-1], packed), rows * packed)
        scales = max(1, int(rows * columns * self._scale_bytes(columns) / sides[0]))
        yield Tensor(f"{name}_scale", "U8", (sides[0], scales), sides[0] * scales)

    def _scale_bytes(self, columns: int) -> float:
        """What scales and zero points add to each value."""
        if self.block is not None:
            return 4 / (self.block[0] * self.block[1])
        if self.method == "mxfp4":
            return 1 / 32
        if self.method == "bitsandbytes":
            return 1 / 64  # doubly quantised: a byte for 64 values
        if self.bits == 4 and "fp4" in f"{self.method} {self.format}":
            return 1 / 16
        if self.bits <= 4:
            return (2 + self.bits / 8) / (self.group or columns)
        return 2 / (self.group or columns)


def quantization_of(config: Mapping[str, Any], beside: Mapping[str, Any]) -> Quantization | None:
    """What `config` (a whole config.json) and ModelOpt's `hf_quant_config.json` say; None for a plain model.

    As vllm/transformers_utils/model_arch_config_convertor.py, get_quantization_config.
    """
    text = config.get("text_config")
    places = (config, text if isinstance(text, Mapping) else {})
    found = next(
        (place[key] for place in places for key in ("quantization_config", "compression_config")
         if isinstance(place.get(key), Mapping)),
        beside.get("hf_quant_config.json"),
    )  # fmt: skip
    if not isinstance(found, Mapping) or not found:
        return None
    inner = found.get("quantization")
    inner = inner if isinstance(inner, Mapping) else found
    method = str(found.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")
    algorithm = str(inner.get("quant_algo") or "").upper()
    if algorithm or method.startswith("modelopt"):
        method = "modelopt_fp4" if "FP4" in algorithm else "modelopt"
    scheme = _scheme(found)
    block = found.get("weight_block_size")
    return Quantization(
        method if _METHOD.fullmatch(method) else "unknown",
        _format(found, method, algorithm),
        _bits(found, method, algorithm, scheme),
        _whole(found.get("group_size") or inner.get("group_size") or scheme.get("group_size")),
        (_whole(block[0]) or 128, _whole(block[1]) or 128)
        if isinstance(block, Sequence) and not isinstance(block, str) and len(block) == 2
        else None,
        _kv_dtype(found, inner, method),
        tuple(
            skipped.removeprefix("re:").strip(".*^$")
            for key in ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")
            for skipped in _names(found.get(key) or inner.get(key))
            if isinstance(skipped, str)
        )[:_SKIPPED_MAX],
    )


def _format(found: Mapping[str, Any], method: str, algorithm: str) -> str | None:
    """How the values are laid out, where that decides on which GPU they can be used."""
    if method == "compressed-tensors" and _is_w4a8_fp8(found):
        return W4A8_FP8
    if method == "quark" and _is_quark_fp8(found):
        return "fp8"
    given = str(found.get("format") or algorithm).lower()
    return given if _METHOD.fullmatch(given) else None


def _is_w4a8_fp8(found: Mapping[str, Any]) -> bool:
    """As vllm/.../compressed_tensors/compressed_tensors.py, _is_fp8_w4a8, of any group."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        inner = group if isinstance(group, Mapping) else {}
        weights, inputs = inner.get("weights"), inner.get("input_activations")
        if isinstance(weights, Mapping) and isinstance(inputs, Mapping):
            what = (weights.get("type"), weights.get("num_bits"), inputs.get("type"), inputs.get("num_bits"))
            if what == ("int", 4, "float", 8):
                return True
    return False


def _is_quark_fp8(found: Mapping[str, Any]) -> bool:
    """As vllm/.../quark/quark.py, _is_fp8_w8a8."""
    layers = found.get("global_quant_config")
    parts = (
        [layers.get(key) for key in ("weight", "input_tensors")] if isinstance(layers, Mapping) else [None]
    )
    return all(isinstance(part, Mapping) and part.get("dtype") == "fp8_e4m3" for part in parts)


def _scheme(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights of the first group of compressed-tensors."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(weights := group.get("weights"), Mapping):
            return weights
    return {}


def _bits(found: Mapping[str, Any], method: str, algorithm: str, scheme: Mapping[str, Any]) -> float:
    if method == "bitsandbytes":
        return 8.0 if found.get("load_in_8bit") else 4.0
    if method in ("mxfp4", "modelopt_fp4") or "FP4" in algorithm:
        return 4.0
    given = found.get("bits") or found.get("w_bit") or scheme.get("num_bits")
    return float(given) if isinstance(given, int) and 1 <= given <= 16 else 8.0


def _kv_dtype(found: Mapping[str, Any], inner: Mapping[str, Any], method: str) -> str | None:
    """As vllm/utils/torch_utils.py, get_kv_cache_quant_algo_string, and layers/attention/attention.py."""
    scheme = inner.get("kv_cache_scheme") or found.get("kv_cache_scheme")
    if method == "compressed-tensors":
        return "fp8" if scheme else None
    if not method.startswith("modelopt"):
        return None
    given = scheme or inner.get("kv_cache_quant_algo") or found.get("kv_cache_quant_algo")
    if isinstance(given, Mapping):
        given = {8: "fp8", 4: "nvfp4"}.get(_whole(given.get("num_bits")))
    return {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}.get(str(given).lower())


def _names(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _whole(value: object) -> int:
    return value if type(value) is int and 0 < value < 2**31 else 0

"""The headers of safetensors files: which tensors a model has, of which type and shape. Never the weights themselves.

Format: 8 bytes little-endian length, then that many bytes of JSON, `{name: {"dtype", "shape", "data_offsets"}}`
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import ModelError

HEADER_MAX = 100_000_000  # safetensors' own limit
_JSON_MAX = 64_000_000
_SIDES = 2**63  # no tensor is larger; a product of hostile shapes would grow without end
# Bits, because 4-bit types pack two values into a byte (safetensors/src/tensor.rs, Dtype::bitsize).
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model; `dtype` in safetensors' spelling (`BF16`, `F8_E4M3`, …), `bytes` as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def tensor(name: str, dtype: Any, shape: Any, size: int | None = None) -> Tensor:
    """A tensor with its bytes counted from type and shape.

    Raises ValueError for a shape or type that cannot be, or where `size` (the header's `data_offsets`) says otherwise.
    """
    sides = tuple(shape)
    if len(sides) > 16 or not all(type(side) is int and 0 <= side < _SIDES for side in sides):
        raise ValueError(f"{name[:80]} has a shape that cannot be")
    if dtype not in _BITS:
        raise ValueError(f"{name[:80]} has an unknown type")
    counted = math.prod(sides) * _BITS[dtype] // 8
    if size is not None and size != counted:
        raise ValueError(f"{name[:80]} does not have the bytes of its shape")
    return Tensor(name, dtype, sides, counted)


def tensors_of(header: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that one file's header names; raises ValueError where it is not one."""
    try:
        return [
            tensor(name, entry["dtype"], entry["shape"], entry["data_offsets"][1] - entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("an entry of the header is not complete") from error


def local_tensors(folder: Path) -> list[Tensor] | None:
    """All tensors of the model in `folder`, or None where it holds no safetensors file.

    Raises ModelError for a file that is missing, cannot be read or is no safetensors file.
    """
    names = weight_files(folder)
    if not names:
        return None
    found: list[Tensor] = []
    for name in names:
        found.extend(_read(folder / name))
    return found


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that vLLM would load: the index's, else all in the folder.

    As vllm/model_executor/model_loader/weight_utils.py, filter_duplicate_safetensors_files; `consolidated*` is
    Mistral's own second copy of the same weights.
    """
    index = read_json(folder / "model.safetensors.index.json")
    if index is not None:
        mapped = index.get("weight_map")
        if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
            raise ModelError(
                f"{folder}/model.safetensors.index.json has no weight_map.", "Download the model again."
            )
        names = sorted(set(mapped.values()))
        if any("/" in name or "\0" in name for name in names):
            raise ModelError(
                f"{folder}/model.safetensors.index.json names files outside its folder.",
                "Do not use this copy.",
            )
        return names
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".safetensors"))
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be read ({error.strerror}).", "Ask whoever keeps the folder."
        ) from error
    return [name for name in names if not name.startswith("consolidated")] or names


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is no such file; ModelError for anything else."""
    data = read_any_json(path)
    if data is not None and not isinstance(data, dict):
        raise ModelError(f"{path} does not hold a JSON object.", "Download the model again.")
    return data


def read_any_json(path: Path) -> Any:
    """What the JSON in `path` says, or None where there is no such file; ModelError where it is not JSON."""
    try:
        with _open(path) as file:
            text = file.read(_JSON_MAX + 1)
        if len(text) > _JSON_MAX:
            raise ValueError("too large")
        return json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}).", "Ask whoever keeps the folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON.", "Download the model again.") from error


def _read(path: Path) -> list[Tensor]:
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, HEADER_MAX):
                raise ValueError("the header is longer than the file, or than safetensors allows")
            return tensors_of(json.loads(file.read(length)))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing.", "Download the model again.") from None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}).", "Ask whoever keeps the folder."
        ) from error
    except (ValueError, struct.error, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a safetensors file.", "Download the model again.") from error


def _open(path: Path) -> BinaryIO:
    # Not blocking: a FIFO in a model's folder would hold up whoever looks at it, the portal too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return os.fdopen(descriptor, "rb")

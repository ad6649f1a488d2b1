"""The headers of safetensors files: which tensors a model has, of which type and shape. Never the weights themselves.

Format: 8 bytes little-endian length, then that many bytes of JSON, `{name: {"dtype", "shape", "data_offsets"}}`
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import ModelError
from launcher.models import disk

_HEADER_MAX = 100_000_000  # safetensors' own limit
# A shared folder is read in everybody's listing, and 16 MB of header take 2 s and 200 MB: of a list's models only so
# much is read of one file, and of all files of one model. A mixture of 200 000 tensors has about 25 MB in all.
_LISTED_HEADER, _LISTED_IN_ALL, _IN_ALL = 16_000_000, 32_000_000, 256_000_000
_NAME_MAX = 512  # no tensor has a longer name; patterns and numbers in one need not be proof against more
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

    Raises ValueError for a name, shape or type that cannot be, or where `size` (the header's `data_offsets`) says
    otherwise.
    """
    if len(name) > _NAME_MAX:
        raise ValueError(f"{name[:80]}… is too long for a name")
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


def local_tensors(folder: Path, *, listed: bool = False, until: float | None = None) -> list[Tensor] | None:
    """All tensors of the model in `folder`, or None where it holds no safetensors file.

    With `listed`, for a model that is one of many, less is read. Raises ModelError for a file that is missing, cannot
    be read, is no safetensors file or has too much of a header, TimeoutError at `until` (monotonic seconds).
    """
    names = weight_files(folder)
    if not names:
        return None
    found: list[Tensor] = []
    left = _LISTED_IN_ALL if listed else _IN_ALL
    for name in names:
        if until is not None and time.monotonic() > until:
            raise TimeoutError(f"{folder} was not read to its end")
        header, size = _read(folder / name, min(left, _LISTED_HEADER) if listed else left)
        left -= size
        found.extend(header)
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
        return disk.read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}).", "Ask whoever keeps the folder."
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON.", "Download the model again.") from error


def read_header(file: BinaryIO, most: int = _HEADER_MAX) -> tuple[dict[str, Any], int]:
    """The header at the start of `file`, and where the tensors begin; raises ValueError where it is none.

    Raises TooLargeError for one of more than `most` bytes.
    """
    start = file.read(8)
    if len(start) < 8:
        raise ValueError("the file ends in the length of the header")
    (length,) = struct.unpack("<Q", start)
    if length > min(os.fstat(file.fileno()).st_size, _HEADER_MAX):
        raise ValueError("the header is longer than the file, or than safetensors allows")
    if length > most:
        raise disk.TooLargeError(f"the header has {length} bytes")
    try:
        header = json.loads(file.read(length))
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    return header, 8 + length


def file_bytes(header: Mapping[str, Any], begin: int) -> int:
    """How long the file with this header must be, whose tensors begin at `begin`; raises ValueError."""
    return begin + max((_end(entry) for name, entry in header.items() if name != "__metadata__"), default=0)


def _end(entry: Any) -> int:
    try:
        begin, end = entry["data_offsets"]
    except (LookupError, TypeError) as error:
        raise ValueError("an entry of the header has no offsets") from error
    if not (type(begin) is type(end) is int and 0 <= begin <= end):
        raise ValueError("offsets are not whole numbers in order")
    return int(end)


def _read(path: Path, most: int) -> tuple[list[Tensor], int]:
    try:
        with disk.open_file(path) as file:
            here = os.fstat(file.fileno()).st_size
            header, begin = read_header(file, most)
        found, whole = tensors_of(header), file_bytes(header, begin)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing.", "Download the model again.") from None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}).", "Ask whoever keeps the folder."
        ) from error
    except disk.TooLargeError as error:
        raise ModelError(
            f"{path} describes far more tensors than any model has.", "Do not use it."
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not a safetensors file.", "Download the model again.") from error
    if here < whole:
        raise ModelError(
            f"{path} is incomplete: it has {disk.part(here, whole)}.", "Download the model again."
        )
    return found, begin

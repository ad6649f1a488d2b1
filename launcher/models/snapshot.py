"""One model's files on disk: are they all there, whole, and of a kind that cannot run code.

Reads file names, the index and the safetensors headers; never the weights themselves.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import ModelError

_INDEX = "model.safetensors.index.json"
_JSON_MAX = 64_000_000
_HEADER_MAX = 100_000_000  # safetensors' own limit
_PICKLES = ("*.bin", "*.pt", "*.pth")
_DOWNLOAD_AGAIN = "Download the model again, or ask whoever keeps the folder."


def check_snapshot(folder: Path, model: str, *, pickle_weights: bool = False) -> None:
    """Raise ModelError when `folder` does not hold a complete model in safetensors format.

    A file that is shorter than its own header says is a broken copy (header: 8 bytes little-endian length, then
    JSON with `data_offsets`, https://github.com/huggingface/safetensors#format).
    """
    config = folder / "config.json"
    if not os.path.isfile(config):
        raise ModelError(
            f'Model "{model}": {folder} has no config.json.', "Give the folder that holds the weights."
        )
    _read_json(config, model)
    names = _weight_files(folder, model)
    if not names:
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            if pickle_weights:
                return
            raise ModelError(
                f'Model "{model}": {folder} has only pickle weights, which can run code when they are loaded.',
                "Use a safetensors copy of the model.",
            )
        raise ModelError(f'Model "{model}": {folder} has no weights (*.safetensors).', _DOWNLOAD_AGAIN)
    for name in names:
        _check_weights(folder / name, model)


def near_complete(folder: Path) -> bool:
    """Whether `folder` looks like a model at all; a cheap test for listings."""
    return os.path.isfile(folder / "config.json")  # no error where somebody else's folder is closed


def _weight_files(folder: Path, model: str) -> list[str]:
    index = folder / _INDEX
    if not index.exists():
        return sorted(path.name for path in folder.glob("*.safetensors"))
    weight_map = _read_json(index, model).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f'Model "{model}": {index} has no weight_map.', _DOWNLOAD_AGAIN)
    names = sorted(set(weight_map.values()))
    if any("/" in name or "\0" in name for name in names):
        raise ModelError(f'Model "{model}": {index} names files outside its folder.', _DOWNLOAD_AGAIN)
    return names


def _check_weights(path: Path, model: str) -> None:
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _HEADER_MAX):
                raise ValueError("the header is longer than the file, or than safetensors allows")
            header: dict[str, Any] = json.loads(file.read(length))
        end = max((_end(entry) for name, entry in header.items() if name != "__metadata__"), default=0)
    except FileNotFoundError:
        raise ModelError(f'Model "{model}" is incomplete: {path} is missing.', _DOWNLOAD_AGAIN) from None
    except OSError as error:
        raise ModelError(
            f'Model "{model}": {path} cannot be read ({error.strerror}).', _DOWNLOAD_AGAIN
        ) from error
    except (ValueError, struct.error, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f'Model "{model}": {path} is not a safetensors file.', _DOWNLOAD_AGAIN) from error
    if size < 8 + length + end:
        raise ModelError(
            f'Model "{model}" is incomplete: {path} has {size} of {8 + length + end} bytes.', _DOWNLOAD_AGAIN
        )


def _read_json(path: Path, model: str) -> dict[str, Any]:
    try:
        with _open(path) as file:
            text = file.read(_JSON_MAX + 1)
        if len(text) > _JSON_MAX:
            raise ValueError("too large")
        data = json.loads(text)
    except OSError as error:
        raise ModelError(
            f'Model "{model}": {path} cannot be read ({error.strerror}).', _DOWNLOAD_AGAIN
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f'Model "{model}": {path} is not JSON.', _DOWNLOAD_AGAIN) from error
    if not isinstance(data, dict):
        raise ModelError(f'Model "{model}": {path} does not hold a JSON object.', _DOWNLOAD_AGAIN)
    return data


def _open(path: Path) -> BinaryIO:
    # Not blocking: a FIFO in a model's folder would hold up whoever looks at it, the portal too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    return os.fdopen(descriptor, "rb")


def _end(entry: Any) -> int:
    begin, end = entry["data_offsets"]
    if not (type(begin) is type(end) is int and 0 <= begin <= end):
        raise ValueError("offsets are not whole numbers in order")
    return int(end)

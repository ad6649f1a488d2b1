"""CTranslate2's `model.bin`: which model it holds, its variables, and where it must end. Never the weights.

Format: ctranslate2/specs/model_spec.py, ModelSpec._serialize (binary versions 4 to 6; the names of variables since 4).
Owns also which other files a Whisper model needs so that faster-whisper goes to no hub (faster_whisper/transcribe.py,
WhisperModel.__init__).
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launcher.models.disk import open_file
from launcher.models.inspect.header import Tensor, tensor

FILE, WHISPER = "model.bin", "WhisperSpec"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
TOKENIZER, FEATURES = "tokenizer.json", "preprocessor_config.json"
_VERSIONS = range(4, 7)
_VARIABLES_MAX = 100_000
_TYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")  # ctranslate2/types.h, DataType
_USUAL_MELS = 80  # faster_whisper/feature_extractor.py; large-v3 and what came of it have 128


@dataclass(frozen=True, slots=True)
class Binary:
    """What a `model.bin` says of itself: the specification `spec` (`WhisperSpec`), and of which `version` it is.

    `variables` are None for a version that is not known here. `bytes` is how long the file must at least be, and
    `here` how long it is.
    """

    spec: str
    version: int
    variables: tuple[Tensor, ...] | None
    bytes: int
    here: int

    @property
    def mels(self) -> int:
        """How many bands its first layer hears; 0 where it has none."""
        shape = self.shape("encoder/conv1/weight")
        return shape[1] if len(shape) == 3 else 0

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the variable `name`; empty for a single number, and where there is none."""
        return next((one.shape for one in self.variables or () if one.name == name), ())

    def layers(self, of: str) -> int:
        """How many layers the `encoder` or the `decoder` has."""
        begin = f"{of}/layer_"
        names = (one.name for one in self.variables or ())
        return len({name.split("/", 2)[1] for name in names if name.startswith(begin)})


def read_spec(file: BinaryIO) -> tuple[int, str]:
    """The version and the specification at the start of `file`; raises ValueError where it is none."""
    try:
        version, length = struct.unpack("<IH", file.read(6))
    except struct.error as error:
        raise ValueError("the file is too short") from error
    name = file.read(length) if 0 < version < 100 and 1 < length <= 100 else b""
    text = name.rstrip(b"\0").decode("ascii", "replace")
    if not (name.endswith(b"\0") and text.isidentifier()):
        raise ValueError("the file does not begin as CTranslate2's")
    return version, text


def read_binary(file: BinaryIO, *, until: float | None = None) -> Binary:
    """What the `model.bin` that is open as `file` says; raises ValueError where it is none.

    A file that was broken off has the variables that are there, and more `bytes` than the file. Raises TimeoutError at
    `until` (monotonic seconds).
    """
    here = os.fstat(file.fileno()).st_size
    version, spec = read_spec(file)
    if version not in _VERSIONS:
        return Binary(spec, version, None, here, here)
    found: list[Tensor] = []
    try:
        _revision, count = struct.unpack("<II", file.read(8))
        if count > _VARIABLES_MAX:
            raise ValueError("it has more variables than any model")
        for _ in range(count):
            if until is not None and time.monotonic() > until:
                raise TimeoutError("the model was not read to its end")
            one = _variable(file)
            found.append(one)
            if file.seek(one.bytes, os.SEEK_CUR) > here:
                return Binary(spec, version, tuple(found), file.tell(), here)
        (aliases,) = struct.unpack("<I", file.read(4))
        if aliases > _VARIABLES_MAX:
            raise ValueError("it has more variables than any model")
        for _ in range(2 * aliases):
            _text(file)
    except struct.error:  # it ends within a name or a number
        return Binary(spec, version, tuple(found), here + 1, here)
    return Binary(spec, version, tuple(found), file.tell(), here)


def spec_in(folder: Path) -> str | None:
    """The specification of the model in `folder`; None where its model.bin is something else, perhaps a pickle."""
    with open_file(folder / FILE) as file:
        try:
            return read_spec(file)[1]
        except ValueError:
            return None


def binary_in(folder: Path, *, until: float | None = None) -> Binary:
    """`read_binary` of the model in `folder`; raises OSError too."""
    with open_file(folder / FILE) as file:
        return read_binary(file, until=until)


def missing_beside(names: Collection[str], mels: int) -> str | None:
    """The file that a Whisper model with these `names` lacks; None where it is whole.

    Without its tokenizer faster-whisper would ask the hub for another, and without its features' description it would
    compute 80 bands for a model that hears 128.
    """
    if not any(name in names for name in VOCABULARIES):
        return VOCABULARIES[0]
    if TOKENIZER not in names:
        return TOKENIZER
    return FEATURES if mels not in (0, _USUAL_MELS) and FEATURES not in names else None


def stored_as(variables: Sequence[Tensor]) -> str:
    """The type of most of the weights: float32, float16, bfloat16, int16 or int8."""
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I16": "int16", "I8": "int8"}
    amounts = dict.fromkeys(names, 0)
    for one in variables:
        if one.dtype in amounts:
            amounts[one.dtype] += one.elements
    return names[max(amounts, key=lambda dtype: amounts[dtype])]


def parameters(variables: Sequence[Tensor]) -> int:
    """How many weights there are; the scales of 8-bit ones and single numbers are none."""
    return sum(math.prod(v.shape) for v in variables if v.shape and not v.name.endswith("_scale"))


def _variable(file: BinaryIO) -> Tensor:
    name = _text(file)
    (rank,) = struct.unpack("<B", file.read(1))
    shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
    kind, size = struct.unpack("<BI", file.read(5))
    if kind >= len(_TYPES):
        raise ValueError("a variable has an unknown type")
    made = tensor(name, _TYPES[kind], shape)
    if made.bytes % 2**32 != size:
        raise ValueError(f"{made.name[:80]} does not have the bytes of its shape")
    return made


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<H", file.read(2))
    text = file.read(length)
    if len(text) != length:
        raise struct.error
    return text.rstrip(b"\0").decode("utf-8", "replace")

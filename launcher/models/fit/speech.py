"""Does a Whisper model fit on a piece of hardware: its weights, what CTranslate2 needs beside them, one stretch.

The formula follows what is allocated for a stretch of 30 s; tests/unit/test_fit_speech.py compares it with the memory
that faster-whisper's README reports. Everything else of a fit (contexts, splits over GPUs) is no matter here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.models.fit.arithmetic import size, whole
from launcher.models.fit.gpus import Gpu
from launcher.models.fit.hardware import Hardware
from launcher.models.fit.remedies import Remedy
from launcher.models.fit.reserve import GB
from launcher.models.fit.verdict import DOES_NOT_FIT, FITS, FITS_IF, UNKNOWN, Fit
from launcher.models.inspect.facts import Facts

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1}
_CUDA = int(0.6 * GB)  # the context, cuBLAS and its workspace
_PROCESS = int(0.6 * GB)  # Python with CTranslate2 and PyAV, and the audio of a few requests
# Whisper hears 30 s as so many positions, and writes at most so many tokens of it (openai/whisper, audio.py, model.py).
_POSITIONS, _TOKENS = 1500, 448
_BEAM = 5  # faster-whisper's own
# Where CTranslate2 finds a GPU quick enough at them (docs, quantization).
_HALF_FROM, _EIGHT_BITS_FROM = 7.0, 6.1
_SMALLER = "int8"
_OPEN = (None, "auto", "default")


@dataclass(frozen=True, slots=True)
class Sum:
    """Bytes of weights, of one stretch in flight and of what is there anyway, where it computes in `compute_type`."""

    compute_type: str
    weights_bytes: int
    stretch_bytes: int
    other_bytes: int
    stretches: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.other_bytes + self.stretches * self.stretch_bytes


def fit_speech(facts: Facts, hardware: Hardware, engine_args: Sequence[str] = ()) -> Fit:
    """Whether the Whisper model runs with one stretch at a time at least, or with as many as --batch-size asks for."""
    if facts.parameters <= 0:
        return Fit(
            UNKNOWN, gpus=hardware.gpus, reasons=("The size of this model is not known.",), starts=True
        )
    on_gpu = hardware.gpus > 0 and _value(engine_args, "--device") != "cpu"
    memory = hardware.gpu.memory_gb if on_gpu and hardware.gpu else None if on_gpu else hardware.memory_gb
    if memory is None:
        key = "much memory its GPUs have (gpu_memory_gb)" if on_gpu else "much memory it has (memory_gb)"
        reason = f'Profile "{hardware.name}" does not say how {key}.'
        return Fit(UNKNOWN, gpus=hardware.gpus, reasons=(reason,), starts=True)
    gpu = hardware.gpu if on_gpu else None
    asked = _value(engine_args, "--compute-type")
    added = total(facts, gpu, asked, _value(engine_args, "--batch-size"))
    holds = added.bytes <= memory * GB
    remedies = () if holds else tuple(_remedies(facts, gpu, added, memory, asked))
    kind = "GPU memory" if gpu else "memory"
    needs = added.bytes / GB
    reason = f"About {whole(needs)} GB of {kind} are needed; there are {whole(memory)} GB."
    idle = hardware.gpus - 1
    others = f"the other {idle} stay idle" if idle > 1 else "the other stays idle"
    return Fit(
        FITS if holds else FITS_IF if remedies else DOES_NOT_FIT,
        gpus=hardware.gpus,
        arithmetic=_lines(added, memory, kind),
        reasons=() if holds else (reason,),
        remedies=remedies,
        starts=holds,
        needs_gb=needs,
        has_gb=memory,
        memory_short=not holds,
        notes=(f"A Whisper session uses one GPU; {others}.",) if idle > 0 else (),
    )


def total(facts: Facts, gpu: Gpu | None, compute_type: str | None, batch_size: str | None) -> Sum:
    """The sum on `gpu`, or on a processor."""
    if compute_type in _OPEN:
        compute_type = _usual(gpu)
    assert compute_type is not None
    weights, _, between = compute_type.partition("_")
    # What lies between the layers is in float16 at the least; of 8 bits are only the weights.
    item = _ITEM_BYTES.get(between or weights, 4)
    number = 2 if gpu and item <= 2 else 4
    scores = facts.heads * _POSITIONS**2
    encoder = 8 * _POSITIONS * facts.hidden
    heard = 2 * facts.layers * _POSITIONS * facts.hidden
    written = 2 * facts.layers * _TOKENS * facts.hidden * _BEAM
    return Sum(
        compute_type,
        facts.parameters * _ITEM_BYTES.get(weights, 4),
        (scores + encoder + heard + written) * number,
        _CUDA if gpu else _PROCESS,
        int(batch_size) if batch_size and batch_size.isdigit() else 1,
    )


def _remedies(
    facts: Facts, gpu: Gpu | None, added: Sum, memory_gb: float, asked: str | None
) -> Iterator[Remedy]:
    room = memory_gb * GB - added.weights_bytes - added.other_bytes
    fewer = int(room // added.stretch_bytes)
    if 1 <= fewer < added.stretches:
        yield Remedy(
            f"at most {fewer} stretches at once (--batch-size {fewer})", {}, ("--batch-size", str(fewer))
        )
    smaller = total(facts, gpu, _SMALLER, str(added.stretches))
    if asked in _OPEN and smaller.bytes < min(added.bytes, memory_gb * GB):
        text = f"{_SMALLER} instead of {added.compute_type} (--compute-type {_SMALLER})"
        yield Remedy(text, {}, ("--compute-type", _SMALLER))


def _value(args: Sequence[str], option: str) -> str | None:
    """What the last `option` in `args` says; its spelling was checked (launcher.engines.whisper_arguments)."""
    found = None
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else (*args[place + 1 : place + 2], None)[0]
    return found


def _usual(gpu: Gpu | None) -> str:
    # As launcher.whisper takes it where nobody says: 8 bits on a processor, halves on a GPU that has them.
    if gpu is None:
        return "int8"
    if gpu.capability is None or gpu.capability >= _HALF_FROM:
        return "float16"
    return "int8_float32" if gpu.capability >= _EIGHT_BITS_FROM else "float32"


def _lines(added: Sum, memory_gb: float, kind: str) -> tuple[str, ...]:
    many = f" × {added.stretches}" if added.stretches > 1 else ""
    return (
        f"weights in {added.compute_type} {size(added.weights_bytes)}",
        f"one stretch of 30 s at a time about {size(added.stretch_bytes)}{many}; more at once make it faster",
        f"the program and its libraries about {size(added.other_bytes)}",
        f"together {size(added.bytes)} of {size(int(memory_gb * GB))} of {kind}",
    )

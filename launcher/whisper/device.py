"""What the machine offers the model: device, type of numbers, threads, batches.

Owns the choice where the options leave it open: cores and memory from the allocation, numbers from what CTranslate2
can do here, the size of a batch from the memory that is free.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ctranslate2

from launcher.errors import EngineError
from launcher.models.fit.gpus import Gpu
from launcher.models.fit.speech import total
from launcher.models.inspect.facts import Facts, facts
from launcher.whisper.server import Server
from launcher.whisper.threads import measured, splits

# int8 halves the time on a processor and costs nothing that word error rates show (faster-whisper's README); there
# its sums are exact, too: what is heard in a stretch is the same to the last bit in any batch, on any threads.
_PREFERRED = {"cpu": ("int8", "float32"), "cuda": ("float16", "int8_float32", "float32")}
_MOST_ON_GPU = 32  # beyond, a batch only takes longer
_USUAL_ON_GPU = 8  # BatchedInferencePipeline's own, where nobody says how much memory there is
_MOST_ON_CPU = 4  # decoding four takes half the time of one after the other; eight are no faster
_USED = 0.85  # of the memory that is free
_NVIDIA_SMI_S = 20


@dataclass(frozen=True, slots=True)
class Device:
    """Where and how the model runs: `parallel` batches at once, each of `batch_size` stretches on `threads` threads."""

    name: str
    compute_type: str
    threads: int
    parallel: int
    batch_size: int


def choose(server: Server, folder: Path) -> Device:
    """The device for the model in `folder`, as the options say and, where they do not, as the machine allows.

    Raises EngineError for what the machine does not have.
    """
    gpus = ctranslate2.get_cuda_device_count()
    name = server.device if server.device != "auto" else "cuda" if gpus else "cpu"
    if name == "cuda" and not gpus:
        raise EngineError(
            "--device cuda: CTranslate2 finds no GPU here.", "Choose a profile with a GPU, or cpu."
        )
    can = ctranslate2.get_supported_compute_types(name)
    compute_type = server.compute_type
    if compute_type == "default":
        compute_type = next((kind for kind in _PREFERRED[name] if kind in can), "default")
    elif compute_type not in (*can, "auto"):
        raise EngineError(
            f"--compute-type {compute_type}: this {name} cannot compute so.",
            f"Choose one of {', '.join(sorted(can))}.",
        )
    model = facts(folder)
    if name == "cuda":
        size = server.batch_size or _fitting(
            model, compute_type, Gpu("", 0, None), _free_gpu(), _USUAL_ON_GPU
        )
        return Device(
            name, compute_type, 1, server.parallel or 1, min(size, server.batch_size or _MOST_ON_GPU)
        )
    room = _fitting(model, compute_type, None, _free(), _MOST_ON_CPU)
    threads, parallel = _split(server, folder, model, compute_type, room)
    size = server.batch_size or max(1, min(_MOST_ON_CPU, room // parallel))
    return Device(name, compute_type, threads, parallel, size)


def cores() -> int:
    """How many processor cores are ours: by the affinity that Slurm sets, and by the quotas of our control groups."""
    count = len(os.sched_getaffinity(0))
    for limit in _limits("cpu.max"):
        with suppress(ValueError):
            quota, period = limit.split()
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def _split(server: Server, folder: Path, model: Facts, compute_type: str, room: int) -> tuple[int, int]:
    count = cores()
    if server.threads or server.parallel:
        threads = server.threads or max(1, count // server.parallel)
        return threads, server.parallel or max(1, count // threads)
    tried = splits(count, room)
    if len(tried) == 1:
        return tried[0]
    return measured(folder, model.parameters, compute_type, tried, server.cache)


def _fitting(model: Facts, compute_type: str, gpu: Gpu | None, free: int | None, usual: int) -> int:
    """How many stretches at once the free memory holds, beside the model."""
    if free is None:
        return usual
    needs = total(model, gpu, compute_type, None)
    rest = free * _USED - needs.weights_bytes - needs.other_bytes
    return max(1, int(rest // max(1, needs.stretch_bytes)))


def _free() -> int | None:
    """Bytes of main memory that are left to us."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    for limit in _limits("memory.max"):
        with suppress(ValueError):
            found.append(int(limit))
    return min(found, default=None)


def _free_gpu() -> int | None:
    """Bytes of memory that are free on our GPU."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        argv = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_S).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.strip()]
        ours = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        row = next((row for row in rows if ours and (row[0] == ours or row[1].startswith(ours))), rows[0])
        return int(row[2]) << 20
    return None


def _limits(name: str) -> Iterator[str]:
    """What our control group and those around it say of one limit (cgroup v2; none in v1)."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = Path("/sys/fs/cgroup", line[3:].lstrip("/"))
                for folder in (group, *group.parents):
                    if folder.is_relative_to("/sys/fs/cgroup"):
                        with suppress(OSError):
                            yield (folder / name).read_text().strip()

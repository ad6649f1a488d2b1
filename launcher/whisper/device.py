"""What the machine offers the model: device, type of numbers, threads, batches.

Owns the choice where the options leave it open: cores from the allocation, numbers from what CTranslate2 can do here,
the size of a batch from the memory of the GPU.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ctranslate2

from launcher.whisper.server import Server


@dataclass(frozen=True, slots=True)
class Device:
    """Where and how the model runs: `parallel` batches at once, each of `batch_size` stretches on `threads` threads."""

    name: str
    compute_type: str
    threads: int
    parallel: int
    batch_size: int


def choose(server: Server, model: Path) -> Device:
    """The device for a model, as the options say and, where they do not, as the machine allows."""
    name = server.device
    if name == "auto":
        name = "cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"
    compute_type = server.compute_type
    if compute_type == "default":
        can = ctranslate2.get_supported_compute_types(name)
        compute_type = next((kind for kind in _PREFERRED[name] if kind in can), "default")
    if name == "cuda":
        return Device(name, compute_type, 1, server.parallel or 1, server.batch_size or 16)
    count = cores()
    parallel = server.parallel or max(1, count // (server.threads or 1))
    threads = server.threads or max(1, count // parallel)
    return Device(name, compute_type, threads, parallel, server.batch_size or 4)


# int8 halves the time on a processor and loses nothing that word error rates show (faster-whisper's README).
_PREFERRED = {"cpu": ("int8", "float32"), "cuda": ("float16", "bfloat16", "int8_float32", "float32")}


def cores() -> int:
    """How many processor cores are ours: by the affinity that Slurm sets, and by the quota of our control group."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split()
        count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count

"""How the cores of a processor are split into batches at once and threads of each: by a short measurement.

Owns the measurement and where its result is kept. Which split is best depends on the model and the machine: small
models gain nothing from more threads, and many batches at once may wait for memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import ctranslate2
import numpy as np

log = logging.getLogger(__name__)

Split = tuple[int, int]  # threads of a batch, batches at once

_BUDGET_S = 5.0
_AS_GOOD = 0.9  # within so much of the best, the one with more threads is taken: a clip alone is heard sooner
_FRAMES, _LEAST_FRAMES = 3000, 200
_ONE_S = 0.6  # how long one measured piece should take at most
_PER_S = 4e10  # operations of int8 that one core does in a second, roughly; only says how much is measured
_TOKENS = 24


def splits(cores: int, most_parallel: int) -> list[Split]:
    """The splits worth a try, the one with most batches at once first."""
    found = []
    threads = 1
    while threads < cores:
        found.append((threads, cores // threads))
        threads *= 2
    found.append((cores, 1))
    return [split for split in found if split[1] <= most_parallel] or [(cores, 1)]


def measured(
    folder: Path, parameters: int, compute_type: str, tried: Sequence[Split], cache: Path | None
) -> Split:
    """The best of `tried` for the model in `folder`, as kept in `cache`, or as measured in about five seconds."""
    kept = None if cache is None else cache / f"whisper-threads-{_key(folder, compute_type, tried)}.json"
    if kept is not None and (known := _kept(kept)) is not None and known in tried:
        return known
    log.info("Measuring threads")
    speeds: dict[Split, float] = {}
    began = time.monotonic()
    for split in tried:
        speeds[split] = _speed(folder, parameters, compute_type, split)
        log.info(
            "%d batches at once of %d threads: %.3g stretches a second", split[1], split[0], speeds[split]
        )
        spent = time.monotonic() - began
        if spent + spent / len(speeds) > _BUDGET_S:
            break
    good = [split for split, speed in speeds.items() if speed >= _AS_GOOD * max(speeds.values())]
    best = max(good)
    if kept is not None:
        with suppress(OSError):  # only a convenience
            _keep(kept, best)
    return best


def _speed(folder: Path, parameters: int, compute_type: str, split: Split) -> float:
    """Stretches a second, all batches at once, on noise; of large models only a part of a stretch is heard."""
    threads, parallel = split
    model = ctranslate2.models.Whisper(
        str(folder), compute_type=compute_type, intra_threads=threads, inter_threads=parallel
    )
    # Half of the parameters are the encoder's; it is applied to each of 1500 positions.
    whole_s = parameters / 2 * 1500 * 2 / _PER_S
    frames = max(_LEAST_FRAMES, int(_FRAMES * min(1.0, _ONE_S / whole_s))) // 2 * 2
    noise = np.random.default_rng(0).standard_normal((1, model.n_mels, frames), dtype=np.float32)
    start = ["<|startoftranscript|>", *(["<|en|>", "<|transcribe|>"] if model.is_multilingual else [])]

    def hear(_: int) -> None:
        features = ctranslate2.StorageView.from_array(noise)
        model.generate(model.encode(features), [[*start, "<|notimestamps|>"]], max_length=2 * _TOKENS)

    took_s = 0.0
    with ThreadPoolExecutor(parallel) as pool:
        for _ in range(2):  # the first of each also makes room in memory
            began = time.monotonic()
            list(pool.map(hear, range(parallel)))
            if (took_s := time.monotonic() - began) > _BUDGET_S / 4:
                break
    return parallel * frames / _FRAMES / took_s


def _key(folder: Path, compute_type: str, tried: Sequence[Split]) -> str:
    weights = (folder / "model.bin").stat()
    with suppress(OSError):
        processor = next(
            (
                line
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            "",
        )
        parts = [weights.st_size, weights.st_mtime_ns, processor, platform.machine(), compute_type, tried]
        return hashlib.sha256(repr([*parts, ctranslate2.__version__]).encode()).hexdigest()[:16]
    return "unknown"


def _kept(path: Path) -> Split | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())
        return int(found["threads"]), int(found["parallel"])
    return None


def _keep(path: Path, split: Split) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"threads": split[0], "parallel": split[1]}))
    new.replace(path)

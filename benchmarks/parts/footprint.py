"""P4: what a way to the engine holds in memory, idle and while a gigabyte passes, and how soon it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.parts.clients import one_by_one, upload
from benchmarks.parts.ways import Way, family, free_port, running

UPLOAD_BYTES = 2**30


@contextlib.contextmanager
def fresh(way: Way) -> Iterator[Way]:
    """Start one more of it and note the seconds until any HTTP answer comes."""
    assert way.argv is not None
    port, begun = free_port(), time.perf_counter()
    with running(way, port) as pid:
        way.starts_s.append(time.perf_counter() - begun)
        yield dataclasses.replace(way, address=port, pid=pid)


def memory(way: Way, upload_bytes: int = UPLOAD_BYTES) -> None:
    """Note the resident memory of a fresh one, once it has served a little, and its peak while the upload passes."""
    with fresh(way) as it:
        assert it.pid is not None
        one_by_one(dataclasses.replace(it, latencies_s=[]), 100)
        upload(it.address, 2**20)
        time.sleep(0.5)
        way.idle_mb = _total_mb(it.pid, "VmRSS")
        for member in family(it.pid):
            Path(f"/proc/{member}/clear_refs").write_text("5")  # proc(5): forget the peak so far
        try:
            upload(it.address, upload_bytes)
        except (RuntimeError, OSError) as error:
            print(f"{way.name}: the upload of {upload_bytes / 2**30:.1f} GiB did not pass: {error}")
            return
        way.peak_mb = _total_mb(it.pid, "VmHWM")


def _total_mb(pid: int, name: str) -> float:
    """The sum over the process and its children; MB are 10^6 bytes."""
    return sum(_kib(member, name) for member in family(pid)) * 1024 / 1e6


def _kib(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

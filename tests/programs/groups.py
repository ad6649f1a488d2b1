"""A memory control group of the kernel, such as Slurm puts a job into; only root can make one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import skip_loudly

_GROUPS = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def memory_group(limit: str) -> Iterator[Path]:
    """The `cgroup.procs` of a new group of version 1; the test is skipped where none can be made."""
    made = _GROUPS / f"launcher-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(limit)
    except OSError as error:
        skip_loudly(f"a memory control group (root, control groups version 1): {error}")
    try:
        yield made / "cgroup.procs"
    finally:
        for _ in range(100):  # it can go once its last process is gone
            with contextlib.suppress(OSError):
                made.rmdir()
                break
            time.sleep(0.1)

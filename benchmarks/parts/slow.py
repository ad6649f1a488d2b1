"""A file system that answers late, as one over a network does: each read of at most 128 KiB takes so many milliseconds.

FUSE over a folder of this disk, read only: `python -m benchmarks.parts.slow FOLDER MOUNT MILLISECONDS`. Needs Debian's
fuse3 and mfusepy from PyPI (benchmarks/slow.txt).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-not-found]


class Slow(mfusepy.Operations):  # type: ignore[misc]
    """Passes reads on to `folder`, `delay_s` later; many at once are no slower than one."""

    use_ns = True

    def __init__(self, folder: Path, delay_s: float) -> None:
        self._folder, self._delay_s = folder, delay_s

    def _path(self, path: str) -> Path:
        return self._folder / path.lstrip("/")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """As lstat(2)."""
        found = os.lstat(self._path(path))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_mtime", "st_ctime", "st_atime")
        return {name: getattr(found, f"{name}_ns" if name.endswith("time") else name) for name in names}

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names there."""
        return [".", "..", *os.listdir(self._path(path))]

    def open(self, path: str, flags: int) -> int:
        """A descriptor of the file behind it."""
        return os.open(self._path(path), os.O_RDONLY)

    def release(self, path: str, fh: int) -> int:
        """Close it."""
        os.close(fh)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """The bytes, late."""
        time.sleep(self._delay_s)
        return os.pread(fh, size, offset)


def main() -> None:
    """Serve until it is unmounted."""
    folder, mount, milliseconds = sys.argv[1:]
    # kernel_cache: what was read stays in memory when a file is opened again, as on Lustre and GPFS.
    mfusepy.FUSE(
        Slow(Path(folder), float(milliseconds) / 1000), mount, foreground=True, ro=True, kernel_cache=True
    )


if __name__ == "__main__":
    main()

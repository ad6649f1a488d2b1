"""How this process keeps its memory: what a layer of the model gave back is taken again by the next.

Owns the settings of glibc's malloc. The model's layers take and free tens of megabytes each. By default each of those
comes from the kernel anew, page by page: a quarter of the processor's time with a small model (measured with
CTranslate2 4.8 on 2 cores; the peak of memory is the same). It helps nothing on a GPU and does no harm there.
"""

from __future__ import annotations

import ctypes

# malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> None:
    """Have freed memory stay with the process; call it before other threads begin. Without glibc, nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # others are made of pieces of 64 MB, too small for what is freed here
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)

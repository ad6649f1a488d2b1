"""Where the links of a snapshot lead: what else a container must see so that the model's files are there in it."""

from __future__ import annotations

import os
from pathlib import Path

_HOPS_MAX = 40  # as the kernel's own limit
# Marks the folder of files that several repositories of a cache share (huggingface_hub/utils/_shared_blobs.py).
_SHARED_BLOBS = ".huggingface-shared-blobs"


def model_root(snapshot: Path) -> Path:
    """The folder that holds the whole model: above snapshots/ and blobs/ in the hub's layout, else `snapshot`."""
    return snapshot.parent.parent if snapshot.parent.name == "snapshots" else snapshot


def reached(snapshot: Path) -> list[Path]:
    """The folders outside of `model_root(snapshot)` into which links of its files lead, sorted.

    In a cache that shares files between repositories this is the shared store itself; in a folder of links made by
    hand, the folders that hold the weights. Every hop of a link counts, none is opened.
    """
    root = model_root(snapshot)
    found: set[Path] = set()
    try:
        with os.scandir(snapshot) as listing:
            links = [entry.path for entry in listing if entry.is_symlink()]
    except OSError:
        return []
    for link in links:
        place = link
        for _ in range(_HOPS_MAX):
            try:
                place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
            except OSError:  # no link any more: the file itself
                break
            folder = Path(place).parent
            if not folder.is_relative_to(root) and os.path.lexists(place):
                found.add(_store(folder))
    return sorted(found)


def _store(folder: Path) -> Path:
    # blobs/ab/<hash>: one folder for all instead of up to 256.
    return folder.parent if os.path.exists(folder.parent / _SHARED_BLOBS) else folder

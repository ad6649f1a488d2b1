"""One look at one entry of a folder of models: which snapshots it holds, how large, and what is plainly missing.

Names, links and sizes only; no file but the refs is opened. Paths are texts here: a folder may have ten thousand.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

from launcher.models.folders import COMMIT, HUB, PLAIN, held_in, id_of, refs_of

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_VOCABULARIES = frozenset(("vocabulary.json", "vocabulary.txt", "source_vocabulary.json"))
_FILES_MAX = 20_000
_DEPTH = 4
_CLOSED = "You may not open its folder."


class Sight(NamedTuple):
    """One snapshot as it was seen; `path` is below the folder, `times` are when what is `watched` was last changed.

    `asked` tells that its facts were read, whose name is `about`. A tuple, and not a dataclass, for the ten thousand.
    """

    entry: str
    times: tuple[int, ...]
    seen_ns: int
    id: str
    commit: str | None
    refs: tuple[str, ...]
    path: str
    layout: str
    bytes: int
    trouble: str | None
    modified_at: float
    asked: bool = False
    about: str = ""

    def watched(self) -> tuple[str, ...]:
        """What changes when the snapshot, or another one in the entry, comes or goes; below the folder."""
        if self.layout == HUB:
            return (f"{self.entry}/snapshots",)
        return (self.entry, self.path) if self.layout == PLAIN else (self.entry,)


def look(folder: Path, entry: str) -> list[Sight]:
    """What the entry `entry` of `folder` holds now."""
    base = f"{folder}/"
    if (model := id_of(entry)) is not None:
        return _repository(base, entry, model)
    seen_ns = time.time_ns()
    sights = []
    for held in held_in(folder, entry):
        path = str(held.path)[len(base) :]
        watched = (entry, path) if held.layout == PLAIN else (entry,)
        # Before the look: what changes during it is then noticed the next time.
        times = tuple(changed_ns(base + watch) for watch in watched)
        size, modified, trouble = _measured(base + path)
        sights.append(
            Sight(entry, times, seen_ns, held.id, None, (), path, held.layout, size, trouble, modified)
        )
    return sights


def changed_ns(path: str) -> int:
    """When `path` was last changed; 0 where that cannot be told."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _repository(base: str, entry: str, model: str) -> list[Sight]:
    # As launcher.models.folders.repository, in a third of the time.
    seen_ns = time.time_ns()
    watch = f"{entry}/snapshots"
    times = (changed_ns(base + watch),)
    try:
        commits = sorted(name for name in os.listdir(base + watch) if COMMIT.fullmatch(name))
    except OSError:
        commits = []
    if not commits:
        size, modified, trouble = _unfinished(base + entry, model)
        return [Sight(entry, times, seen_ns, model, None, (), watch, HUB, size, trouble, modified)]
    refs = _refs(base + entry)
    sights = []
    for commit in commits:
        path = f"{watch}/{commit}"
        size, modified, trouble = _measured(base + path)
        at = tuple(ref for ref, stands in refs.items() if stands == commit)
        sights.append(Sight(entry, times, seen_ns, model, commit, at, path, HUB, size, trouble, modified))
    return sights


def _refs(repository: str) -> dict[str, str]:
    # Nearly every repository has "main" and nothing else.
    try:
        if os.listdir(f"{repository}/refs") == ["main"]:
            descriptor = os.open(f"{repository}/refs/main", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                text = os.read(descriptor, 100).decode("ascii", "replace").strip()
            finally:
                os.close(descriptor)
            return {"main": text} if COMMIT.fullmatch(text) else {}
    except OSError:
        pass
    return refs_of(Path(repository))


def _measured(path: str) -> tuple[int, float, str | None]:
    sizes: dict[str, int] = {}
    counted: set[tuple[int, int]] = set()
    total, modified, missing = 0, 0.0, None
    waiting = [("", 0)]
    while waiting and len(sizes) < _FILES_MAX:
        below, depth = waiting.pop()
        try:
            names = os.listdir(f"{path}/{below}")
        except PermissionError:
            return 0, 0.0, _CLOSED
        except OSError:
            continue
        for name in names:
            try:
                mode, inode, device, _, _, _, size, _, changed, _ = os.stat(f"{path}/{below}{name}")
            except OSError:
                missing = missing or name
                continue
            if stat.S_ISDIR(mode):
                if depth < _DEPTH and not name.startswith("."):
                    waiting.append((f"{below}{name}/", depth + 1))
                continue
            sizes[below + name] = size
            if (device, inode) not in counted:
                counted.add((device, inode))
                total += size
            modified = max(modified, changed)
    return total, modified or changed_ns(path) / 1e9, _trouble(sizes, missing)


def _trouble(sizes: dict[str, int], missing: str | None) -> str | None:
    if missing is not None:
        return f"It is incomplete: {missing} is a link to nothing."
    if "config.json" not in sizes:
        return "It has no config.json."
    weights = [name for name in sizes if name.endswith(".safetensors")]
    if not weights and "model.bin" in sizes and sizes.keys() & _VOCABULARIES:
        return None  # CTranslate2's format, which faster-whisper loads
    if not weights:
        return "It has no weights in safetensors format."
    shards: dict[tuple[str, int], int] = {}
    for name in weights:
        if found := _SHARD.fullmatch(name):
            key = (found["stem"], int(found["count"]))
            shards[key] = shards.get(key, 0) + 1
    for (_, count), here in shards.items():
        if here < count:
            return f"It is incomplete: {here} of {count} files of weights are here."
    return None


def _unfinished(path: str, model: str) -> tuple[int, float, str | None]:
    total, modified = 0, changed_ns(path) / 1e9
    try:
        with os.scandir(f"{path}/blobs") as listing:
            for entry in listing:
                total += entry.stat(follow_symlinks=False).st_size
    except PermissionError:
        return 0, modified, _CLOSED
    except OSError:
        return 0, modified, "There is nothing in its folder."
    return total, modified, f"Its download has not ended. Go on with: launcher models add {model}"

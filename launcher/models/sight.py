"""One look at one entry of a folder of models: which snapshots it holds, how large, and what is plainly missing.

Names, links and sizes only; no file but the refs is opened. Paths are texts here: a folder may have ten thousand.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from launcher.models.folders import (
    COMMIT,
    FLAT,
    HUB,
    PLAIN,
    CrowdedError,
    Pace,
    held_in,
    id_of,
    refs_of,
)
from launcher.models.inspect import ctranslate2
from launcher.models.others import in_words
from launcher.models.snapshot import SHARD

_FILES_MAX = 5000
_COMMITS_MAX = 100
_DEPTH = 4
CROWDED = "There are too many files in its folder."
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


def look(folder: Path, entry: str, until: float | None = None) -> list[Sight]:
    """What the entry `entry` of `folder` holds now; raises TimeoutError at `until` (monotonic seconds)."""
    base, model, pace = f"{folder}/", id_of(entry), Pace(until)
    seen_ns = time.time_ns()
    watch = entry if model is None else f"{entry}/snapshots"
    times = (changed_ns(base + watch),)
    try:
        return _plain(folder, entry, pace) if model is None else _repository(base, entry, model, pace)
    except CrowdedError:
        layout = FLAT if model is None else HUB
        return [
            Sight(entry, times, seen_ns, model or entry, None, (), watch, layout, 0, CROWDED, times[0] / 1e9)
        ]


def _plain(folder: Path, entry: str, pace: Pace) -> list[Sight]:
    base = f"{folder}/"
    seen_ns = time.time_ns()
    sights = []
    for held in held_in(folder, entry, pace):
        path = str(held.path)[len(base) :]
        watched = (entry, path) if held.layout == PLAIN else (entry,)
        # Before the look: what changes during it is then noticed the next time.
        times = tuple(changed_ns(base + watch) for watch in watched)
        size, modified, trouble = _measured(base + path, pace)
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


def _repository(base: str, entry: str, model: str, pace: Pace) -> list[Sight]:
    # As launcher.models.folders.repository, in a third of the time.
    seen_ns = time.time_ns()
    watch = f"{entry}/snapshots"
    times = (changed_ns(base + watch),)
    commits = _commits(base + watch, pace)
    if len(commits) > _COMMITS_MAX:
        raise CrowdedError
    if not commits:
        size, modified, trouble = _unfinished(base + entry, model, pace)
        return [Sight(entry, times, seen_ns, model, None, (), watch, HUB, size, trouble, modified)]
    refs = _refs(base + entry, pace)
    sights = []
    for commit in commits:
        path = f"{watch}/{commit}"
        size, modified, trouble = _measured(base + path, pace)
        at = tuple(ref for ref, stands in refs.items() if stands == commit)
        sights.append(Sight(entry, times, seen_ns, model, commit, at, path, HUB, size, trouble, modified))
    return sights


def _commits(path: str, pace: Pace) -> list[str]:
    # No links: the hub's own client makes none of these, and one would lead to what is somebody else's.
    found: list[str] = []
    if os.path.islink(path):
        return found
    try:
        with os.scandir(path) as listing:
            for entry in listing:
                pace.spend()
                if COMMIT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    found.append(entry.name)
    except TimeoutError:
        raise
    except OSError:
        return []
    return sorted(found)


def _refs(repository: str, pace: Pace) -> dict[str, str]:
    # Nearly every repository has "main" and nothing else.
    try:
        if _names(f"{repository}/refs", pace) == ["main"]:
            descriptor = os.open(f"{repository}/refs/main", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                text = os.read(descriptor, 100).decode("ascii", "replace").strip()
            finally:
                os.close(descriptor)
            return {"main": text} if COMMIT.fullmatch(text) else {}
    except TimeoutError:
        raise
    except OSError:
        pass
    return refs_of(Path(repository))


def _names(path: str, pace: Pace) -> list[str]:
    with os.scandir(path) as listing:
        names = [entry.name for entry in itertools.islice(listing, _FILES_MAX + 1)]
    pace.spend(len(names) + 1)
    return names


def _measured(path: str, pace: Pace) -> tuple[int, float, str | None]:
    sizes: dict[str, int] = {}
    counted: set[tuple[int, int]] = set()
    total, modified, missing = 0, 0.0, None
    waiting = [("", 0)]
    files = 0
    while waiting:
        below, depth = waiting.pop()
        try:
            names = _names(f"{path}/{below}", pace)
        except TimeoutError:
            raise
        except PermissionError:
            return 0, 0.0, _CLOSED
        except OSError:
            continue
        files += len(names)
        if files > _FILES_MAX:
            return total, modified, CROWDED
        for name in names:
            try:
                mode, inode, device, _, _, _, size, _, changed, _ = os.stat(f"{path}/{below}{name}")
            except OSError:
                missing = missing or name
                continue
            if stat.S_ISDIR(mode):
                if (
                    depth < _DEPTH
                    and not name.startswith(".")
                    and not os.path.islink(f"{path}/{below}{name}")
                ):
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
    # An adapter's own weights are no model.
    weights = [
        name for name in sizes if name.endswith(".safetensors") and not name.startswith("adapter_model")
    ]
    if not weights and "config.json" in sizes and _is_ctranslate2(sizes):
        lacks = ctranslate2.missing_beside(sizes, 0)  # whether it is Whisper its facts will tell
        return None if lacks is None else f"It has no {lacks}, which faster-whisper needs."
    if (not weights or "config.json" not in sizes) and (what := in_words(sizes)) is not None:
        return what
    if "config.json" not in sizes:
        return "It has no config.json."
    if not weights:
        return "It has no weights in safetensors format."
    shards: dict[tuple[str, int], int] = {}
    for name in weights:
        if found := SHARD.fullmatch(name):
            key = (found[1], int(found[3]))
            shards[key] = shards.get(key, 0) + 1
    for (_, count), here in shards.items():
        if here < count:
            return f"It is incomplete: {here} of {count} files of weights are here."
    return None


def _is_ctranslate2(sizes: dict[str, int]) -> bool:
    return ctranslate2.FILE in sizes and any(name in sizes for name in ctranslate2.VOCABULARIES)


def _unfinished(path: str, model: str, pace: Pace) -> tuple[int, float, str | None]:
    total, modified = 0, changed_ns(path) / 1e9
    try:
        with os.scandir(f"{path}/blobs") as listing:
            for entry in listing:
                pace.spend()
                total += entry.stat(follow_symlinks=False).st_size
    except TimeoutError:
        raise
    except PermissionError:
        return 0, modified, _CLOSED
    except OSError:
        return 0, modified, "There is nothing in its folder."
    return total, modified, f"Its download has not ended. Go on with: launcher models add {model}"

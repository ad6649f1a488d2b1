"""What a folder of models holds, told from names and links alone.

Owns the three layouts: the Hugging Face cache's (`models--org--name/snapshots/<commit>`, with branches and tags under
`refs/`), plain folders `org/name`, and flat folders `name` (vec-inf's `$FAMILY-$VARIANT` is such a name: the last part
of the id). Opens no file but the refs; whether a snapshot is whole is `launcher.models.snapshot`'s business.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.models.disk import open_file
from launcher.settings.schema import Settings

HUB, PLAIN, FLAT = "hub", "plain", "flat"
COMMIT = re.compile(r"[0-9a-f]{40}")
BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_PREFIX = "models--"
# The hub's own store of files that several repositories share (huggingface_hub/utils/_shared_blobs.py).
_SHARED_BLOBS = "blobs"
# What tells a model's folder from an organisation's that holds models.
_MARKS = frozenset(("config.json", "adapter_config.json", "params.json", "modules.json", "model_index.json"))
_WEIGHTS = (".safetensors", ".gguf", ".bin")
# A folder may be anything that a user or a stranger put there; no listing of it may take for ever.
_ENTRIES_MAX = 20_000
_COMMITS_MAX = 100
_REFS_MAX = 1000
_REFS_DEPTH = 4  # refs/refs/pr/1 is a pull request's


class CrowdedError(Exception):
    """A folder holds more names than models have files."""


class Pace:
    """What looking at one entry may cost, whoever filled it: so many names, and no longer than `until` (monotonic)."""

    def __init__(self, until: float | None = None) -> None:
        self._left, self._until = _ENTRIES_MAX, until

    def spend(self, names: int = 1) -> None:
        """Count so many names; raises CrowdedError after the last one, and TimeoutError at the end of the time."""
        self._left -= names
        if self._left < 0:
            raise CrowdedError
        if self._until is not None and time.monotonic() >= self._until:
            raise TimeoutError


@dataclass(frozen=True, slots=True)
class Held:
    """One snapshot that a folder of models holds, whole or not.

    `commit` is None where the layout knows no revisions, and for a repository of the hub's layout without any
    snapshot or closed to this user (`path` is then its `snapshots` folder); `refs` are branches and tags at `commit`.
    """

    id: str
    commit: str | None
    refs: tuple[str, ...]
    path: Path
    folder: Path
    layout: str


def folders_of(settings: Settings) -> list[Path]:
    """The folders that are searched for models, in order: the site's shared ones, then the user's cache."""
    named = (os.path.expanduser(name) for name in (*settings.models.folders, settings.models.cache))
    return [Path(name) for name in dict.fromkeys(named)]


def held(folder: Path) -> Iterator[Held]:
    """Every snapshot in `folder`, by name: one listing of it and one or two for each entry; nothing when closed."""
    for name in entries(folder):
        with contextlib.suppress(CrowdedError):
            yield from held_in(folder, name)


def ids(folder: Path) -> Iterator[str]:
    """The id or name of every model in `folder`; quicker than `held`, which also reads commits and refs."""
    for name in entries(folder):
        hub_id = id_of(name)
        if hub_id is None:
            with contextlib.suppress(CrowdedError):
                yield from (copy.id for copy in held_in(folder, name))
        else:
            yield hub_id


def entries(folder: Path) -> list[str]:
    """The names in `folder` that may hold models, sorted: one listing, no entry is opened."""
    named = _listed(folder, believed=_believed(folder))
    return sorted(name for name, is_folder in named if is_folder and _may_hold(name))


def held_in(folder: Path, name: str, pace: Pace | None = None) -> list[Held]:
    """What the entry `name` of `folder` holds: a repository's snapshots, one model, or an organisation's models.

    Raises what `pace` does.
    """
    path, pace = folder / name, pace or Pace()
    if (hub_id := id_of(name)) is not None:
        return repository(path, hub_id, folder)
    inside = list(_listed(path, believed=_believed(folder), pace=pace))
    if is_model(name for name, _ in inside):
        return [Held(name, None, (), path, folder, FLAT)]
    parts = sorted(part for part, is_folder in inside if is_folder and not part.startswith((".", _PREFIX)))
    return [
        Held(f"{name}/{part}", None, (), path / part, folder, PLAIN)
        for part in parts
        if is_model(file for file, _ in _listed(path / part, pace=pace))
    ]


def find(folder: Path, model: str) -> list[Held]:
    """The snapshots in `folder` of the id or name `model`, without listing `folder`: hub, plain and flat layout.

    A folder that this user may not open counts as one that holds the model.
    """
    found = repository(folder / entry_of(model), model, folder)
    name = model.rpartition("/")[2]
    ways = [(model, PLAIN if name != model else FLAT)] + ([(name, FLAT)] if name != model else [])
    for relative, layout in ways:
        path = folder / relative
        if _is_closed(path) or is_model(file for file, _ in _listed(path)):
            found.append(Held(model, None, (), path, folder, layout))
    return found


def repository(path: Path, model: str, folder: Path) -> list[Held]:
    """The snapshots of one repository `models--org--name` in the hub's layout; empty where there is none."""
    snapshots = path / "snapshots"
    # The hub's own client makes no links of these: one would lead to what is somebody else's.
    named = () if os.path.islink(snapshots) else _listed(snapshots, follow=False)
    commits = sorted(name for name, is_folder in named if is_folder and COMMIT.fullmatch(name))
    if commits := commits[:_COMMITS_MAX]:
        refs = refs_of(path)
        return [
            Held(model, commit, tuple(r for r, at in refs.items() if at == commit), snapshots / commit, folder, HUB)
            for commit in commits
        ]  # fmt: skip
    return [Held(model, None, (), snapshots, folder, HUB)] if os.path.isdir(path) else []


def refs_of(path: Path) -> dict[str, str]:
    """The branches and tags of the repository at `path` (hub's layout) and the commits that they stand at."""
    found: dict[str, str] = {}
    waiting = [("", 0)]
    seen = 0
    while waiting and seen < _REFS_MAX:
        below, depth = waiting.pop()
        for name, is_folder in _listed(path / "refs" / below, follow=False):
            seen += 1
            if seen > _REFS_MAX:
                break
            ref = f"{below}/{name}" if below else name
            if is_folder and depth < _REFS_DEPTH:
                waiting.append((ref, depth + 1))
            elif not is_folder and (commit := ref_at(path, ref)) is not None:
                found[ref] = commit
    return dict(sorted(found.items()))


def ref_at(path: Path, ref: str) -> str | None:
    """The commit at which the branch or tag `ref` stands in the repository at `path`; None when it does not say."""
    try:
        with open_file(path / "refs" / ref) as file:
            text = file.read(100).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def id_of(name: str) -> str | None:
    """The id that the hub's cache keeps under the entry `name`, or None for any other entry."""
    # The hub allows no "--" in an id, so the first one is the slash.
    return name.removeprefix(_PREFIX).replace("--", "/", 1) if name.startswith(_PREFIX) else None


def entry_of(model: str) -> str:
    """The entry under which the hub's cache keeps the id `model`."""
    return _PREFIX + model.replace("/", "--")


def hash_of(blob: str, size: int) -> hashlib._Hash:
    """The hash, still of nothing, that gives the `blob` of `size` bytes its name: sha256 (LFS), or git's own."""
    if len(blob) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def is_model(names: Iterable[str]) -> bool:
    """Whether a folder with these file names is a model's, whole or not; stops at the first that says so."""
    return any(name in _MARKS or name.endswith(_WEIGHTS) for name in names)


def _may_hold(name: str) -> bool:
    return name != _SHARED_BLOBS and not name.startswith((".", "datasets--", "spaces--"))


def _is_closed(path: Path) -> bool:
    try:
        with os.scandir(path):
            return False
    except PermissionError:
        # False too where a folder above it is closed: then nobody knows what is there.
        return os.path.isdir(path)
    except (OSError, ValueError):
        return False


def _believed(folder: Path) -> frozenset[int]:
    """Whose links to folders are followed: the site's, as whoever owns `folder` speaks for it, and one's own."""
    try:
        return frozenset((0, os.geteuid(), os.stat(folder).st_uid))
    except OSError:
        return frozenset()


def _listed(
    path: Path, *, follow: bool = True, believed: Container[int] | None = None, pace: Pace | None = None
) -> Iterator[tuple[str, bool]]:
    # Name, and whether it is a folder; nothing for what is missing, closed or no folder. With `believed`, the links
    # of others are no folders.
    try:
        with os.scandir(path) as listing:
            for number, entry in enumerate(listing):
                if number >= _ENTRIES_MAX:
                    return
                if pace is not None:
                    pace.spend()
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield entry.name, True
                    elif follow and (
                        believed is None or entry.stat(follow_symlinks=False).st_uid in believed
                    ):
                        yield entry.name, entry.is_dir()
                    else:
                        yield entry.name, False
                except OSError:  # a link in a circle
                    yield entry.name, False
    except TimeoutError:
        raise
    except (OSError, ValueError):
        return

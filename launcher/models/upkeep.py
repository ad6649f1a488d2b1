"""What a user does with models on the disk: check every byte of one again, and remove one that is no longer wanted."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ModelError, StorageError
from launcher.models.disk import open_file
from launcher.models.folders import HUB, Held, refs_of
from launcher.models.hub.locks import locked
from launcher.models.snapshot import check_snapshot

_PIECE = 1 << 20
_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Checked:
    """One snapshot after the check: `broken` maps files to what is wrong, `unknown` counts those without a hash."""

    id: str
    revision: str | None
    path: Path
    files: int
    bytes: int
    broken: dict[str, str]
    unknown: int


def verify(
    held: Held, progress: Callable[[int], None] = lambda _: None, *, pickle_weights: bool = False
) -> Checked:
    """Read every file of one snapshot and compare it with its hash, which the hub's layout keeps as the blob's name.

    `progress` is called with the bytes of each piece. In a plain folder only completeness can be checked.
    """
    broken: dict[str, str] = {}
    files = total = unknown = 0
    for name, path in _files(held.path):
        files += 1
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                total += size
                blob = _blob(path) if held.layout == HUB else None
                if blob is None:
                    unknown += 1
                    progress(size)
                    continue
                digest = _hash(blob, size)
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    progress(len(piece))
            if digest.hexdigest() != blob:
                broken[name] = f"its content is not what its name says: {os.path.realpath(path)}"
        except FileNotFoundError:
            broken[name] = "it is a link to nothing"
        except (OSError, ValueError) as error:
            broken[name] = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    if not broken:
        try:
            check_snapshot(held.path, held.id, pickle_weights=pickle_weights)
        except ModelError as error:
            broken[""] = error.message
    return Checked(held.id, held.commit, held.path, files, total, broken, unknown)


def remove(model: str, root: Path, commits: Iterable[str] | None = None) -> int:
    """Remove the repository at `root` (hub's layout), or only these of its snapshots; the bytes that are free then.

    Raises StorageError for a folder that is not this user's or cannot be changed.
    """
    owner = os.stat(root, follow_symlinks=False).st_uid
    if owner != os.geteuid() or root.is_symlink():
        raise StorageError(
            f'Model "{model}": {root} belongs to {_name(owner)}, so it is not yours to remove.',
            f"Ask {_name(owner)}.",
        )
    try:
        with locked(root):
            before = _bytes(root / "blobs")
            everything = set(os.listdir(root / "snapshots")) if (root / "snapshots").is_dir() else set()
            gone = everything if commits is None else set(commits) & everything
            if commits is None or gone == everything:
                _remove_all(root)
                return before
            for ref, commit in refs_of(root).items():
                if commit in gone:
                    (root / "refs" / ref).unlink()
            for commit in gone:
                shutil.rmtree(root / "snapshots" / commit)
            needed = {
                _target(path)
                for commit in everything - gone
                for _, path in _files(root / "snapshots" / commit)
            }
            for blob in os.scandir(root / "blobs"):
                if _BLOB.fullmatch(blob.name) and blob.name not in needed:
                    os.unlink(blob.path)
            return before - _bytes(root / "blobs")
    except OSError as error:
        raise StorageError(
            f'Model "{model}": {error.filename or root} cannot be removed ({error.strerror}).',
            "Ask whoever wrote it, or the site.",
        ) from error


def _remove_all(root: Path) -> None:
    # Away in one step, so that nobody finds half of it; rmtree follows no link out of it.
    aside = root.with_name(f".{root.name}.{os.getpid()}.removed")
    os.rename(root, aside)
    shutil.rmtree(aside)


def _files(snapshot: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(snapshot):
        for name in sorted(names):
            path = Path(folder, name)
            yield str(path.relative_to(snapshot)), path


def _blob(path: Path) -> str | None:
    name = _target(path)
    return name if name is not None and _BLOB.fullmatch(name) else None


def _target(path: Path) -> str | None:
    return os.path.basename(os.readlink(path)) if path.is_symlink() else None


def _hash(blob: str, size: int) -> hashlib._Hash:
    # The hub's names: sha256 of what is in LFS, else git's own hash of the content.
    if len(blob) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _bytes(folder: Path) -> int:
    try:
        with os.scandir(folder) as listing:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in listing)
    except FileNotFoundError:
        return 0


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"

"""Removing a model from a folder in the hub's layout, whole or some of its revisions.

First all that would go is worked out and looked at; only when all of it may be removed is anything touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import StorageError
from launcher.models.disk import user_name
from launcher.models.folders import refs_of
from launcher.models.hub.locks import locked
from launcher.models.hub.sharing import LOCK, Folder


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes: the repository at `root`, all of it or only these snapshots, refs and blobs; `bytes` are free then."""

    model: str
    root: Path
    commits: tuple[str, ...]
    everything: bool
    refs: tuple[str, ...]
    blobs: tuple[Path, ...]
    bytes: int


def removal(model: str, root: Path, commits: Collection[str] | None = None) -> Removal:
    """What removing the repository at `root` would take away, or only these of its snapshots; touches nothing.

    Raises StorageError where it is not this user's, or where a part of it could not be removed.
    """
    try:
        _check_owner(model, root)
        there = _snapshots(root)
        gone = there if commits is None else there & set(commits)
        if commits is None or gone == there:
            _check_folders(model, [root.parent, *_folders(root)])
            return Removal(model, root, tuple(sorted(gone)), True, (), (), _bytes(_files(root)))
        going = [path for commit in gone for path in _files(root / "snapshots" / commit)]
        kept = [path for commit in there - gone for path in _files(root / "snapshots" / commit)]
        needed = {_blob(path, root) for path in kept}
        _check_links(model, kept, [root / "snapshots" / commit for commit in gone])
        # Not what nobody links to: a download of another revision may be bringing it.
        found = {blob for path in going if (blob := _blob(path, root)) is not None and os.path.lexists(blob)}
        blobs = tuple(sorted(found - needed))
        refs = tuple(ref for ref, commit in refs_of(root).items() if commit in gone)
        _check_folders(
            model,
            [
                root,
                root / "snapshots",
                *(folder for commit in gone for folder in _folders(root / "snapshots" / commit)),
                *({blob.parent for blob in blobs}),
                *({(root / "refs" / ref).parent for ref in refs}),
            ],
        )
        return Removal(model, root, tuple(sorted(gone)), False, refs, blobs, _bytes([*going, *blobs]))
    except OSError as error:
        raise _cannot(model, root, error) from error


def remove(planned: Removal, waiting: Callable[[str], None] = lambda _: None) -> int:
    """Remove what `planned` says, as it is now; the bytes that are free then.

    `waiting` gets a sentence when somebody else is at it, for whom it waits some minutes. A revision that came
    meanwhile stays. Raises StorageError, as `removal` does.
    """
    root = planned.root
    try:
        with locked(root, waiting) as (repository, _):
            now = removal(planned.model, root, planned.commits or None)
            if now.everything:
                with Folder.at(root.parent) as above:
                    (name,) = _aside(above, [root.name], above)
                    if not above.holds(name, repository.descriptor):
                        above.rename(name, root.name)
                        raise above.refused(root.name, "the folder that was to be removed")
                    shutil.rmtree(name, dir_fd=above.descriptor)
            else:
                _remove_some(repository, now)
            return now.bytes
    except OSError as error:
        raise _cannot(planned.model, root, error) from error


def _remove_some(repository: Folder, now: Removal) -> None:
    with contextlib.ExitStack() as opened:
        # All of them before anything is touched: one that is a link stops it.
        snapshots = opened.enter_context(repository.folder("snapshots"))
        refs = [opened.enter_context(repository.folder("refs"))] if now.refs else []
        blobs = [opened.enter_context(repository.folder("blobs"))] if now.blobs else []
        for commit in now.commits:
            snapshots.folder(commit).close()
        aside = _aside(snapshots, now.commits, repository)
        for folder in refs:
            for ref in now.refs:
                _drop_ref(folder, ref)
        for folder in blobs:
            for blob in now.blobs:
                folder.unlink(blob.name)
        for name in aside:
            shutil.rmtree(name, dir_fd=repository.descriptor)
    # Whoever waits for it sees that it is another file now, and begins again.
    repository.unlink(LOCK)


def _check_owner(model: str, root: Path) -> None:
    owner = os.stat(root, follow_symlinks=False).st_uid
    if owner != os.geteuid() or root.is_symlink():
        raise StorageError(
            f'Model "{model}": {root} belongs to {user_name(owner)}, so it is not yours to remove.',
            f"Ask {user_name(owner)}.",
        )


def _check_folders(model: str, folders: list[Path]) -> None:
    for folder in folders:
        status = os.stat(folder)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise StorageError(
                f'Model "{model}": nothing is removed, because you may not change {folder}, which belongs to '
                f"{user_name(status.st_uid)}.",
                f"Ask {user_name(status.st_uid)} to let you write it.",
            )


def _check_links(model: str, kept: list[Path], gone: list[Path]) -> None:
    # Nobody but a hand makes such links; the file would be lost for the revision that stays.
    for path in kept:
        if path.is_symlink() and any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in gone):
            raise StorageError(
                f'Model "{model}": nothing is removed, because {path} is a link into what would go.',
                "Put the file itself there first, or remove all revisions.",
            )


def _snapshots(root: Path) -> set[str]:
    try:
        with os.scandir(root / "snapshots") as listing:
            return {entry.name for entry in listing if entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()


def _folders(top: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for folder, _, _ in os.walk(top, onerror=refuse):
        yield Path(folder)


def _files(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        yield from (Path(folder, name) for name in names if name != LOCK)


def _blob(path: Path, root: Path) -> Path | None:
    """The file in the repository's blobs that the link `path` leads to; None where it is none of these."""
    try:
        target = path.parent / os.readlink(path)
    except OSError:  # no link: the content itself, as in a folder that was copied with its links followed
        return None
    blobs = root / "blobs"
    return blobs / target.name if os.path.realpath(target.parent) == os.path.realpath(blobs) else None


def _bytes(paths: Collection[Path] | Iterator[Path]) -> int:
    names: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for path in paths:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            names[key := (status.st_dev, status.st_ino)] += 1
            found[key] = status
    # What has a further name elsewhere stays on the disk.
    return sum(status.st_size for key, status in found.items() if names[key] >= status.st_nlink)


def _aside(folder: Folder, names: Collection[str], into: Folder) -> list[str]:
    # Away in one step each, so that nobody finds half of it; rmtree then follows no link out of it.
    aside = []
    for name in names:
        aside.append(f".{name}.{secrets.token_hex(4)}.removed")
        folder.rename(name, aside[-1], into)
    return aside


def _drop_ref(refs: Folder, ref: str) -> None:
    """Remove a branch or tag, and the folders that were made for the slashes in its name."""
    with contextlib.ExitStack() as opened:
        folders = [refs]
        *parts, name = ref.split("/")
        for part in parts:
            folders.append(opened.enter_context(folders[-1].folder(part)))
        folders[-1].unlink(name)
        with contextlib.suppress(OSError):  # another ref is in it
            for part in reversed(parts):
                folders.pop()
                os.rmdir(part, dir_fd=folders[-1].descriptor)


def _cannot(model: str, root: Path, error: OSError) -> StorageError:
    return StorageError(
        f'Model "{model}": {error.filename or root} cannot be removed ({error.strerror}).',
        "Ask whoever wrote it, or the site.",
    )

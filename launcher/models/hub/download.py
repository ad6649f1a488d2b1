"""From the hub into a folder of models: one good copy in the hub's cache layout, whoever else downloads it as well.

Each file is written to `blobs/<hash>.incomplete`, where the next run goes on; it gets its name only with the hash that
the hub names, and the snapshot's links and the branch appear only when all files are there. Where the file system has
no locks, each process writes into files of its own; where it only pretends to have some, a second one of the same user
writes the same bytes to the same places of the same file, never at its end.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError, ModelError, RequestError, StorageError
from launcher.models.disk import user_name
from launcher.models.folders import entry_of, folders_of, ref_at
from launcher.models.hub.client import (
    CONTINUES,
    LARGEST_BYTES,
    Hub,
    HubFile,
    Listing,
    check_id,
    check_revision,
)
from launcher.models.hub.locks import locked
from launcher.models.hub.repository import Repository
from launcher.models.hub.sharing import Folder
from launcher.models.hub.transfer import Report
from launcher.models.hub.wanted import wanted
from launcher.models.known import called, converted
from launcher.models.resolve import catalog_entry
from launcher.models.typed import typed
from launcher.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Added:
    """One model on this disk: `transferred` bytes came over the network now, 0 when all was there."""

    id: str
    revision: str
    path: Path
    folder: Path
    bytes: int
    files: int
    transferred: int


def add(
    model: str,
    settings: Settings,
    report: Report,
    *,
    revision: str | None = None,
    to: str | None = None,
    again: frozenset[str] = frozenset(),
) -> Added:
    """Download `model`, a catalog name or an id of the hub, into the folder `to`, by default the user's own cache.

    What is there with its size is not fetched, but for the files `again`, which somebody found damaged.
    Raises RequestError for a name or folder that cannot be, ModelError for what the hub refuses or breaks, and
    StorageError for a folder that cannot be written or has too little room.
    """
    model, revision = _meant(model, settings, revision)
    folder = _folder(settings, to)
    if (copy := converted(model)) is not None and copy.of == model:
        report.notice(f"Sessions serve Whisper from copies in CTranslate2's format. This one's is {copy.id}.")
    hub = Hub(report.notice)
    listing = hub.listing(model, revision)
    model = listing.model
    root = folder / entry_of(model)
    own_snapshot = root / "snapshots" / listing.commit
    names = _names(listing, own_snapshot, settings, again)
    files = [file for name in names if (file := listing.file(name)) is not None]
    total = sum(file.size for file in files)
    if huge := next((file for file in files if file.size > LARGEST_BYTES), None):
        raise ModelError(
            f'Model "{model}": {huge.name} has {huge.size / 2**30:.0f} GB, more than the hub sends in one piece.',
            f"Download it with: hf download {model} --cache-dir {folder}",
        )
    for place in dict.fromkeys([folder, *folders_of(settings)] if to is None else [folder]):
        snapshot = place / entry_of(model) / "snapshots" / listing.commit
        if not again and (owners := _owners(snapshot, files)) is not None:
            if others := owners - {os.geteuid(), 0}:
                whom = ", ".join(sorted(user_name(owner) for owner in others))
                report.notice(
                    f"It is already there, from {whom}; check it with: launcher models verify {model}"
                )
            if place == folder and ref_at(root, listing.revision) != listing.commit:
                # In a folder of others, they call it as they like.
                with contextlib.suppress(OSError), Folder.at(place) as above, above.folder(root.name) as own:
                    Repository(own, listing).name_revision()
            return Added(model, listing.commit, snapshot, place, total, len(files), 0)
    hub.check_access(listing, files[0].name)
    try:
        with locked(root, report.notice, make=True) as (own, alone):
            transferred = Repository(own, listing, alone=alone).fill(hub, files, report, again)
    except OSError as error:
        raise _storage_error(error, root, own=folder == folders_of(settings)[-1]) from error
    return Added(model, listing.commit, own_snapshot, folder, total, len(files), transferred)


def _names(listing: Listing, snapshot: Path, settings: Settings, again: frozenset[str]) -> list[str]:
    names = [file.name for file in listing.files]
    # Another program may have fetched more, which is mended as well.
    there = {name for name in names if again and (name in again or os.path.lexists(snapshot / name))}
    try:
        found = wanted(names, listing.model, pickle_weights=settings.allow.pickle_weights)
    except ModelError:
        if not there:
            raise
        found = []
    return sorted({*found, *there})


def _meant(model: str, settings: Settings, revision: str | None) -> tuple[str, str | None]:
    if not settings.allow.downloads:
        raise ModelError(
            f"Downloads are switched off here ({settings.where('allow.downloads')}).",
            f"Ask the site for {model[:80]}." if model.isprintable() else "Ask the site for the model.",
        )
    model, revision = typed(model, revision)
    entry = catalog_entry(model, settings)
    if entry is not None and entry.id is None:
        raise RequestError(
            f'"{entry.name}" of the catalog is not a model of the hub.', "There is nothing to download."
        )
    if entry is not None and entry.id is not None:
        model, revision = entry.id, revision or entry.revision
    elif settings.allow.models == "catalog":
        raise ModelError(
            f'Model "{model[:80]}" is not offered here.', f"Offered: {', '.join(settings.catalog)}."
        )
    elif (copy := called(model)) is not None:
        model = copy.id
    check_id(model)
    check_revision(revision)
    return model, revision


def _folder(settings: Settings, to: str | None) -> Path:
    places = folders_of(settings)
    folder = places[-1] if to is None else Path(os.path.abspath(os.path.expanduser(to)))
    if folder not in places:
        raise RequestError(
            f"{folder} is not a folder of models, so nobody would find the model there.",
            f"Give one of: {', '.join(map(str, places))}.",
        )
    if folder == places[-1]:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _storage_error(error, folder, own=True) from error
    if not os.path.isdir(folder):
        raise StorageError(
            f"There is no folder {folder}.", "Ask whoever keeps the site's settings to make it."
        )
    return folder


def _owners(snapshot: Path, files: list[HubFile]) -> set[int] | None:
    """Who made the files and their names, where all of them are there with their sizes; None where not."""
    try:
        owners: set[int] = set()
        for file in files:
            status = os.stat(snapshot / file.name)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                return None
            owners |= {status.st_uid, os.lstat(snapshot / file.name).st_uid}
    except OSError:
        return None
    return owners


def _storage_error(error: OSError, path: Path, *, own: bool) -> LauncherError:
    where = Path(os.fsdecode(error.filename or path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "The disk is full" if error.errno == errno.ENOSPC else "Your quota is used up"
        return StorageError(f"{what}: {where} could not be written.", f"Free some space. {CONTINUES}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        ask = _who_may_change_that(where)
        hint = f"{ask[0].upper()}{ask[1:]}" if own else f"Leave --to out for your own cache, or {ask}"
        return StorageError(f"You may not write {where}.", hint)
    return StorageError(f"{where}: {error.strerror or error}.", CONTINUES)


def _who_may_change_that(where: Path) -> str:
    while not os.path.lexists(where) and where != where.parent:
        where = where.parent
    try:
        status = os.stat(where)
    except OSError:
        return "ask the site."
    if status.st_uid == os.geteuid():
        return f"let yourself write it: chmod u+rwX {where}"
    owner = user_name(status.st_uid)
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (os.getegid(), *os.getgroups()):
        return f"ask {owner} to add you to the group {_group_name(status.st_gid)}."
    return f"ask {owner} to let its group write it: chmod -R g+rwX {where}"


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)

"""From the hub into a folder of models: one good copy in the hub's cache layout, whoever else downloads it as well.

Each file is written to `blobs/<hash>.incomplete`, where the next run goes on; it gets its name only with the hash that
the hub names, and the snapshot's links and the branch appear only when all files are there. Where the file system has
no locks, each process writes into files of its own; where it only pretends to have some, a second one writes the same
bytes to the same places of the same file, never at its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError, ModelError, RequestError, StorageError
from launcher.models.folders import COMMIT, entry_of
from launcher.models.hub.client import LARGEST_BYTES, Hub, HubFile, Listing, check_id, check_revision
from launcher.models.hub.locks import locked
from launcher.models.hub.sharing import adopt, file_mode, make_folder
from launcher.models.hub.transfer import Partial, Report, Watch, side_by_side
from launcher.models.hub.wanted import wanted
from launcher.models.near import folders_of
from launcher.models.resolve import catalog_entry
from launcher.settings.schema import Settings

_TRIES = 3
_LEFT_S = 600.0
_SPARE_BYTES = 64 << 20  # a disk filled to its last byte stops others
_CONTINUES = "Run the same command again, it continues."


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
    model: str, settings: Settings, report: Report, *, revision: str | None = None, to: str | None = None
) -> Added:
    """Download `model`, a catalog name or an id of the hub, into the folder `to`, by default the user's own cache.

    Raises RequestError for a name or folder that cannot be, ModelError for what the hub refuses or breaks, and
    StorageError for a folder that cannot be written or has too little room.
    """
    model, revision = _meant(model, settings, revision)
    folder = _folder(settings, to)
    hub = Hub(report.notice)
    listing = hub.listing(model, revision)
    names = wanted((file.name for file in listing.files), model, pickle_weights=settings.allow.pickle_weights)
    files = [file for name in names if (file := listing.file(name)) is not None]
    total = sum(file.size for file in files)
    if huge := next((file for file in files if file.size > LARGEST_BYTES), None):
        raise ModelError(
            f'Model "{model}": {huge.name} has {huge.size / 2**30:.0f} GB, more than the hub sends in one piece.',
            f"Download it with: hf download {model} --cache-dir {folder}",
        )
    for place in dict.fromkeys([folder, *folders_of(settings)] if to is None else [folder]):
        snapshot = place / entry_of(model) / "snapshots" / listing.commit
        if _is_whole(snapshot, files):
            return Added(model, listing.commit, snapshot, place, total, len(files), 0)
    hub.check_access(listing, files[0].name)
    copy = _Copy(folder, listing)
    try:
        with locked(
            copy.root, lambda who: report.notice(f"{who} is downloading it into {folder}; waiting.")
        ) as alone:
            transferred = copy.fill(hub, files, report, alone=alone)
    except OSError as error:
        raise _storage_error(error, copy.root) from error
    return Added(model, listing.commit, copy.snapshot, folder, total, len(files), transferred)


class _Copy:
    """One model's folder in the hub's layout."""

    def __init__(self, folder: Path, listing: Listing) -> None:
        self._listing = listing
        self.root = folder / entry_of(listing.model)
        self.snapshot = self.root / "snapshots" / listing.commit
        self._blobs = self.root / "blobs"

    def fill(self, hub: Hub, files: list[HubFile], report: Report, *, alone: bool) -> int:
        """Bring what is missing and let the snapshot appear; the bytes transferred."""
        for folder in (self._blobs, self.root / "snapshots", self.root / "refs"):
            make_folder(folder)
        missing = {file.hash: file for file in files if not _has(self._blobs / file.hash, file.size)}
        partials = {key: self._partial(key, alone) for key in missing}
        here = {key: min(_size(partials[key]), missing[key].size) for key in missing}
        needed = sum(missing[key].size - here[key] for key in missing)
        _check_room(self._blobs, needed)
        total = sum(file.size for file in files)
        watch = Watch(report, total, total - sum(file.size for file in missing.values()))
        # The largest first: the last file to end is then a small one.
        order = sorted(missing.values(), key=lambda file: -file.size)
        side_by_side(order, lambda file: self._bring(hub, file, partials[file.hash], watch), watch)
        self._appear(files)
        return watch.transferred

    def _partial(self, key: str, alone: bool) -> Path:
        if alone:
            return self._blobs / f"{key}.incomplete"
        own = self._blobs / f"{key}.{os.uname().nodename}-{os.getpid()}.incomplete"
        for left in self._blobs.glob(f"{key}.*incomplete"):
            # Whoever wrote into it a minute ago may still do so.
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_S:
                    left.rename(own)
                    break
        return own

    def _bring(self, hub: Hub, file: HubFile, partial: Path, watch: Watch) -> None:
        for attempt in range(_TRIES):
            with Partial(partial, file, watch) as into:
                try:
                    if into.position < file.size or file.size == 0:
                        hub.fetch(self._listing, file, into, into.position)  # type: ignore[arg-type] # what http_get uses
                except OSError as error:
                    if error.errno is not None or isinstance(error, ConnectionError):
                        raise
                except ModelError:
                    # The client has tried to go on; after a pause of the CDN it often can.
                    if attempt + 1 == _TRIES:
                        raise
                    watch.stopped.wait(2**attempt)
                    continue
                if into.is_right():
                    into.keep(self._blobs / file.hash)
                    return
                into.truncate(0)
        partial.unlink(missing_ok=True)
        raise ModelError(
            f'Model "{self._listing.model}": {file.name} came with other bytes than the hub announces, {_TRIES} times.',
            "A proxy on the way may change or cut files; ask the site, or try another network.",
        )

    def _appear(self, files: list[HubFile]) -> None:
        make_folder(self.snapshot)
        # config.json last: whoever looks for it finds the rest.
        for file in sorted(files, key=lambda file: file.name == "config.json"):
            link = self.snapshot
            for part in file.name.split("/")[:-1]:
                link /= part
                make_folder(link)
            link /= file.name.rpartition("/")[2]
            target = os.path.relpath(self._blobs / file.hash, link.parent)
            if not (os.path.islink(link) and os.readlink(link) == target):
                beside = link.with_name(f".{os.getpid()}.link")
                beside.unlink(missing_ok=True)
                beside.symlink_to(target)
                beside.replace(link)
        revision = self._listing.revision
        if not COMMIT.fullmatch(revision):
            ref = self.root / "refs"
            for part in revision.split("/")[:-1]:
                ref /= part
                make_folder(ref)
            _write(ref / revision.rpartition("/")[2], self._listing.commit)


def _meant(model: str, settings: Settings, revision: str | None) -> tuple[str, str | None]:
    if not settings.allow.downloads:
        raise ModelError(
            f"Downloads are switched off here ({settings.where('allow.downloads')}).",
            f"Ask the site for {model[:80]}." if model.isprintable() else "Ask the site for the model.",
        )
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
            raise _storage_error(error, folder) from error
    if not os.path.isdir(folder):
        raise StorageError(
            f"There is no folder {folder}.", "Ask whoever keeps the site's settings to make it."
        )
    return folder


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise StorageError(
            f"{folder} has room for {free / 2**30:.1f} GB, and {needed / 2**30:.1f} GB are still to come.",
            "Free some space, or choose another folder with --to.",
        )


def _is_whole(snapshot: Path, files: list[HubFile]) -> bool:
    return all(_has(snapshot / file.name, file.size) for file in files)


def _has(path: Path, size: int) -> bool:
    return os.path.isfile(path) and _size(path) == size


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    adopt(beside, file_mode(path.parent, shared=True))
    beside.replace(path)


def _storage_error(error: OSError, path: Path) -> LauncherError:
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "The disk is full" if error.errno == errno.ENOSPC else "Your quota is used up"
        return StorageError(f"{what}: {where} could not be written.", f"Free some space. {_CONTINUES}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"You may not write {where}.",
            "Leave --to out for your own cache, or ask whoever owns it to let the group write (chmod -R g+rwX).",
        )
    return StorageError(f"{where}: {error.strerror or error}.", _CONTINUES)

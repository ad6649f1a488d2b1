"""One model's folder in the hub's layout while it is filled: blobs under their hashes, links to them, branches.

Nothing here follows a link, and what somebody else put there counts only with the hash that the hub names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time

from launcher.errors import ModelError, StorageError
from launcher.models.disk import size, user_name
from launcher.models.folders import BLOB, COMMIT, hash_of
from launcher.models.hub.client import Hub, HubFile, Listing, TooMuchError
from launcher.models.hub.sharing import Folder
from launcher.models.hub.transfer import Partial, Report, Watch, side_by_side

_TRIES = 3
_LEFT_S = 600.0
_SPARE_BYTES = 64 << 20  # a disk filled to its last byte stops others
_PIECE = 1 << 20


class Repository:
    """The folder `root` of the model in `listing`, open and, where the file system can, locked (`alone`)."""

    def __init__(self, root: Folder, listing: Listing, *, alone: bool = True) -> None:
        self._root, self._listing, self._alone = root, listing, alone

    def fill(self, hub: Hub, files: list[HubFile], report: Report, again: frozenset[str]) -> int:
        """Bring what is missing, and what is named in `again`, and let the snapshot appear; the bytes transferred."""
        blobs = self._root.folder("blobs", make=True)
        # Before the long part: whatever is wrong with them is said now.
        snapshots, refs = (self._root.folder(name, make=True) for name in ("snapshots", "refs"))
        with snapshots, refs, contextlib.suppress(FileNotFoundError):
            snapshots.folder(self._listing.commit).close()
        missing = {f.hash: f for f in files if f.name in again or not _is_here(blobs, f, report)}
        partials = {key: self._partial(blobs, key) for key in missing}
        here = {key: min(_own_bytes(blobs, partials[key]), missing[key].size) for key in missing}
        _check_room(blobs, sum(missing[key].size - here[key] for key in missing))
        total = sum(file.size for file in files)
        watch = Watch(report, total, total - sum(file.size for file in missing.values()))
        # The largest first: the last file to end is then a small one.
        order = sorted(missing.values(), key=lambda file: -file.size)
        side_by_side(order, lambda file: self._bring(hub, blobs, file, partials[file.hash], watch), watch)
        self._appear(files)
        return watch.transferred

    def name_revision(self) -> None:
        """Let the branch or tag that was asked for stand at the commit."""
        revision = self._listing.revision
        if not COMMIT.fullmatch(revision):
            with _below(self._root, ["refs", *revision.split("/")[:-1]]) as folder:
                folder.write(revision.rpartition("/")[2], self._listing.commit)

    def _partial(self, blobs: Folder, key: str) -> str:
        if self._alone:
            return f"{key}.incomplete"
        own = f"{key}.{os.uname().nodename}-{os.getpid()}.incomplete"
        for left in blobs.names():
            if left.startswith(f"{key}.") and left.endswith(".incomplete"):
                # Whoever wrote into it a minute ago may still do so.
                status = blobs.status(left)
                if status and status.st_uid == os.geteuid() and time.time() - status.st_mtime > _LEFT_S:
                    blobs.rename(left, own)
                    break
        return own

    def _bring(self, hub: Hub, blobs: Folder, file: HubFile, partial: str, watch: Watch) -> None:
        taken = False
        for attempt in range(_TRIES):
            with Partial(blobs, partial, file, watch) as into:
                try:
                    if into.position < file.size or file.size == 0:
                        hub.fetch(self._listing, file, into, into.position)  # type: ignore[arg-type] # what http_get uses
                except OSError as error:
                    if error.errno is not None or isinstance(error, ConnectionError):
                        raise
                except TooMuchError:
                    into.truncate(0)
                    raise
                except ModelError:
                    # The client has tried to go on; after a pause of the CDN it often can.
                    if attempt + 1 == _TRIES:
                        raise
                    watch.stopped.wait(2**attempt)
                    continue
                if into.is_right():
                    # Not kept where a second process, which no lock held back, has done it with the same bytes.
                    if into.keep(file.hash) or _is_whole(blobs, file):
                        return
                    taken = True
                else:
                    into.truncate(0)
        if taken:
            there = blobs.status(partial) or blobs.status(file.hash) or os.stat(blobs.descriptor)
            owner = user_name(there.st_uid)
            raise StorageError(
                f"{blobs.path / partial} was taken away or replaced while it was written, {_TRIES} times.",
                f"Ask {owner}, whose is what is there now, or leave --to out for your own cache.",
            )
        blobs.unlink(partial)
        raise ModelError(
            f'Model "{self._listing.model}": {file.name} came with other bytes than the hub announces, {_TRIES} times.',
            "A proxy on the way may change or cut files; ask the site, or try another network.",
        )

    def _appear(self, files: list[HubFile]) -> None:
        # config.json last: whoever looks for it finds the rest.
        for file in sorted(files, key=lambda file: file.name == "config.json"):
            *parts, name = file.name.split("/")
            with _below(self._root, ["snapshots", self._listing.commit, *parts]) as folder:
                folder.link(name, f"{'../' * (len(parts) + 2)}blobs/{file.hash}")
        self.name_revision()


def _below(root: Folder, names: list[str]) -> Folder:
    folder = root.folder(names[0], make=True)
    for name in names[1:]:
        with folder:
            below = folder.folder(name, make=True)
        folder = below
    return folder


def _is_here(blobs: Folder, file: HubFile, report: Report) -> bool:
    status = blobs.status(file.hash)
    if status is None:
        return False
    believed = (os.geteuid(), 0)
    if stat.S_ISLNK(status.st_mode) and status.st_uid in believed:
        # The hub's own store of files that several repositories share (huggingface_hub/utils/_shared_blobs.py).
        target = os.readlink(file.hash, dir_fd=blobs.descriptor)
        if not BLOB.fullmatch(target.rpartition("/")[2]):
            return False
        try:
            status = os.stat(file.hash, dir_fd=blobs.descriptor)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == file.size and status.st_uid in believed
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        return False
    if status.st_uid in believed and not status.st_mode & 0o022:
        return True
    report.notice(f"Checking {file.name}, which is there from {user_name(status.st_uid)}.")
    return _is_whole(blobs, file)


def _is_whole(blobs: Folder, file: HubFile) -> bool:
    # Whether there is a file of this hash, with this very hash.
    try:
        descriptor = blobs.open(file.hash)
    except (OSError, StorageError):
        return False
    digest, done = hash_of(file.hash, file.size), 0
    with os.fdopen(descriptor, "rb") as there:
        while done <= file.size and (piece := there.read(_PIECE)):
            digest.update(piece)
            done += len(piece)
    return done == file.size and digest.hexdigest() == file.hash


def _own_bytes(blobs: Folder, name: str) -> int:
    status = blobs.status(name)
    ours = status is not None and status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode)
    return status.st_size if status is not None and ours else 0


def _check_room(folder: Folder, needed: int) -> None:
    free = shutil.disk_usage(folder.descriptor).free
    if needed and needed + _SPARE_BYTES > free:
        raise StorageError(
            f"{folder.path} has room for {size(max(free - _SPARE_BYTES, 0))}, and {size(needed)} are still to come.",
            "Free some space, or choose another folder with --to.",
        )

"""The files of OpenAI's `/v1/files` on disk: what was uploaded for a batch run, and what came of it.

Each owner has a folder of their own (0700) whose name is a hash, each file one below it with its content and its
`file.json`, which is written last: without it there is no file. Nobody is told of another owner's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from launcher.errors import StorageError
from launcher.sessions.paths import write_private

_ID = re.compile(r"file-[0-9a-f]{24}")
_ABANDONED_S = 86400.0
_NAME_CHARACTERS = 255
KEPT_S = 30 * 86400  # OpenAI's rule for what is uploaded for a batch
_UNBOUNDED = 1 << 62
UPLOADED, MADE = "batch", "batch_output"
_FETCHED = "fetched"


class TooMuchError(StorageError):
    """A file is larger, or there are more of them, than one owner may have."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one owner may have: bytes of one uploaded file, of all files, their number, unfinished batches.

    `at_once` is how many batches of one owner run at a time, `at_once_all` those of everybody; the others wait.
    """

    file_bytes: int = 10**9
    owner_bytes: int = 20 * 10**9
    files: int = 10_000
    batches: int = 200
    at_once: int = 4
    at_once_all: int = 16

    @classmethod
    def of(cls, file_gb: float | None, files_gb: float | None) -> Self:
        """With the bounds of settings; None: no bound."""
        return cls(*(_UNBOUNDED if gb is None else int(gb * 1e9) for gb in (file_gb, files_gb)))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What OpenAI's File object says; times are Unix seconds."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()

    def as_json(self) -> dict[str, Any]:
        """OpenAI's File object."""
        return {**dataclasses.asdict(self), "object": "file", "status": "processed", "status_details": None}


class Files:
    """The stored files below `folder`. Blocking: called in threads."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self.bounds = bounds
        self._folder = folder
        self._known: dict[Path, StoredFile] = {}  # what is on disk never changes
        self._coming: Counter[str] = Counter()  # by owner, the bytes of uploads on their way
        self._counting = threading.Lock()

    def room(self, owner: str) -> int:
        """How many bytes more the owner may have, answers counted too; raises TooMuchError where there are none."""
        mine = self.list(owner)
        if len(mine) >= self.bounds.files:
            raise TooMuchError(f"There are {len(mine)} files already.", "Delete those that are not needed.")
        room = self.bounds.owner_bytes - sum(one.bytes for one in mine)
        if room <= 0:
            raise TooMuchError(
                f"Your files fill the {size_text(self.bounds.owner_bytes)} that one owner may have.",
                "Delete those that are not needed.",
            )
        return room

    def upload(self, owner: str) -> Upload:
        """A file that is about to come; raises TooMuchError when the owner has too many, or OSError."""
        room = self.room(owner)
        return Upload(self, owner, self._new_folder(owner), room)

    def coming(self, owner: str, more: int) -> int:
        """How many bytes the owner's uploads have brought that are under way, with `more`."""
        with self._counting:
            self._coming[owner] += more
            return self._coming[owner]

    def get(self, owner: str, file_id: str) -> StoredFile | None:
        """The file of this owner; None: there is none, or it is somebody else's."""
        if not _ID.fullmatch(file_id):
            return None
        found = self._read(self._of(owner) / file_id)
        if found is not None and found.expired:
            self.delete(owner, file_id)
            return None
        return found

    def content(self, owner: str, file_id: str) -> Path:
        """Where the bytes of a file that `get` found are."""
        return self._of(owner) / file_id / "content"

    def list(self, owner: str) -> list[StoredFile]:
        """The owner's files, the newest first."""
        try:
            names = os.listdir(self._of(owner))
        except FileNotFoundError:
            return []
        found = [one for name in names if (one := self.get(owner, name)) is not None]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def fetched(self, owner: str, file_id: str) -> None:
        """Somebody has read all of it."""
        with contextlib.suppress(OSError):  # it may be deleted by now
            (self._of(owner) / file_id / _FETCHED).touch(0o600)

    def delete(self, owner: str, file_id: str) -> bool:
        """Remove a file; a batch that reads it has a link of its own."""
        place = self._of(owner) / file_id
        if not _ID.fullmatch(file_id) or self._read(place) is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            (place / "file.json").unlink()
        self._known.pop(place, None)
        shutil.rmtree(place, ignore_errors=True)
        return True

    def adopt(
        self, owner: str, file_id: str, content: Path, filename: str, lasts_s: int | None
    ) -> StoredFile:
        """Make what a batch has written a file of its owner under a name that was chosen before; once or again."""
        place = self._of(owner) / file_id
        if (found := self._read(place)) is not None:
            return found
        private(place)
        kept = place / "content"
        kept.unlink(missing_ok=True)
        try:
            os.link(content, kept)
        except OSError:  # another file system, or one without links
            shutil.copyfile(content, kept)
            kept.chmod(0o600)
        now = int(time.time())
        return self._write(place, filename, MADE, now, now + lasts_s if lasts_s is not None else None)

    def sweep(self) -> None:
        """Remove what was never finished and what has expired."""
        for place in self._folder.glob("*/file-*"):
            with contextlib.suppress(OSError):
                found = self._read(place)
                kept = found is None and place.stat().st_mtime > time.time() - _ABANDONED_S
                if not kept and (found is None or found.expired):
                    self._known.pop(place, None)
                    shutil.rmtree(place, ignore_errors=True)

    def unfetched(self) -> int:
        """How many answers and error files of batches, of all owners, nobody has read to their end."""
        found = [place for place in self._folder.glob("*/file-*") if not (place / _FETCHED).exists()]
        files = [self._read(place) for place in found]
        return sum(one is not None and one.purpose == MADE and not one.expired for one in files)

    def _of(self, owner: str) -> Path:
        return self._folder / owner_folder(owner)

    def _new_folder(self, owner: str) -> Path:
        place = self._of(owner) / new_id("file-")
        private(place)
        return place

    def _read(self, place: Path) -> StoredFile | None:
        path = place / "file.json"
        if (known := self._known.get(place)) is not None:
            return known if path.exists() else None  # another gateway may have removed it
        try:
            found = StoredFile(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        self._known[place] = found
        return found

    def _write(
        self, place: Path, filename: str, purpose: str, now: int, expires_at: int | None
    ) -> StoredFile:
        size = (place / "content").stat().st_size
        made = StoredFile(place.name, filename, purpose, size, now, expires_at)
        write_private(place / "file.json", json.dumps(dataclasses.asdict(made)) + "\n")
        self._known[place] = made
        return made


class Upload:
    """A file on its way in: `write`, then `keep` or `drop`."""

    def __init__(self, files: Files, owner: str, place: Path, room: int) -> None:
        self._files, self._owner, self._place, self._room = files, owner, place, room
        self.size = 0
        self._writing = threading.Lock()
        self._descriptor = os.open(place / "content", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes) -> None:
        """Append `data`; raises TooMuchError beyond what the owner may have, or OSError."""
        self.size += len(data)
        coming, most = self._files.coming(self._owner, len(data)), self._files.bounds.file_bytes
        if self.size > most:
            raise TooMuchError(
                f"The file is larger than the {size_text(most)} that one may have.", "Split it."
            )
        if coming > self._room:
            raise self._too_much(self._room)
        rest = memoryview(data)
        with self._writing:
            while rest:  # a write to a nearly full disk takes what fits
                rest = rest[os.write(self._descriptor, rest) :]

    def keep(self, filename: str, purpose: str, lasts_s: int = KEPT_S) -> StoredFile:
        """The upload is whole and becomes a file; raises TooMuchError where others came first, or OSError."""
        if self.size > (room := self._files.room(self._owner)):
            raise self._too_much(room)
        os.fsync(self._descriptor)
        self._close()
        now = int(time.time())
        return self._files._write(self._place, _shown(filename), purpose, now, now + lasts_s)

    def drop(self) -> None:
        """Give the space back."""
        with self._writing:  # or the rest would go into whatever file has this number next
            self._close()
        shutil.rmtree(self._place, ignore_errors=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._files.coming(self._owner, -self.size)

    def _too_much(self, room: int) -> TooMuchError:
        return TooMuchError(
            f"The file is larger than the {size_text(room)} that your other files leave.",
            "Delete those that are not needed.",
        )


def new_id(prefix: str) -> str:
    """A new id; a later one is sorted behind an earlier one."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"


def private(folder: Path) -> None:
    """Make `folder`, and those above it that are missing, for its owner alone."""
    for missing in (*reversed([one for one in folder.parents if not one.exists()]), folder):
        missing.mkdir(mode=0o700, exist_ok=True)


def owner_folder(owner: str) -> str:
    """The name of an owner's folder: an owner is called what a person liked."""
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _shown(filename: str) -> str:
    """A name as it came, for showing: nothing on disk is called so."""
    name = re.split(r"[/\\]", filename)[-1]
    kept = "".join(letter for letter in name if letter.isprintable())[:_NAME_CHARACTERS]
    return kept or "upload.jsonl"


def size_text(count: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"

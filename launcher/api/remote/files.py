"""Files of another cluster, to list, to fetch and to send, over the connection that its launcher is asked through.

A file that is there with the same size is left as it is; another one is only replaced by force. What was broken off
goes on where it was, as long as neither end's file was changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.api.remote.disk import BLOCK, open_part, part_of, umask, version
from launcher.api.remote.far import Far
from launcher.errors import RequestError, StorageError
from launcher.sessions.clock import TIME_MAX
from launcher.sessions.stored import made

# What tells one content from another becomes part of a name here.
_VERSION = re.compile(r"[0-9-]{1,80}")
# Called with the path, the bytes so far and all of them.
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder there; `kind` is `file`, `folder` or `other`, `version` changes with the content.

    A `link` is described as what it leads to.
    """

    name: str
    path: str
    kind: str
    size: int
    changed_at: float
    version: str
    mode: int = 0o600
    link: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that was fetched or sent, by its path at the end of its way; `kept`: it was there already."""

    path: str
    size: int
    kept: bool


def listed(far: Far, path: str) -> tuple[Entry, list[Entry] | None]:
    """What `path` is there, and a folder's entries; None for what is no folder. Raises StorageError."""
    said = far.ask("list", path=path)
    try:
        found, entries = made(Entry, said), [made(Entry, entry) for entry in said.get("entries", ())]
    except (TypeError, AttributeError):
        raise far.strange() from None
    for entry in (found, *entries):
        _checked(far, entry)
    return found, entries if found.kind == "folder" else None


def content(far: Far, path: str) -> Iterator[bytes]:
    """A file's content in pieces."""
    with far.talk("read", path=path, at=0, version=None) as talk:
        for data in talk.told():
            yield _bytes(far, data)


def fetched(
    far: Far,
    path: str,
    to: Path,
    *,
    force: bool = False,
    recursive: bool = False,
    progress: Progress | None = None,
) -> list[Moved]:
    """Fetch `path` to `to`, into it where that is a folder; with `recursive` a folder with all that is in it."""
    found, entries = listed(far, path)
    target = to / (found.name or "files") if to.is_dir() else to
    if entries is None:
        return [_fetch(far, found, target, force, progress)]
    if not recursive:
        raise RequestError(f"{found.path} is a folder.", "Fetch all that is in it with --recursive.")
    return list(_fetch_all(far, entries, target, force, progress))


def sent(
    far: Far,
    path: Path,
    to: str,
    *,
    force: bool = False,
    recursive: bool = False,
    progress: Progress | None = None,
) -> list[Moved]:
    """Send `path` to `to` there, into it where that is a folder; with `recursive` a folder with all that is in it."""
    if not path.is_dir():
        return [_send(far, path, to, force, progress)]
    if not recursive:
        raise RequestError(f"{path} is a folder.", "Send all that is in it with --recursive.")
    files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    root = PurePosixPath(to or ".") / path.resolve().name
    return [
        _send(far, file, str(root / file.relative_to(path)), force, progress, parents=True)
        for file in files
        if file.is_file()
    ]


def _fetch_all(
    far: Far, entries: list[Entry], target: Path, force: bool, progress: Progress | None
) -> Iterator[Moved]:
    target.mkdir(exist_ok=True)
    for entry in entries:
        if not entry.name:
            raise _strange(far, entry)
        if entry.kind == "folder" and entry.link:
            continue  # it may lead out of the folder, or back into it
        if entry.kind == "folder":
            _, below = listed(far, entry.path)
            yield from _fetch_all(far, below or [], target / entry.name, force, progress)
        elif entry.kind == "file":
            yield _fetch(far, entry, target / entry.name, force, progress)


def _checked(far: Far, entry: Entry) -> None:
    """Raise StorageError unless it is one; its name cannot lead out of the folder that it is fetched into."""
    name: Any = entry.name
    told: tuple[Any, ...] = (entry.size, entry.mode)
    if not isinstance(name, str) or name in (".", "..") or set(name) & {"/", "\0"}:
        raise _strange(far, entry)
    if any(type(number) is not int or number < 0 for number in told) or not _VERSION.fullmatch(
        str(entry.version)
    ):
        raise _strange(far, entry)
    changed_at: Any = entry.changed_at
    if type(changed_at) not in (int, float) or not abs(changed_at) <= TIME_MAX:
        raise _strange(far, entry)


def _strange(far: Far, entry: Entry) -> StorageError:
    return StorageError(
        f"{far.cluster} named a file {str(entry.name)[:80]!r}, which can be none here.",
        "Give its own name, and one to have here.",
    )


def _bytes(far: Far, told: Any) -> bytes:
    if not isinstance(told, bytes):
        raise far.strange()
    return told


def _fetch(far: Far, found: Entry, target: Path, force: bool, progress: Progress | None) -> Moved:
    if found.kind != "file":
        raise RequestError(f"{found.path} is no file.", "Name a file, or a folder with --recursive.")
    if target.exists() or target.is_symlink():
        if target.is_file() and target.stat().st_size == found.size and not force:
            return Moved(str(target), found.size, kept=True)
        if not force:
            raise StorageError(
                f"{target} is there already.", "Choose another name, or overwrite it with --force."
            )
    part = part_of(target, found.version)

    def once() -> None:
        with open_part(part) as file:
            done = file.tell()
            with far.talk("read", path=found.path, at=done, version=found.version) as talk:
                for told in talk.told():
                    data = _bytes(far, told)
                    if done + len(data) > found.size:
                        raise StorageError(f"{found.path} was changed while it was read.", "Try again.")
                    file.write(data)
                    done += len(data)
                    if progress is not None:
                        progress(found.path, done, found.size)

    far.insist(once)
    if part.stat().st_size != found.size:
        part.unlink()
        raise StorageError(f"{found.path} was changed while it was read.", "Try again.")
    part.chmod(found.mode & 0o777 & ~umask())  # never one that runs as its owner
    part.replace(target)
    return Moved(str(target), found.size, kept=False)


def _send(
    far: Far, path: Path, to: str, force: bool, progress: Progress | None, *, parents: bool = False
) -> Moved:
    def once() -> Moved:
        with path.open("rb") as file:
            known = os.fstat(file.fileno())
            wanted = {
                "path": to, "name": path.name, "size": known.st_size, "version": version(known), "force": force,
                "mode": known.st_mode & 0o777, "parents": parents,
            }  # fmt: skip
            with far.talk("write", **wanted) as talk:
                parts = talk.told()
                try:
                    done = far.value(next(parts), "at", int)
                except StopIteration as end:
                    kept = far.value(end.value, "kept", bool)
                    return Moved(far.value(end.value, "path", str), known.st_size, kept=kept)
                if not 0 <= done <= known.st_size:
                    raise far.strange()
                file.seek(done)
                left = known.st_size - done
                while left and (data := file.read(min(BLOCK, left))):
                    if not talk.send_bytes(data):
                        break
                    left -= len(data)
                    if progress is not None:
                        progress(str(path), known.st_size - left, known.st_size)
                talk.close()
                return Moved(far.value(talk.result(parts), "path", str), known.st_size, kept=False)

    try:
        return far.insist(once)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}.", "Give a file that can be read.") from error

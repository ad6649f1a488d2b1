"""Files of another cluster, here: listed, read and written at the request of `launcher.api.remote.files`.

A file is written under another name beside its place and takes it at the end; a transfer that broke is gone on with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import RequestError, StorageError

BLOCK = 1 << 20


def serve(
    do: str,
    wanted: Mapping[str, Any],
    given: BinaryIO,
    tell: Callable[[Any], object],
    send: Callable[[bytes], object],
) -> Any:
    """Answer the request; raises OSError and LauncherError as they come."""
    path = there(str(wanted["path"]))
    if do == "list":
        return listing(path)
    if do == "read":
        return _read(path, int(wanted["at"]), wanted["version"], send)
    return _write(path, wanted, given, tell)


def there(path: str) -> Path:
    """The path as this user means it: `~` and nothing stand for the home, as for ssh; raises RequestError."""
    if "\0" in path:
        raise RequestError("A path cannot hold a NUL character.", "Give another path.")
    home = Path.home()
    return home / path.removeprefix("~/") if path.startswith("~/") else home / ("" if path == "~" else path)


def listing(path: Path) -> dict[str, Any]:
    """What `path` is and, of a folder, what is in it: name, kind, size, time of change, sorted by name."""
    found = described(path)
    if found["kind"] == "folder":
        entries = [described(Path(entry.path)) for entry in os.scandir(path)]
        found["entries"] = sorted(entries, key=lambda entry: str(entry["name"]))
    return found


def described(path: Path) -> dict[str, Any]:
    """One file or folder; a link is what it leads to, where it leads anywhere."""
    try:
        known = path.stat()
    except FileNotFoundError:
        known = path.lstat()
    kind = "folder" if stat.S_ISDIR(known.st_mode) else "file" if stat.S_ISREG(known.st_mode) else "other"
    return {
        "name": path.name, "path": str(path), "kind": kind, "size": known.st_size if kind == "file" else 0,
        "changed_at": known.st_mtime, "version": version(known), "mode": known.st_mode & 0o777,
        "link": path.is_symlink(),
    }  # fmt: skip


def version(known: os.stat_result) -> str:
    """What tells one content of a file from another: its size and the time of its last change."""
    return f"{known.st_size}-{known.st_mtime_ns}"


def part_of(path: Path, of: str) -> Path:
    """Where `path` is put together: a name that only the same content of the same file has."""
    # The name may already be as long as a name can be.
    return path.with_name(f".{path.name.encode()[:120].decode('utf-8', 'ignore')}.{of}.part")


def open_part(part: Path) -> BinaryIO:
    """Open `part` to go on writing at its end.

    Not through a link, nor into a file, that somebody else put there, and for nobody else to read meanwhile.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND | os.O_NONBLOCK
    file = os.fdopen(os.open(part, flags, 0o600), "ab")
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        file.close()
        raise StorageError(f"{part} belongs to somebody else.", "Choose a folder that only you can write to.")
    return file


def _read(path: Path, at: int, expected: str | None, send: Callable[[bytes], object]) -> dict[str, Any]:
    with path.open("rb") as file:
        known = os.fstat(file.fileno())
        if not stat.S_ISREG(known.st_mode):
            raise RequestError(f"{path} is no file.", "Name a file, or a folder with --recursive.")
        if expected is not None and version(known) != expected:
            raise StorageError(f"{path} was changed while it was read.", "Try again.")
        file.seek(at)
        while data := file.read(BLOCK):
            send(data)
    return {"version": version(known)}


def _write(
    path: Path, wanted: Mapping[str, Any], given: BinaryIO, tell: Callable[[Any], object]
) -> dict[str, Any]:
    size, of, force = int(wanted["size"]), str(wanted["version"]), bool(wanted["force"])
    name = str(wanted["name"])
    if "/" in of or "/" in name or name in ("", ".", ".."):
        raise RequestError("That is no name of a file.", "Give another name.")
    # Given a folder, a file keeps its name, as with cp.
    if path.is_dir():
        path = path / name
    if path.exists() or path.is_symlink():
        if described(path)["size"] == size and path.is_file() and not force:
            return {"path": str(path), "kept": True}
        if not force:
            raise StorageError(
                f"{path} is there already.", "Choose another name, or overwrite it with --force."
            )
    if bool(wanted.get("parents")):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path, of)
    with open_part(part) as file:
        there_already = file.tell()
        if there_already > size:
            file.truncate(0)
            there_already = 0
        tell({"at": there_already})
        left = size - there_already
        while left:
            data = given.read(min(BLOCK, left))
            if not data:
                raise StorageError(
                    f"{path}: the connection ended with {left} bytes missing.", "Go on: the same again."
                )
            file.write(data)
            left -= len(data)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(part, int(wanted.get("mode", 0o600)) & ~umask())
    os.replace(part, path)
    return {"path": str(path), "kept": False}


def umask() -> int:
    """What this process takes from the rights of the files that it makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""Folders of models that several people write: reached through descriptors, so that nobody can lead us elsewhere.

Whoever may write a shared folder may replace anything in it at any moment, also by a link to what is only ours. So each
part of a path is opened on its own, no link is followed, and rights are given only to what is open and new. New files
and folders get the folder's group and permissions, whatever the umask is; others never may write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from launcher.errors import StorageError
from launcher.models.disk import user_name

LOCK = ".launcher.lock"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TRIES = 5


class Folder:
    """An open folder; `path` is for sentences only, and everything in it is meant by its plain name.

    Raises OSError with the whole path, and StorageError for what is not of the kind that it should be.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder `path`, which the settings name: it may well be a link."""
        return cls(os.open(path, _FOLDER), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Not only `with`: after Ctrl-C a silent transfer may still hold it.
        self.close()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if (descriptor := self.descriptor) >= 0:
            self.descriptor = -1
            os.close(descriptor)

    def folder(self, name: str, *, make: bool = False) -> Folder:
        """The folder `name` in it, which is made where it is missing, if asked."""
        for _ in range(_TRIES):
            with self._named(name):
                try:
                    return Folder(self._opened(name), self.path / name)
                except FileNotFoundError:
                    if not make:
                        raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self.descriptor)
                    return self._made(name)
        raise self.refused(name, "a folder")

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of the regular file `name`."""
        with self._named(name):
            try:
                descriptor = os.open(name, flags | _FILE, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise
                raise self.refused(name, "a file") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self.refused(name, "a file")
        return descriptor

    def new(self, name: str, *, shared: bool = False) -> int:
        """A descriptor of the file `name`, which nobody had; the group may write it only when it is `shared` work."""
        with self._named(name):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
            descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
            mode = os.fstat(self.descriptor).st_mode
            self._share(descriptor, 0o600 | (mode & (0o060 if shared else 0o040)) | (mode & 0o004))
        return descriptor

    def status(self, name: str) -> os.stat_result | None:
        """What `name` is, a link for itself; None where there is nothing."""
        with self._named(name):
            try:
                return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def holds(self, name: str, descriptor: int) -> bool:
        """Whether `name` still is what is open as `descriptor`."""
        there, here = self.status(name), os.fstat(descriptor)
        return there is not None and (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def names(self) -> list[str]:
        """What is in it, sorted."""
        with self._named(""):
            return sorted(os.listdir(self.descriptor))

    def rename(self, name: str, to: str, into: Folder | None = None) -> None:
        """Call `name` `to`, here or in the folder `into`; what was called so is gone."""
        into = into or self
        with self._named(to):
            os.rename(name, to, src_dir_fd=self.descriptor, dst_dir_fd=into.descriptor)

    def unlink(self, name: str) -> None:
        """Remove the file or link `name`, if there is one."""
        with self._named(name), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def write(self, name: str, text: str) -> None:
        """Let the file `name` say `text`, in one step."""
        beside = f".{secrets.token_hex(8)}"
        descriptor = self.new(beside, shared=True)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
            self.rename(beside, name)
        except BaseException:
            self.unlink(beside)
            raise

    def link(self, name: str, target: str) -> None:
        """Let `name` be a link to `target`, in one step."""
        with self._named(name), contextlib.suppress(OSError):
            if os.readlink(name, dir_fd=self.descriptor) == target:
                return
        beside = f".{secrets.token_hex(8)}"
        with self._named(name):
            os.symlink(target, beside, dir_fd=self.descriptor)
        try:
            self.rename(beside, name)
        except BaseException:
            self.unlink(beside)
            raise

    def refused(self, name: str, kind: str) -> StorageError:
        """The error for `name` that is not `kind`, or does not stay so; names who made it."""
        status = self.status(name) or os.fstat(self.descriptor)
        owner = user_name(status.st_uid)
        return StorageError(
            f"{self.path / name} should be {kind}, and {owner} made something else of it.",
            f"Ask {owner} to take it away, and do not use this folder until you know why.",
        )

    def _opened(self, name: str) -> int:
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise self.refused(name, "a folder") from None

    def _made(self, name: str) -> Folder:
        made = Folder(descriptor := self._opened(name), self.path / name)
        status, above = os.fstat(descriptor), os.fstat(self.descriptor).st_mode
        # Only what is plainly new gets the rights of the folder above: another folder of ours may have taken its place.
        if status.st_uid == os.geteuid() and set(os.listdir(descriptor)) <= {LOCK}:
            self._share(descriptor, 0o700 | (above & (stat.S_ISGID | 0o070)) | (above & 0o005))
        return made

    def _share(self, descriptor: int, mode: int) -> None:
        group = os.fstat(self.descriptor).st_gid
        if os.fstat(descriptor).st_gid != group:
            try:
                os.fchown(descriptor, -1, group)
            except PermissionError:
                mode &= ~0o020  # not a member: then it has a group of ours, whom nobody meant
        os.fchmod(descriptor, mode)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = str(self.path / name), None
            raise

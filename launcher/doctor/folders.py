"""The shared folders of models: can every user read them and what is in them, and is it whole?"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.doctor.checks import OK, Check, fail, warn
from launcher.doctor.readable import check_readable
from launcher.errors import LauncherError
from launcher.models.index import Kept, kept
from launcher.models.snapshot import check_snapshot
from launcher.settings.schema import Settings

_AT = "models.folders"
_NAMED = 3
# A folder of thousands of models on a slow disk: the first ones tell enough.
_PATIENCE_S = 20.0


def check_model_folders(settings: Settings) -> Iterator[Check]:
    """Each shared folder, then the models in it that others cannot read, and those that cannot be served."""
    if not settings.models.folders:
        says = "names no shared folder: each user keeps copies."
        yield warn(_AT, says, "Name one that all may read.")
        return
    copies = kept(settings, patience_s=_PATIENCE_S)
    for name in settings.models.folders:
        folder = Path(name)
        check = _folder(folder)
        yield check
        if check.verdict == OK:
            yield from _inside(folder, [copy for copy in copies if copy.folder == folder], settings)


def _folder(folder: Path) -> Check:
    try:
        with os.scandir(folder) as listing:
            count = sum(not entry.name.startswith(".") for entry in listing)
    except PermissionError:
        found = check_readable(_AT, folder)
        if found.fix is not None:
            return fail(_AT, found.says, found.fix)
        return fail(_AT, f"{folder}: Permission denied.", "Ask whoever keeps it to let you read it.")
    except OSError as error:
        return fail(_AT, f"{folder}: {error.strerror}.", "Make it, or correct its path.")
    return check_readable(_AT, folder, f": {count} {'entry' if count == 1 else 'entries'}")


def _inside(folder: Path, copies: Sequence[Kept], settings: Settings) -> Iterator[Check]:
    seen = _Seen(time.monotonic() + _PATIENCE_S)
    closed = dict.fromkeys(copy.id for copy in copies if not seen.is_open(copy.path, folder))
    if closed:
        says = f"In {folder} others cannot read {_some(list(closed))}."
        yield warn(_AT, says, f"Unless that is meant: chmod -R a+rX {folder}")
    open_ = [copy for copy in copies if copy.id not in closed]
    broken = {copy.id: why for copy in open_ if (why := _trouble(copy, settings)) is not None}
    if broken:
        says = f"In {folder} {_some(list(broken))} cannot be served. {next(iter(broken.values()))}"
        yield warn(_AT, says, "See each with launcher resolve MODEL.")


def _trouble(copy: Kept, settings: Settings) -> str | None:
    # The index also calls it trouble when it cannot tell what a model is, which no launch is refused for.
    if copy.trouble is None:
        return None
    try:
        check_snapshot(copy.path, copy.id, pickle_weights=settings.allow.pickle_weights)
    except LauncherError as error:
        return error.message
    return None


class _Seen:
    """Which files others can read; a folder is looked at once, and after `until` nothing is."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._folders: dict[str, bool] = {}

    def is_open(self, copy: Path, below: Path) -> bool:
        """Whether others can read every file in the snapshot `copy`, and pass the folders between it and `below`."""
        if time.monotonic() > self._until:
            return True
        if not all(self._folder(str(part)) for part in (copy, *copy.parents) if part.is_relative_to(below)):
            return False
        try:
            if not os.stat(copy).st_mode & stat.S_IROTH:
                return False
            with os.scandir(copy) as listing:
                return all(self._file(entry) for entry in listing)
        except OSError:
            return True  # what is missing is said to be broken

    def _file(self, entry: os.DirEntry[str]) -> bool:
        try:
            if entry.is_symlink():
                target = os.path.join(os.path.dirname(entry.path), os.readlink(entry.path))
                if not self._folder(os.path.dirname(os.path.normpath(target))):
                    return False
            mode = entry.stat().st_mode
        except OSError:
            return True
        return bool(mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH))

    def _folder(self, path: str) -> bool:
        if path not in self._folders:
            try:
                mode = os.stat(path).st_mode
                self._folders[path] = bool(mode & stat.S_IXOTH)
            except OSError:
                self._folders[path] = True
        return self._folders[path]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    shown = ", ".join(name[:100] for name in names[:_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown

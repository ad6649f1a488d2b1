"""Which models are kept on this machine, quickly: the folders are looked at once, then only where something changed.

One private file for each folder remembers what was seen; a damaged, older or foreign one is as good as none. What a
model is (launcher.models.inspect.facts) is read when it is first asked for, and remembered too.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from launcher.errors import LauncherError
from launcher.models import folders
from launcher.models.disk import is_own
from launcher.models.inspect.facts import Facts, facts
from launcher.models.remembered import Remembered, read_checked, write_checked
from launcher.models.sight import CROWDED, Sight, look
from launcher.settings.schema import Settings

_SCHEMA = 2
# A folder changed within the clock's grain of the look at it may have changed once more without a newer time.
_GRAIN_NS = 2_000_000_000
_USES_MAX = 5000
_LOOKS_S = 2.0  # how much longer than reading models the looks at their names may take
_ODD = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Kept(NamedTuple):
    """One snapshot on this machine; sizes in bytes, times as Unix seconds.

    `trouble` says why it cannot be served; `used_at` is when this user last started it, None for never. A tuple, and
    not a dataclass, because that is a fifth of the time for ten thousand.
    """

    id: str
    revision: str | None
    refs: tuple[str, ...]
    at: str
    folder: Path
    layout: str
    bytes: int
    trouble: str | None
    used_at: float | None
    modified_at: float
    remembered: Remembered
    about: str

    @property
    def path(self) -> Path:
        """The folder of the snapshot."""
        return Path(self.at)

    @property
    def facts(self) -> Facts | None:
        """What the model is; None where that is not known."""
        return self.remembered.get(self.about) if self.about else None


def kept(settings: Settings, *, patience_s: float | None = None, refresh: bool = False) -> list[Kept]:
    """Every snapshot in the folders of models, by folder and name.

    One listing of each folder and one stat for each model that is known already. Reading what new models are stops
    after `patience_s` (None: never): those have no `facts` this time. `refresh` forgets what was remembered.
    """
    remembered = _own(Path(settings.places.cache))
    until = None if patience_s is None else time.monotonic() + patience_s
    uses = _uses(remembered / "used") if remembered is not None else {}
    found: list[Kept] = []
    with _collector_paused():
        for folder in folders.folders_of(settings):
            found.extend(_Index(folder, remembered, refresh).kept(uses, until))
    return found


def note_use(snapshot: Path, cache: Path) -> None:
    """Remember in places.cache that `snapshot` is used now, if that can be written."""
    if (remembered := _own(cache)) is not None:
        name = hashlib.sha256(os.fsencode(snapshot)).hexdigest()[:32]
        write_checked(remembered / "used" / name, os.fsencode(snapshot), "used")


def forget(path: Path, settings: Settings) -> None:
    """Look anew, the next time, at what is in `path`, in one of the folders of models: it was changed or checked."""
    for folder in folders.folders_of(settings):
        if path.is_relative_to(folder) and path != folder:
            _Index(folder, _own(Path(settings.places.cache)), False).forget(path.relative_to(folder).parts[0])


def is_offered(model: Kept, settings: Settings) -> bool:
    """Whether the site lets `model` be started: everything, or only what its catalog names."""
    if settings.allow.models == "any":
        return True
    from launcher.models.resolve import catalog_path  # the form does not need it, and has no time

    for entry in settings.catalog.values():
        if settings.from_user(f"catalog.{entry.name}"):
            continue  # resolve refuses it
        if entry.path is not None:
            if model.path.is_relative_to(catalog_path(entry)):
                return True
        elif entry.id is not None and model.id in (entry.id, entry.id.rpartition("/")[2]):
            return True
    return False


class _Index:
    """What is remembered of one folder: for each entry in it, what was watched and what was seen."""

    def __init__(self, folder: Path, remembered: Path | None, refresh: bool) -> None:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._folder = folder
        self._file = remembered and remembered / f"{name}.index"
        self._facts = Remembered(remembered and remembered / f"{name}.facts")
        self._shape = f"{_SCHEMA} {folder}"
        self._known: dict[str, list[Sight]] = {} if refresh else self._read()
        self._changed = refresh

    def kept(self, uses: dict[str, float], until: float | None) -> Iterator[Kept]:
        known = self._known
        seen: dict[str, list[Sight]] = {}
        base = f"{self._folder}/"
        stale = []
        for name in folders.entries(self._folder):
            sights = known.get(name)
            if sights is not None and _is_fresh(base, sights):
                seen[name] = sights
            else:
                stale.append(name)
        looks_until = None if until is None else max(until, time.monotonic()) + _LOOKS_S
        # First what was never seen: somebody may have made folders that take all the time, each time.
        for name in sorted(stale, key=known.__contains__):
            try:
                seen[name] = look(self._folder, name, looks_until)
                self._changed = True
            except TimeoutError:
                if name in known:
                    seen[name] = known[name]
        if stale:
            seen = dict(sorted(seen.items()))
        for sights in seen.values():
            for number, sight in enumerate(sights):
                if not sight.asked and (until is None or time.monotonic() < until):
                    sights[number] = self._asked(sight, until)
                    self._changed = True
        if self._changed or len(seen) != len(known):
            self._write(seen)
        folder, used, facts_of = self._folder, uses.get, self._facts
        for sights in seen.values():
            for _, _, _, model, commit, refs, path, layout, size, trouble, modified_at, _, about in sights:
                at = base + path
                yield Kept(
                    model, commit, refs, at, folder, layout, size, trouble, used(at), modified_at, facts_of, about
                )  # fmt: skip

    def forget(self, entry: str) -> None:
        """Drop what was seen of `entry`."""
        if self._known.pop(entry, None) is not None:
            self._write(self._known)

    def _asked(self, sight: Sight, until: float | None) -> Sight:
        if sight.trouble is not None:
            return sight._replace(asked=True)
        try:
            what = facts(self._folder / sight.path, listed=True, until=until)
            return sight._replace(asked=True, about=self._facts.add(what))
        except TimeoutError:
            return sight
        except LauncherError as error:
            return sight._replace(asked=True, trouble=_short(error.message, self._folder / sight.path))
        except _ODD as error:  # anybody may have made it, and the others are still to be listed
            return sight._replace(asked=True, trouble=f"It cannot be understood ({type(error).__name__}).")

    def _read(self) -> dict[str, list[Sight]]:
        known: dict[str, list[Sight]] = {}
        shape, _, rest = read_checked(self._file, self._shape).partition("\n")
        try:
            for line in rest.splitlines():
                # Tabs, and not JSON: a third of the time. _write leaves out what holds one.
                entry, times, seen, model, commit, refs, path, layout, size, trouble, at, asked, about = (
                    line.split("\t")
                )
                sight = Sight(
                    entry, tuple(map(int, times.split())), int(seen), model, commit or None, tuple(refs.split()),
                    path, layout, int(size), trouble or None, float(at), asked == "1", about,
                )  # fmt: skip
                if entry in known:
                    known[entry].append(sight)
                else:
                    known[entry] = [sight]
        except ValueError:
            return {}
        if shape and shape != self._facts.stamp():
            # Somebody else wrote the facts, or nobody has them any more.
            return {entry: [self._sure(sight) for sight in sights] for entry, sights in known.items()}
        return known

    def _sure(self, sight: Sight) -> Sight:
        return (
            sight if not sight.about or sight.about in self._facts else sight._replace(asked=False, about="")
        )

    def _write(self, seen: dict[str, list[Sight]]) -> None:
        self._facts.write({sight.about for sights in seen.values() for sight in sights})
        lines = [self._facts.stamp()]
        for sights in seen.values():
            for s in sights:
                texts = [s.entry, s.id, s.path, s.trouble or "", *s.refs]
                if all(text.isprintable() for text in texts) and not any(" " in ref for ref in s.refs):
                    lines.append(
                        f"{s.entry}\t{' '.join(map(str, s.times))}\t{s.seen_ns}\t{s.id}\t{s.commit or ''}\t"
                        f"{' '.join(s.refs)}\t{s.path}\t{s.layout}\t{s.bytes}\t{s.trouble or ''}\t{s.modified_at}\t"
                        f"{int(s.asked)}\t{s.about}"
                    )
        write_checked(self._file, "\n".join(lines).encode("utf-8", "surrogateescape"), self._shape)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    # Ten thousand tuples without a ring among them: looking for rings took a fifth of the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _own(cache: Path) -> Path | None:
    """Where models are remembered; None where somebody else could change that, or nobody may write."""
    remembered = cache / "models"
    with contextlib.suppress(OSError):
        remembered.mkdir(parents=True, exist_ok=True, mode=0o700)
    return remembered if is_own(remembered) else None


def _is_fresh(base: str, sights: list[Sight]) -> bool:
    # What is not whole is looked at again each time: it may be on its way.
    try:
        for sight in sights:
            if sight.trouble is not None and not sight.about and sight.trouble != CROWDED:
                return False
            for path, changed_ns in zip(sight.watched(), sight.times, strict=True):
                if os.stat(base + path).st_mtime_ns != changed_ns or changed_ns > sight.seen_ns - _GRAIN_NS:
                    return False
    except (OSError, ValueError):
        return False
    return bool(sights)


def _short(message: str, path: Path) -> str:
    # Whoever reads it has the folder beside it.
    return message.replace(f"{path}: ", "").replace(f"{path}/", "")


def _uses(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        for _, entry in zip(range(_USES_MAX), listing, strict=False):
            if snapshot := read_checked(Path(entry.path), "used"):
                found[snapshot] = entry.stat().st_mtime
    return found

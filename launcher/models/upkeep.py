"""What a user does with models on the disk: find the copies of one, check every byte of them again, mend them."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launcher.errors import ModelError, RequestError
from launcher.models.disk import open_file, part
from launcher.models.folders import BLOB, HUB, Held, find, folders_of, hash_of
from launcher.models.hub.download import Added, add
from launcher.models.hub.transfer import Report
from launcher.models.inspect.header import file_bytes, read_header
from launcher.models.near import NAME, advice, known_names
from launcher.models.others import ForeignError
from launcher.models.resolve import catalog_entry, catalog_path
from launcher.models.snapshot import check_snapshot
from launcher.models.typed import typed
from launcher.settings.schema import Settings

_PIECE = 1 << 20
CATALOG = "catalog"  # the layout of what the site's settings name by its path


@dataclass(frozen=True, slots=True)
class Checked:
    """One snapshot after the check: `broken` maps files to what is wrong, `unknown` counts those without a hash.

    `note` says what a snapshot that is not broken is, where it is no model that vLLM loads.
    """

    id: str
    revision: str | None
    path: Path
    files: int
    bytes: int
    broken: dict[str, str]
    unknown: int
    note: str | None = None


def copies_of(model: str, settings: Settings, folder: str | None) -> list[Held]:
    """The snapshots of `model` (an id, a name or a catalog's name) on this disk, or only in `folder`, whole or not.

    Raises RequestError for a name or folder that cannot be, ModelError where there is none.
    """
    model, _ = typed(model)
    entry = catalog_entry(model, settings)
    if entry is not None and entry.path is not None:
        path = catalog_path(entry)
        return [Held(entry.name, None, (), path, path.parent, CATALOG)]
    if entry is not None and entry.id is None:
        raise RequestError(
            f'"{entry.name}" of the catalog needs no weights.', "There is nothing on the disk."
        )
    wanted = entry.id if entry is not None and entry.id is not None else model
    if not NAME.fullmatch(wanted):
        raise RequestError(f'"{wanted[:80]}" is not a model.', "Give an id such as org/name.")
    places = folders_of(settings)
    if folder is not None:
        place = Path(os.path.abspath(os.path.expanduser(folder)))
        if place not in places:
            raise RequestError(
                f"{place} is not a folder of models.", f"Give one of: {', '.join(map(str, places))}."
            )
        places = [place]
    if copies := _found(wanted, places):
        return copies
    # The catalog's own name for it is no advice.
    names = [name for name in known_names(settings) if entry is None or name != entry.name]
    alike = [name for name in names if name.lower() == wanted.lower()]
    if len(alike) == 1 and (copies := _found(alike[0], places)):
        return copies
    searched = ", ".join(map(str, places))
    raise ModelError(f'Model "{model}" is not in {searched}.', advice(wanted, names, settings))


def at_revision(copies: list[Held], revision: str) -> list[Held]:
    """The one of `copies` at a branch, a tag or a commit (of at least seven digits); raises ModelError without."""
    found = [
        copy for copy in copies
        if copy.commit and (revision in copy.refs or (len(revision) >= 7 and copy.commit.startswith(revision)))
    ]  # fmt: skip
    if len(found) != 1:
        here = ", ".join(", ".join([*copy.refs, (copy.commit or "")[:8]]) for copy in copies)
        raise ModelError(
            f'Model "{copies[0].id}" is not here at revision "{revision[:80]}".', f"Here are: {here}."
        )
    return found


def verify(
    held: Held, progress: Callable[[int], None] = lambda _: None, *, pickle_weights: bool = False
) -> Checked:
    """Read every file of one snapshot and compare it with its hash, which the hub's layout keeps as the blob's name.

    `progress` is called with the bytes of each piece. In a plain folder only completeness can be checked.
    """
    broken: dict[str, str] = {}
    files = total = unknown = 0
    for name, path in _files(held.path):
        files += 1
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                total += size
                if (whole := _whole(name, file)) is not None and size < whole:
                    broken[name] = f"it has {part(size, whole)}"
                    progress(size)
                    continue
                blob = _blob(path) if held.layout == HUB else None
                if blob is None:
                    unknown += 1
                    progress(size)
                    continue
                digest = hash_of(blob, size)
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    progress(len(piece))
            if digest.hexdigest() != blob:
                broken[name] = "it is damaged (its hash is not the hub's)"
        except FileNotFoundError:
            broken[name] = "it is a link to nothing"
        except (OSError, ValueError) as error:
            broken[name] = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    note = None
    if not broken:
        try:
            check_snapshot(held.path, held.id, pickle_weights=pickle_weights)
        except ForeignError as error:
            note = error.message
        except ModelError as error:
            broken[""] = error.message
    return Checked(held.id, held.commit, held.path, files, total, broken, unknown, note)


def repair(held: Held, found: Checked, settings: Settings, report: Report) -> Added:
    """Fetch from the hub what `verify` has found broken in the snapshot `held`; raises what `add` does."""
    again = frozenset(name for name in found.broken if name)
    added = add(held.id, settings, report, revision=held.commit, to=str(held.folder), again=again)
    with contextlib.suppress(ForeignError):
        check_snapshot(added.path, held.id, pickle_weights=settings.allow.pickle_weights)
    return added


def mend_command(held: Held, settings: Settings) -> str | None:
    """The command that does `repair`; None where the launcher did not make the folder, or may not download."""
    if held.layout != HUB or not settings.allow.downloads:
        return None
    return f"launcher models verify {held.id} --from {shlex.quote(str(held.folder))} --repair"


def _found(model: str, places: list[Path]) -> list[Held]:
    return [copy for place in places for copy in find(place, model)]


def _whole(name: str, file: BinaryIO) -> int | None:
    """How long the safetensors file `name` must be, by its own header; None for others, or without a header."""
    whole = None
    if name.endswith(".safetensors"):
        with contextlib.suppress(ValueError):
            whole = file_bytes(*read_header(file))
        file.seek(0)
    return whole


def _files(snapshot: Path) -> Iterator[tuple[str, Path]]:
    for folder, _, names in os.walk(snapshot):
        for name in sorted(names):
            path = Path(folder, name)
            yield str(path.relative_to(snapshot)), path


def _blob(path: Path) -> str | None:
    name = _target(path)
    return name if name is not None and BLOB.fullmatch(name) else None


def _target(path: Path) -> str | None:
    return os.path.basename(os.readlink(path)) if path.is_symlink() else None

"""From what a user typed (a path, a catalog name, an alias or `org/name`) to one snapshot at one commit.

Looks at the disk only; nothing is downloaded here, and never inside a job.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import launcher
from launcher.errors import ModelError, RequestError
from launcher.models.snapshot import check_snapshot, near_complete
from launcher.settings.schema import CatalogModel, Settings

SHIPPED = Path(launcher.__file__).parent / "models" / "shipped"
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?"
)  # the hub's limit: 96
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """One model: `snapshot` is None only for an engine that needs no weights; `found` says which copy and why."""

    id: str
    snapshot: Path | None
    revision: str | None
    found: str
    entry: CatalogModel | None


def resolve(model: str, settings: Settings, revision: str | None = None) -> ResolvedModel:
    """The snapshot that `model` means, complete and safe to load.

    Order: path, catalog name or alias, the site's shared folders, the user's own cache.
    Raises RequestError for a malformed name, ModelError (with near names) for an unknown or broken model.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise RequestError(f'"{revision[:60]}" is not a revision.', "Give a branch, a tag or a commit.")
    if _is_path(model):
        return _from_path(model, settings)
    if not _NAME.fullmatch(model):
        raise RequestError(
            f'"{model[:60]}" is not a model.', "Give a catalog name, an id such as org/name, or a path."
        )
    entry = catalog_entry(model, settings)
    closed = settings.allow.models == "catalog"
    if entry is not None and not (closed and settings.from_user(f"catalog.{entry.name}")):
        return _from_catalog(entry, settings, revision)
    if closed:
        raise ModelError(f'Model "{model}" is not offered here.', _advice(model, sorted(settings.catalog)))
    return _from_folders(model, settings, revision, None)


def catalog_entry(model: str, settings: Settings) -> CatalogModel | None:
    """The catalog's entry called `model`, by name, alias or id."""
    if model in settings.catalog:
        return settings.catalog[model]
    return next((e for e in settings.catalog.values() if model in e.aliases or model == e.id), None)


def known_names(settings: Settings) -> list[str]:
    """Every name that would resolve, the catalog's first."""
    names = [entry.name for entry in settings.catalog.values() if not entry.hidden]
    if settings.allow.models == "any":
        for folder in _folders(settings):
            names.extend(name for name in _names_in(folder) if name not in names)
    return names


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..")


def _from_path(model: str, settings: Settings) -> ResolvedModel:
    if not model.isprintable() or len(model) > 4000:
        raise RequestError(
            "The path of the model holds a character that cannot be shown, or is too long.",
            "Give a plain path.",
        )
    folder = Path(os.path.abspath(os.path.expanduser(model)))
    if settings.allow.models == "catalog":
        raise ModelError(
            f"Only models of the catalog are offered here, not {folder}.",
            _advice(model, sorted(settings.catalog)),
        )
    if not os.path.isdir(folder):  # unlike Path.is_dir, it has no error of its own for a name too long
        raise ModelError(f"There is no folder {folder}.", "Check the path of the model.")
    check_snapshot(folder, model, pickle_weights=settings.allow.pickle_weights)
    return ResolvedModel(_path_id(folder), folder, _commit_of(folder), f"the path {folder}", None)


def _path_id(folder: Path) -> str:
    # .../models--org--name/snapshots/<commit> is org/name; any other folder is called by its own name.
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def _commit_of(folder: Path) -> str | None:
    return folder.name if folder.parent.name == "snapshots" else None


def _from_catalog(entry: CatalogModel, settings: Settings, revision: str | None) -> ResolvedModel:
    revision = revision or entry.revision
    if entry.path is not None:
        folder = _catalog_path(entry)
        if not os.path.isdir(folder):
            raise ModelError(
                f'Model "{entry.name}": {settings.origin(f"catalog.{entry.name}.path")} names {folder}, '
                "which is not there.",
                "Ask the site to correct the catalog.",
            )
        check_snapshot(folder, entry.name, pickle_weights=settings.allow.pickle_weights)
        return ResolvedModel(
            entry.id or entry.name, folder, _commit_of(folder), "the path in the catalog", entry
        )
    if entry.id is not None:
        return _from_folders(entry.id, settings, revision, entry)
    return ResolvedModel(entry.name, None, None, "the catalog", entry)


def _catalog_path(entry: CatalogModel) -> Path:
    path = entry.path or ""
    if path.startswith("shipped:"):
        return SHIPPED / path.removeprefix("shipped:")
    return Path(os.path.expanduser(path))


def _from_folders(
    model: str, settings: Settings, revision: str | None, entry: CatalogModel | None
) -> ResolvedModel:
    folders = _folders(settings)
    for folder in folders:
        snapshot = _hub_snapshot(folder, model, revision)
        if snapshot is None and revision is None and near_complete(folder / model):
            snapshot = folder / model
        if snapshot is not None:
            check_snapshot(snapshot, model, pickle_weights=settings.allow.pickle_weights)
            return ResolvedModel(model, snapshot, _commit_of(snapshot), f"the copy in {folder}", entry)
    at = f' at revision "{revision}"' if revision else ""
    searched = ", ".join(str(folder) for folder in folders)
    raise ModelError(
        f'Model "{model}"{at} was not found in the catalog or in {searched}.',
        _advice(model, known_names(settings)),
    )


def _folders(settings: Settings) -> list[Path]:
    return [Path(os.path.expanduser(p)) for p in (*settings.models.folders, settings.models.cache)]


def _hub_snapshot(folder: Path, model: str, revision: str | None) -> Path | None:
    # Layout of the hub's cache: models--org--name/refs/<branch> holds the commit, snapshots/<commit>/ the files.
    root = folder / f"models--{model.replace('/', '--')}"
    ref = root / "refs" / (revision or "main")
    try:
        commit = ref.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision or ""
    if not commit:
        return None
    found = sorted((root / "snapshots").glob(f"{commit}*")) if re.fullmatch(r"[0-9a-f]{7,40}", commit) else []
    return found[0] if len(found) == 1 else None


def _names_in(folder: Path) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("models--"):
            yield entry.name.removeprefix("models--").replace("--", "/", 1)
        elif not entry.name.startswith(".") and near_complete(Path(entry.path)):
            yield entry.name


def _advice(model: str, names: list[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = [lowered[n] for n in difflib.get_close_matches(model.lower(), lowered, 3)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"Known here: {', '.join(names[:8])}{more}."
    return "No model is known here; give a path."

"""From what a user typed (a path, a catalog name, an alias or `org/name`) to one snapshot at one commit.

Looks at the disk only; nothing is downloaded here, and never inside a job.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import launcher
from launcher.errors import ModelError, RequestError
from launcher.models.folders import HUB, Held, find, folders_of, id_of, repository
from launcher.models.known import called
from launcher.models.near import NAME, add_command, advice, catalog_names, known_names
from launcher.models.revisions import by_revision, choose, commits_words
from launcher.models.snapshot import CTRANSLATE2, DOWNLOAD_AGAIN, check_snapshot
from launcher.models.speech import check_engine, missing_copy
from launcher.models.typed import is_path, typed
from launcher.settings.schema import CatalogModel, Settings

SHIPPED = Path(launcher.__file__).parent / "models" / "shipped"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Another copy of the model, and why it is not the one."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """One model: `snapshot` is None only for an engine that needs no weights; `found` says which copy and why.

    `refs` are the branches and tags at the commit `revision`; `layout` is the folder's (launcher.models.folders),
    `format` the weights' (launcher.models.snapshot). `tokenizer` is false where the files that make text into tokens
    are missing: the engine then needs one named by its arguments.
    """

    id: str
    snapshot: Path | None
    revision: str | None
    found: str
    entry: CatalogModel | None
    refs: tuple[str, ...] = ()
    layout: str | None = None
    format: str | None = None
    tokenizer: bool = True
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def engine(self) -> str:
        """What runs it: as the catalog says, else what loads its files, which for nearly all is vLLM."""
        if self.format == CTRANSLATE2 and (self.entry is None or self.entry.engine == "vllm"):
            return "whisper"
        return self.entry.engine if self.entry else "vllm"


def resolve(
    model: str, settings: Settings, revision: str | None = None, *, everywhere: bool = False
) -> ResolvedModel:
    """The snapshot that `model` means, complete and safe to load.

    Order: path, catalog name or alias, the site's shared folders, the user's own cache; the first whole copy is taken.
    With `everywhere` the folders behind it are looked at too, only to name the copies there in `passed_over`.
    Upper and lower case count only where both are there. `org/name@revision` and the address of a model's page do too.
    Raises RequestError for a malformed name, ModelError (with near names) for an unknown or broken model.
    """
    model, revision = typed(model, revision)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise RequestError(f'"{revision[:60]}" is not a revision.', "Give a branch, a tag or a commit.")
    if is_path(model):
        return _from_path(model, settings, revision)
    if not NAME.fullmatch(model):
        raise RequestError(
            f'"{model[:60]}" is not a model.', "Give a catalog name, an id such as org/name, or a path."
        )
    entry = catalog_entry(model, settings)
    closed = settings.allow.models == "catalog"
    if entry is not None and not (closed and settings.from_user(f"catalog.{entry.name}")):
        names = (entry.name, entry.id, *entry.aliases)
        return _spelt(_from_catalog(entry, settings, revision, everywhere), model, names)
    if closed:
        raise ModelError(
            f'Model "{model}" is not offered here.', advice(model, sorted(catalog_names(settings)), settings)
        )
    found = _from_folders(model, settings, revision, None, everywhere)
    return found or _by_listing(model, settings, revision, everywhere)


def catalog_entry(model: str, settings: Settings) -> CatalogModel | None:
    """The catalog's entry called `model`, by name, alias or id; in any case of letters where only one is."""
    if model in settings.catalog:
        return settings.catalog[model]
    entries = settings.catalog.values()
    if exact := next((e for e in entries if model in e.aliases or model == e.id), None):
        return exact
    lowered = model.lower()
    alike = [e for e in entries if lowered in (name.lower() for name in (e.name, *e.aliases, e.id or ""))]
    return alike[0] if len(alike) == 1 else None


def _spelt(found: ResolvedModel, model: str, names: Iterable[str | None]) -> ResolvedModel:
    # What was typed in other letters is said as it is written.
    alike = [name for name in names if name and name.lower() == model.lower()]
    if not alike or model in alike:
        return found
    return replace(found, found=f"{found.found}, written {alike[0]}")


def _from_path(model: str, settings: Settings, revision: str | None) -> ResolvedModel:
    if not model.isprintable() or len(model) > 4000:
        raise RequestError(
            "The path of the model holds a character that cannot be shown, or is too long.",
            "Give a plain path.",
        )
    folder = Path(os.path.abspath(os.path.expanduser(model)))
    if settings.allow.models == "catalog":
        raise ModelError(
            f"Only models of the catalog are offered here, not {folder}.",
            advice(model, sorted(catalog_names(settings)), settings),
        )
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except PermissionError:
        raise ModelError(
            f"You may not look into {folder.parent}.", "Ask whoever keeps the folder to let you read it."
        ) from None
    except OSError:
        raise ModelError(f"There is no folder {folder}.", "Check the path of the model.") from None
    if not is_folder:
        raise ModelError(f"{folder} is a file, not a folder.", "Give the folder that holds the model.")
    return _at(folder, _path_id(folder, settings), settings, revision, f"the path {folder}", None)


def _path_id(folder: Path, settings: Settings) -> str:
    # .../models--org--name/snapshots/<commit> is org/name, and so is org/name below a folder of models; any other
    # folder is called by its own name.
    repository_of = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if (known := id_of(repository_of.name)) is not None:
        return known
    if folder.parent.parent in folders_of(settings) and NAME.fullmatch(own := "/".join(folder.parts[-2:])):
        return own
    return folder.name


def _from_catalog(
    entry: CatalogModel, settings: Settings, revision: str | None, everywhere: bool
) -> ResolvedModel:
    pinned = None
    if revision is None and entry.revision is not None:
        revision, pinned = entry.revision, settings.where(f"catalog.{entry.name}.revision")
    if entry.path is not None:
        folder = catalog_path(entry)
        if not os.path.isdir(folder):
            raise ModelError(
                f'Model "{entry.name}": {settings.where(f"catalog.{entry.name}.path")} names {folder}, '
                "which is not there.",
                "Ask the site to correct the catalog.",
            )
        found = _at(folder, entry.name, settings, revision, "the path in the catalog", entry, pinned)
        return replace(found, id=entry.id or entry.name)
    if entry.id is not None:
        found_here = _from_folders(entry.id, settings, revision, entry, everywhere, pinned)
        if found_here is not None:
            return found_here
        searched = ", ".join(str(folder) for folder in folders_of(settings))
        raise ModelError(
            f'Model "{entry.name}": {settings.where(f"catalog.{entry.name}.id")} offers {entry.id}, which is not in '
            f"{searched}.",
            f"To download it: {add_command(entry.id, revision)}"
            if settings.allow.downloads
            else "Ask the site to download it.",
        )
    return ResolvedModel(entry.name, None, None, "the catalog", entry)


def catalog_path(entry: CatalogModel) -> Path:
    """The folder that an entry of the catalog names by its path."""
    path = entry.path or ""
    if path.startswith("shipped:"):
        return SHIPPED / path.removeprefix("shipped:")
    return Path(os.path.expanduser(path))


def _at(
    folder: Path,
    model: str,
    settings: Settings,
    revision: str | None,
    found: str,
    entry: CatalogModel | None,
    pinned: str | None = None,
) -> ResolvedModel:
    """The model in `folder` itself: a plain folder, a snapshot of the hub's layout or a whole repository of it."""
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if id_of(root.name) is None:
        if revision is not None:
            raise ModelError(f'Model "{model}": {folder} is a plain folder, which has no revisions.',
                             _without(revision, pinned))  # fmt: skip
        return _checked(Held(model, None, (), folder, folder.parent, "path"), model, settings, found, entry)
    copies = repository(root, model, root.parent)
    if root == folder or revision is not None:
        chosen, why = choose(copies, revision)
        if chosen is None:
            raise ModelError(f'Model "{model}": in {root}, {why}{_set_by(pinned)}.', commits_words(copies))
    else:
        chosen = next((copy for copy in copies if copy.path == folder), None) or Held(
            model, folder.name, (), folder, root.parent, HUB
        )
    return _checked(chosen, model, settings, found, entry)


def _checked(
    copy: Held, model: str, settings: Settings, found: str, entry: CatalogModel | None
) -> ResolvedModel:
    if settings.allow.downloads and copy.layout == HUB and "/" in copy.id:
        again = f"To download what is missing: {add_command(copy.id, copy.commit)}"
    else:
        again = DOWNLOAD_AGAIN
    whole = check_snapshot(copy.path, model, pickle_weights=settings.allow.pickle_weights, again=again)
    if entry is not None:
        check_engine(entry, whole.format, copy.path, settings)
    layout = None if copy.layout == "path" else copy.layout
    return ResolvedModel(
        copy.id, copy.path, copy.commit, found, entry, copy.refs, layout, whole.format, whole.tokenizer
    )


def _from_folders(
    model: str,
    settings: Settings,
    revision: str | None,
    entry: CatalogModel | None,
    everywhere: bool,
    pinned: str | None = None,
) -> ResolvedModel | None:
    """The first whole copy of the id or name `model` in the folders; None where no folder has any.

    `pinned` names the line of the settings that asks for the revision, where the user did not.
    """
    taken: ResolvedModel | None = None
    trouble: ModelError | None = None
    passed: list[PassedOver] = []
    seen: list[Held] = []
    for folder in folders_of(settings):
        if taken is not None and not everywhere:
            break
        copies = find(folder, model)
        seen += copies
        for copy, why in by_revision(copies, revision):
            if why is None and taken is None:
                try:
                    taken = _checked(copy, model, settings, _found(copy, revision, settings), entry)
                    continue
                except ModelError as error:
                    trouble = trouble or error
                    why = error.message.removeprefix(f'Model "{model}"').lstrip(": ").removesuffix(".")
            passed.append(PassedOver(copy.path, why or "it comes later"))
    if taken is not None:
        return replace(taken, passed_over=tuple(passed))
    if trouble is not None:
        raise trouble
    if passed:
        raise _not_at(revision, model, settings, seen, passed, pinned)
    return None


def _not_at(
    revision: str | None,
    model: str,
    settings: Settings,
    seen: list[Held],
    passed: list[PassedOver],
    pinned: str | None,
) -> ModelError:
    there = commits_words(seen) or _without(revision, pinned)
    if settings.allow.downloads and settings.allow.models == "any" and "/" in model:
        # Beside a folder without revisions it is a second copy, and a choice.
        to = "To download it" if commits_words(seen) else f'To have "{revision}" as well'
        there = f"{there} {to}: {add_command(model, revision)}"
    if revision is None:
        return ModelError(f'Model "{model}": in {seen[0].folder}, {passed[0].why}.', there)
    reasons = {other.why for other in passed} - {f'it is not at revision "{revision}"'}
    why = f": {reasons.pop()}" if len(reasons) == 1 else ""
    return ModelError(f'Model "{model}" is not here at revision "{revision}"{_set_by(pinned)}{why}.', there)


def _set_by(pinned: str | None) -> str:
    return f", which {pinned} sets" if pinned else ""


def _without(revision: str | None, pinned: str | None) -> str:
    if pinned is None:
        return "Leave the revision out."
    return f'{pinned} sets the revision "{revision}"; ask the site to take it out.'


def _found(copy: Held, revision: str | None, settings: Settings) -> str:
    place = f"the shared folder {copy.folder}"
    if str(copy.folder) not in map(os.path.expanduser, settings.models.folders):
        place = f"your cache {copy.folder}"
    if copy.layout == HUB:
        if revision is None:
            return f"{'branch main' if 'main' in copy.refs else 'the only commit'} in {place}"
        return f"commit {copy.commit} in {place}" if revision not in copy.refs else f'"{revision}" in {place}'
    name = copy.path.relative_to(copy.folder)
    by = "" if str(name) == copy.id else ", by the last part of the id"
    return f"the plain folder {name} in {place}{by}"


def _by_listing(model: str, settings: Settings, revision: str | None, everywhere: bool) -> ResolvedModel:
    """The one model here whose id ends in /`model` or is `model` in other letters; raises ModelError without."""
    names = known_names(settings)
    lowered = model.lower()
    ids = (
        [name for name in names if name.endswith(f"/{model}")]
        or [name for name in names if name.lower() == lowered]
        or [name for name in names if name.lower().endswith(f"/{lowered}")]
    )
    if len(ids) == 1:
        found = _from_folders(ids[0], settings, revision, None, everywhere)
        if found is not None:
            return _spelt(found, model, (ids[0], ids[0].rpartition("/")[2]))
    if ids:
        raise ModelError(
            f'Several models are called "{model}".', f"Choose one of: {', '.join(sorted(ids)[:8])}."
        )
    if revision is None and (copy := called(model)) is not None:
        found = _from_folders(copy.id, settings, revision, None, everywhere)
        if found is None:
            raise missing_copy(model, copy, settings)
        return replace(found, found=f"{found.found}, which faster-whisper calls {model}")
    searched = ", ".join(f"{folder}{_state(folder)}" for folder in folders_of(settings))
    at = f' at revision "{revision}"' if revision else ""
    raise ModelError(
        f'Model "{model}"{at} was not found in the catalog or in {searched}.',
        advice(model, names, settings, revision),
    )


def _state(folder: Path) -> str:
    try:
        os.scandir(folder).close()
    except PermissionError:
        return " (which you may not read)"
    except OSError:
        return " (which is not there)"
    return ""

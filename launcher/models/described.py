"""A model and what it is, from wherever that can be learned without its weights.

In this order: this disk, a folder that holds only a description, the hub. For questions such as `launcher fit`; what a
session loads is `launcher.models.resolve`'s alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import called
from launcher.models.near import known_names
from launcher.models.resolve import ResolvedModel, resolve
from launcher.models.typed import is_path, typed
from launcher.settings.schema import Settings


def described(model: str, settings: Settings, revision: str | None = None) -> tuple[ResolvedModel, Facts]:
    """What `model` means and what it is; its `snapshot` is None where only the hub has it.

    Raises what `resolve` does, and ModelError where the hub cannot be asked or does not say.
    """
    model, revision = typed(model, revision)
    try:
        found = resolve(model, settings, revision)
        if found.snapshot is None:
            raise ModelError(f'Model "{found.id}" needs no weights.', "It runs anywhere.")
        return found, facts(found.snapshot)
    except ModelError as error:
        if is_path(model):
            folder = Path(os.path.expanduser(model))
            if settings.allow.models != "any" or not (folder / "config.json").is_file():
                raise
            what = facts(folder)
            return ResolvedModel(
                folder.resolve().name, folder, None, f"the description in {folder}", None
            ), what
        if "/" not in model and (copy := called(model)) is not None:
            model = copy.id
        if "/" not in model or settings.allow.models != "any" or not settings.allow.downloads:
            raise
        try:
            what = _on_the_hub(model, revision)
        except RequestError:
            raise
        except LauncherError as away:
            # What is wrong with a copy that is here is the answer, whether there is a way to the hub or not.
            raise error if model in known_names(settings) else ModelError(error.message, str(away)) from away
        return ResolvedModel(model, None, revision, "the hub", None), what


def _on_the_hub(model: str, revision: str | None) -> Facts:
    from launcher.models.hub.client import Hub, check_id, check_revision

    check_id(model)
    check_revision(revision)
    return Hub().facts(model, revision)

"""What a user typed or pasted for a model: a name, `org/name`, `org/name@revision`, a path, or its page on the hub."""

from __future__ import annotations

import re
from urllib.parse import unquote

from launcher.errors import RequestError

_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^?#]*)(?:[?#].*)?", re.DOTALL)
_NO_MODELS = frozenset(("datasets", "spaces", "collections", "papers", "docs", "blog", "posts"))
# What stands before the revision in the address of a file or of a list of files.
_VIEWS = frozenset(("tree", "blob", "raw", "resolve", "commit", "commits"))


def typed(model: str, revision: str | None = None) -> tuple[str, str | None]:
    """The name, id or path, and the revision, that are meant; neither is looked at any further.

    Raises RequestError for a page that is no model's, and for a revision that is given twice.
    """
    model, revision = model.strip(), revision if revision is None else revision.strip()
    if is_path(model):
        return model, revision
    own: str | None
    if (page := _PAGE.fullmatch(model)) is not None:
        name, own = _on_page(page[1], model)
    elif "@" in model:
        name, _, own = model.partition("@")
    else:
        return model, revision
    if own is not None and revision is not None:
        raise RequestError(
            f'"{model[:80]}" names a revision, and so does --revision {revision[:60]}.',
            "Leave one of them out.",
        )
    return name, revision if own is None else own


def is_path(model: str) -> bool:
    """Whether `model` is the path of a folder, and no name."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..")


def _on_page(path: str, typed_text: str) -> tuple[str, str | None]:
    parts = [part for part in path.split("/") if part]
    if not parts or parts[0] in _NO_MODELS:
        raise RequestError(f'"{typed_text[:80]}" is not the page of a model.', "Give an id such as org/name.")
    at = next((number for number, part in enumerate(parts) if number and part in _VIEWS), len(parts))
    revision = unquote(parts[at + 1]) if at + 1 < len(parts) else None
    return "/".join(parts[: min(at, 2)]), revision

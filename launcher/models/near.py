"""What to say to a name that no model here has: near names, and how to get the model.

Owns the advice, and the list of all names that it is drawn from, which is only made once there is an error to explain.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from launcher.models.folders import folders_of, ids
from launcher.models.known import converted, known_ids
from launcher.settings.schema import Settings

# The hub's own limit is 96.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_DIGITS = re.compile(r"\d+")


def known_names(settings: Settings) -> list[str]:
    """Every name that would resolve, the catalog's first, as far as it can be typed; lists all folders."""
    names = dict.fromkeys(name for name in catalog_names(settings) if not settings.catalog[name].hidden)
    if settings.allow.models == "any":
        for folder in folders_of(settings):
            names.update(dict.fromkeys(name for name in ids(folder) if NAME.fullmatch(name)))
    return list(names)


def catalog_names(settings: Settings) -> list[str]:
    """The names of the catalog, without a user's own entries where only the site's are offered."""
    closed = settings.allow.models == "catalog"
    return [name for name in settings.catalog if not (closed and settings.from_user(f"catalog.{name}"))]


def advice(model: str, names: list[str], settings: Settings, revision: str | None = None) -> str:
    """What to do instead of `model`, when `names` are all that would resolve."""
    may_download = settings.allow.downloads and settings.allow.models == "any"
    download = f"To download it: {add_command(model, revision)}" if may_download and "/" in model else None
    if download and (copy := converted(model)) is not None:
        download = f"Sessions serve a copy in CTranslate2's format; to download it: {add_command(copy.id)}"
    if near := _near(model, [name for name in names if name != model]):
        return " ".join(filter(None, (f"Did you mean {' or '.join(near)}?", download)))
    # Only one of the same size and version is offered for download.
    alike = [known for known in known_ids() if _DIGITS.findall(known) == _DIGITS.findall(model)]
    if may_download and (near := _near(model, alike)) and near[0] != model:
        other = "/" in model and model.lower() != near[0].lower()
        own = f", or the one you named: {add_command(model, revision)}" if other else ""
        return f"Did you mean {near[0]}? It is not here; to download it: {add_command(near[0])}{own}"
    if download:
        return download
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"Known here: {', '.join(names[:8])}{more}."
    return "No model is known here; give a path."


def add_command(model: str, revision: str | None = None) -> str:
    """The command that downloads `model`, which is an id."""
    return f"launcher models add {model}{f' --revision {revision}' if revision else ''}"


def parts_like(word: str, names: Iterable[str]) -> list[str]:
    """What `word` may have been meant for: parts of `names`, so that searching for them finds something."""
    parts = dict.fromkeys(part for name in names for part in re.split(r"[/_.-]", name.lower()) if part)
    return difflib.get_close_matches(word.lower(), parts, 3, 0.7)


def _near(model: str, names: Iterable[str]) -> list[str]:
    # By the whole name, then by the part behind the slash: the wrong organisation is as usual as a wrong letter.
    lowered = {name.lower(): name for name in names}
    found = difflib.get_close_matches(model.lower(), lowered, 3, 0.7)
    if not found:
        parts: dict[str, str] = {}
        for name in lowered:
            parts.setdefault(name.rpartition("/")[2], name)
        found = [parts[p] for p in difflib.get_close_matches(model.lower().rpartition("/")[2], parts, 3, 0.8)]
    # A model of another size or version is no typing error, where there is one that has the same numbers.
    alike = [name for name in found if _DIGITS.findall(name) == _DIGITS.findall(model)]
    return [lowered[name] for name in alike or found]

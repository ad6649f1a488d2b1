"""Which models the form offers, in groups by what they do: the catalog's first, then what lies in the folders.

Owns their order, labels and marks; on which profiles they cannot run is `weighed`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.models.disk import size
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import known
from launcher.models.near import NAME
from launcher.models.resolve import SHIPPED, ResolvedModel
from launcher.models.snapshot import check_snapshot
from launcher.ondemand.plain import plain
from launcher.ondemand.weighed import Weighing
from launcher.settings.schema import CatalogModel, Profile, Settings

MODELS_MAX = 2000  # a longer list helps nobody; the others can be named
_GROUPS = {
    "chat": "Chat",
    "vision": "Chat with images",
    "audio": "Chat with sound",
    "completion": "Text completion",
    "embedding": "Embeddings",
    "classification": "Ranking and classification",
    "reranking": "Ranking and classification",
    "transcription": "Speech to text",
}
_OTHER, _TRIAL = "Other models", "To try things out"


@dataclass(frozen=True, slots=True)
class Copy:
    """One model on this disk: what the form must know of it."""

    id: str
    path: Path
    bytes: int
    facts: Facts | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Offered:
    """One line of the form's list: `value` is what is posted, `unfit` the profiles on which it cannot run.

    `ready` is false for what cannot be launched at present: it is not on this disk, or broken, or too large.
    """

    value: str
    label: str
    group: str
    unfit: tuple[str, ...] = ()
    ready: bool = True


def offered(
    settings: Settings, profiles: Sequence[Profile], copies: Iterable[Copy], weighing: Weighing
) -> list[Offered]:
    """All models to offer, group by group; `copies` are the models on this disk, those that win first."""
    there: dict[str, Copy] = {}
    for copy in copies:
        if copy.id not in there or (there[copy.id].trouble and not copy.trouble):
            there[copy.id] = copy
    found = [*_catalog(settings, profiles, there, weighing), *_others(settings, profiles, there, weighing)]
    order = list(dict.fromkeys([_GROUPS["chat"], *_GROUPS.values(), _OTHER, _TRIAL]))
    return sorted(found, key=lambda model: order.index(model.group))[:MODELS_MAX]


def _catalog(
    settings: Settings, profiles: Sequence[Profile], there: Mapping[str, Copy], weighing: Weighing
) -> Iterator[Offered]:
    for entry in settings.catalog.values():
        if entry.hidden:
            continue
        if settings.allow.models == "catalog" and settings.from_user(f"catalog.{entry.name}"):
            continue  # resolve refuses it
        copy = _copy_of(entry, there, settings.allow.pickle_weights)
        title = entry.title or entry.id or entry.name
        yield _line(entry.name, title, copy, profiles, weighing, entry)


def _others(
    settings: Settings, profiles: Sequence[Profile], there: Mapping[str, Copy], weighing: Weighing
) -> Iterator[Offered]:
    if settings.allow.models == "catalog":
        return
    taken = {
        word
        for entry in settings.catalog.values()
        for word in (entry.name, *([entry.id] if entry.id else []), *entry.aliases)
    }
    for name in sorted(there, key=str.lower):
        if name not in taken and not there[name].trouble and NAME.fullmatch(name):
            yield _line(name, name, there[name], profiles, weighing, None)


def _copy_of(entry: CatalogModel, there: Mapping[str, Copy], pickle_weights: bool) -> Copy | None:
    if entry.path is None:
        copy = there.get(entry.id) if entry.id else None
        if copy is None or copy.trouble is None:
            return copy
        return dataclasses.replace(copy, trouble=_trouble(copy.path, entry.name, pickle_weights))
    shipped = entry.path.startswith("shipped:")
    folder = SHIPPED / entry.path.removeprefix("shipped:") if shipped else Path(entry.path).expanduser()
    if not folder.is_dir():
        return None
    trouble = None if shipped else _trouble(folder, entry.name, pickle_weights)
    try:
        what = facts(folder, listed=True)
    except (LauncherError, OSError):  # no reason to refuse it
        return Copy(entry.name, folder, 0, None, trouble)
    return Copy(entry.name, folder, what.stored_bytes or what.weights_bytes, what, trouble)


def _trouble(folder: Path, name: str, pickle_weights: bool) -> str | None:
    try:
        check_snapshot(folder, name, pickle_weights=pickle_weights)
    except (LauncherError, OSError) as error:
        return str(error)
    return None


def _line(
    value: str,
    title: str,
    copy: Copy | None,
    profiles: Sequence[Profile],
    weighing: Weighing,
    entry: CatalogModel | None,
) -> Offered:
    allowed = [p for p in profiles if not (entry and entry.profiles) or p.name in entry.profiles]
    words: list[str] = []
    unfit = {p.name for p in profiles} - {p.name for p in allowed}
    if entry is not None and entry.engine == "simulated":
        return Offered(value, plain(title), _TRIAL, _some(unfit, profiles), bool(allowed))
    about = known(entry.id or value if entry else value)
    what = copy.facts if copy else None
    ready = copy is not None and not copy.trouble
    if copy is None or copy.trouble:
        words.append("not on this disk" if copy is None else "broken copy")
    elif copy.bytes:
        words.append(size(copy.bytes))
    too_large = False
    if what is not None and copy is not None:
        # As a plan would have it, as far as weighing is concerned.
        model = ResolvedModel(copy.id, copy.path, None, "", entry)
        found = weighing.misfits(model, what, allowed)
        unfit |= found.profiles
        too_large = found.too_large
    if len(unfit) == len(profiles):
        words.append("too large here" if too_large else "runs on no hardware here")
        ready = False
    if entry is not None and entry.path is not None and entry.path.startswith("shipped:"):
        group = _TRIAL
    else:
        group = _GROUPS.get(what.task if what else about.task if about else "", _OTHER)
    label = plain(title) + (f" ({', '.join(words)})" if words else "")
    return Offered(value, label, group, _some(unfit, profiles), ready)


def _some(unfit: set[str], profiles: Sequence[Profile]) -> tuple[str, ...]:
    # What fits nowhere is marked and stays: hiding it would leave people to wonder where it is.
    return () if len(unfit) == len(profiles) else tuple(p.name for p in profiles if p.name in unfit)

"""Which models the form offers, in groups by what they do: the catalog's first, then what lies in the folders.

Owns their order, labels and marks; on which profiles they cannot run is `weighed`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.models.inspect.facts import Facts, facts
from launcher.models.known import known
from launcher.models.near import NAME
from launcher.models.resolve import SHIPPED
from launcher.ondemand.plain import plain
from launcher.ondemand.weighed import Weighing, resolved
from launcher.settings.schema import CatalogModel, Profile, Settings

MODELS_MAX = 2000  # a longer list helps nobody; the others can be named
_GROUPS = {
    "chat": "Chat",
    "vision": "Chat with images",
    "completion": "Text completion",
    "embedding": "Embeddings",
    "classification": "Ranking and classification",
    "reward": "Ranking and classification",
    "transcription": "Speech to text",
    "speech": "Speech",
}
_OTHER, _TRIAL = "Other models", "To try things out"
_GB = 2**30


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
    """One line of the form's list: `value` is what is posted, `unfit` the profiles on which it cannot run."""

    value: str
    label: str
    group: str
    unfit: tuple[str, ...] = ()


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
        copy = _copy_of(entry, there)
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


def _copy_of(entry: CatalogModel, there: Mapping[str, Copy]) -> Copy | None:
    if entry.path is None:
        return there.get(entry.id) if entry.id else None
    shipped = entry.path.startswith("shipped:")
    folder = SHIPPED / entry.path.removeprefix("shipped:") if shipped else Path(entry.path).expanduser()
    try:
        what = facts(folder)
    except (LauncherError, OSError) as error:
        return Copy(entry.name, folder, 0, None, None if folder.is_dir() else str(error))
    return Copy(entry.name, folder, what.stored_bytes or what.weights_bytes, what, None)


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
        return Offered(value, plain(title), _TRIAL, _some(unfit, profiles))
    about = known(entry.id or value if entry else value)
    what = copy.facts if copy else None
    if copy is None or copy.trouble:
        words.append("not on this disk" if copy is None else "not usable at present")
    elif copy.bytes:
        words.append(size(copy.bytes))
    if what is not None and copy is not None:
        found = weighing.misfits(resolved(copy.id, copy.path, entry), what, allowed, entry)
        unfit |= found.profiles
        if allowed and len(found.profiles) == len(allowed):
            needs = f"too large here: needs {found.needs_gb:.0f} GB" if found.needs_gb else None
            words.append(needs or "runs on no hardware here")
    if entry is not None and entry.path is not None and entry.path.startswith("shipped:"):
        group = _TRIAL
    else:
        group = _GROUPS.get(what.task if what else about.task if about else "", _OTHER)
    label = plain(title) + (f" ({', '.join(words)})" if words else "")
    return Offered(value, label, group, _some(unfit, profiles))


def _some(unfit: set[str], profiles: Sequence[Profile]) -> tuple[str, ...]:
    # What fits nowhere is marked and stays: hiding it would leave people to wonder where it is.
    return () if len(unfit) == len(profiles) else tuple(p.name for p in profiles if p.name in unfit)


def size(count: int) -> str:
    """`15 GB`, `270 MB`: how large a model is."""
    if count >= 0.95 * _GB:
        return f"{count / _GB:.0f} GB" if count >= 10 * _GB else f"{count / _GB:.1f} GB"
    return f"{max(1, round(count / 2**20))} MB"

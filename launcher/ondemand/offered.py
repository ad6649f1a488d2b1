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
from launcher.models.snapshot import CTRANSLATE2, check_snapshot
from launcher.ondemand import speech
from launcher.ondemand.plain import plain
from launcher.ondemand.weighed import Weighing
from launcher.settings.schema import CatalogModel, Profile, Settings

MODELS_MAX = 2000  # a longer list helps nobody; the others can be named
SPEECH = "Speech to text"
_GROUPS = {
    "chat": "Chat",
    "vision": "Chat with images",
    "audio": "Chat with sound",
    "completion": "Text completion",
    "embedding": "Embeddings",
    "classification": "Ranking and classification",
    "reranking": "Ranking and classification",
    "transcription": SPEECH,
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
    engine: str = "vllm"


def offered(
    settings: Settings, profiles: Sequence[Profile], copies: Iterable[Copy], weighing: Weighing
) -> list[Offered]:
    """All models to offer, group by group; `copies` are the models on this disk, those that win first."""
    there: dict[str, Copy] = {}
    for copy in copies:
        if copy.id not in there or (there[copy.id].trouble and not copy.trouble):
            there[copy.id] = copy
    lines = _Lines(settings, profiles, weighing, speech.Installed(settings))
    found = [*_catalog(lines, there), *_others(lines, there)]
    order = list(dict.fromkeys([_GROUPS["chat"], *_GROUPS.values(), _OTHER, _TRIAL]))
    return sorted(found, key=lambda model: order.index(model.group))[:MODELS_MAX]


def _catalog(lines: _Lines, there: Mapping[str, Copy]) -> Iterator[Offered]:
    settings = lines.settings
    for entry in settings.catalog.values():
        if entry.hidden:
            continue
        if settings.allow.models == "catalog" and settings.from_user(f"catalog.{entry.name}"):
            continue  # resolve refuses it
        copy = _copy_of(entry, there, settings.allow.pickle_weights)
        line = lines.line(entry.name, entry.title or entry.id or entry.name, copy, entry)
        # Many a site has no use for Whisper, and its users none for a model to try it that they cannot start.
        if line.ready or line.engine != speech.ENGINE or line.group != _TRIAL:
            yield line


def _others(lines: _Lines, there: Mapping[str, Copy]) -> Iterator[Offered]:
    settings = lines.settings
    if settings.allow.models == "catalog":
        return
    taken = {
        word
        for entry in settings.catalog.values()
        for word in (entry.name, *([entry.id] if entry.id else []), *entry.aliases)
    }
    for name in sorted(there, key=str.lower):
        copy = there[name]
        if name in taken or copy.trouble or not NAME.fullmatch(name):
            continue
        if copy.facts is None or not speech.is_for_another_engine(copy.facts, None, settings):
            yield lines.line(name, name, copy, None)


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


@dataclass(frozen=True, slots=True)
class _Lines:
    settings: Settings
    profiles: Sequence[Profile]
    weighing: Weighing
    whisper: speech.Installed

    def line(self, value: str, title: str, copy: Copy | None, entry: CatalogModel | None) -> Offered:
        """The line of one model."""
        profiles = self.profiles
        allowed = [p for p in profiles if not (entry and entry.profiles) or p.name in entry.profiles]
        unfit = {p.name for p in profiles} - {p.name for p in allowed}
        if entry is not None and entry.engine == "simulated":
            return Offered(value, plain(title), _TRIAL, _some(unfit, profiles), bool(allowed), entry.engine)
        about = known(entry.id or value if entry else value)
        what = copy.facts if copy else None
        words = [_state(copy)] if copy is None or copy.trouble or copy.bytes else []
        ready = copy is not None and not copy.trouble
        if what is not None and speech.is_for_another_engine(what, entry, self.settings):
            words.append("in a format for another engine")
            ready = False
        told = what or about
        kind = CTRANSLATE2 if told is not None and told.engine == speech.ENGINE else None
        # As a plan would have it, as far as weighing is concerned.
        model = ResolvedModel(
            copy.id if copy else value, copy.path if copy else None, None, "", entry, format=kind
        )
        trouble = self._misfits(model, what, allowed, unfit)
        if len(unfit) == len(profiles):
            words.append(trouble)
            ready = False
        if entry is not None and entry.path is not None and entry.path.startswith("shipped:"):
            group = _TRIAL
        else:
            task = told.task if told is not None else ""
            group = SPEECH if model.engine == speech.ENGINE else _GROUPS.get(task, _OTHER)
        label = plain(title) + (f" ({', '.join(words)})" if words else "")
        return Offered(value, label, group, _some(unfit, profiles), ready, model.engine)

    def _misfits(
        self, model: ResolvedModel, what: Facts | None, allowed: Sequence[Profile], unfit: set[str]
    ) -> str:
        """Add to `unfit` where `model` cannot run or should not; what to say where that is everywhere."""
        said = "runs on no hardware here"
        if model.engine == speech.ENGINE:
            lacking = self.whisper.lacks(model, allowed)
            unfit |= lacking
            if lacking and len(lacking) == len(allowed):
                said = "not installed here"
            allowed = [p for p in allowed if p.name not in lacking]
        if what is not None and allowed:
            found = self.weighing.misfits(model, what, allowed)
            unfit |= found.profiles
            if found.too_large:
                said = "too large here"
        if model.engine == speech.ENGINE:
            unfit |= speech.more_than_it_uses(allowed, unfit)
        return said


def _state(copy: Copy | None) -> str:
    if copy is None:
        return "not on this disk"
    return "broken copy" if copy.trouble else size(copy.bytes)


def _some(unfit: set[str], profiles: Sequence[Profile]) -> tuple[str, ...]:
    # What fits nowhere is marked and stays: hiding it would leave people to wonder where it is.
    return () if len(unfit) == len(profiles) else tuple(p.name for p in profiles if p.name in unfit)

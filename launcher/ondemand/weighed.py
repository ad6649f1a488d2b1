"""On which of a site's profiles a model cannot run, remembered from form to form: a thousand models take seconds.

The sum itself is `launcher.planning.choice`'s.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launcher as package
from launcher.models.fit.verdict import Fit
from launcher.models.inspect.facts import Facts
from launcher.models.resolve import ResolvedModel
from launcher.planning.choice import fit_on
from launcher.settings.schema import CatalogModel, Profile, Settings

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Misfits:
    """The profiles on which a model does not start; where that is for its size, what it needs in GB."""

    profiles: frozenset[str] = frozenset()
    needs_gb: float | None = None


class Weighing:
    """Weighs models until `until` (monotonic seconds); `seen` is what `memory` said last time.

    `complete` is false once a model had to be passed over for lack of time.
    """

    def __init__(
        self, settings: Settings, profiles: Sequence[Profile], seen: Mapping[str, Any], until: float
    ) -> None:
        about = (
            _SCHEMA,
            package.__version__,
            profiles,
            settings.environments,
            settings.limits,
            settings.locks,
        )
        self._digest = hashlib.sha256(repr(about).encode("utf-8", "surrogatepass")).hexdigest()
        found = seen.get("found") if seen.get("digest") == self._digest else None
        self._seen: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        self._found: dict[str, Any] = {}
        self._settings = settings
        self._until = until
        self.complete = True

    @property
    def memory(self) -> dict[str, Any]:
        """What to give to the next one; plain data."""
        return {"digest": self._digest, "found": self._found}

    def misfits(
        self, model: ResolvedModel, what: Facts, profiles: Sequence[Profile], entry: CatalogModel | None
    ) -> Misfits:
        """Where `model` does not start, of `profiles`; none where there was no time to see."""
        key = hashlib.sha256(repr((what, [p.name for p in profiles], entry)).encode("utf-8", "surrogatepass"))
        name = key.hexdigest()[:32]
        kept = self._seen.get(name)
        if not (isinstance(kept, list) and len(kept) == 2 and isinstance(kept[0], list)):
            if time.monotonic() > self._until:
                self.complete = False
                return Misfits()
            kept = self._weighed(model, what, profiles, entry)
        self._found[name] = kept
        return Misfits(frozenset(kept[0]), kept[1])

    def _weighed(
        self, model: ResolvedModel, what: Facts, profiles: Sequence[Profile], entry: CatalogModel | None
    ) -> list[Any]:
        arguments = entry.engine_args if entry else ()
        with_gpus = any(p.gpus for p in profiles)
        names: list[str] = []
        needs: list[float] = []
        for profile in profiles:
            found = [
                fit_on(model, what, profile, arguments, self._settings, gpus=n) for n in _counts(profile)
            ]
            if not any(fit.starts for fit in found):
                names.append(profile.name)
                if profile.gpus or not with_gpus:
                    needs += [fit.needs_gb for fit in found if _short(fit) and fit.needs_gb is not None]
        return [names, min(needs, default=None)]


def resolved(id_: str, path: Path, entry: CatalogModel | None) -> ResolvedModel:
    """The model as a plan would have it, as far as weighing is concerned."""
    return ResolvedModel(id_, path, None, "", entry)


def _short(found: Fit) -> bool:
    return found.needs_gb is not None and found.has_gb is not None and found.needs_gb > found.has_gb


def _counts(profile: Profile) -> list[int]:
    # The fewest and the most: what fits on neither fits on none in between.
    return sorted({profile.gpus, max(profile.gpus_max or 0, profile.gpus)})

"""On which of a site's profiles a model cannot run, remembered from form to form: a thousand models take seconds.

The sum itself is `launcher.planning.choice`'s.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import launcher as package
from launcher.errors import ModelError
from launcher.models.inspect.facts import Facts
from launcher.models.resolve import ResolvedModel
from launcher.planning.choice import reach
from launcher.settings.schema import Profile, Settings

_SCHEMA = 3


@dataclass(frozen=True, slots=True)
class Misfits:
    """The profiles on which a model does not start; `too_large` where memory is what lacks on the largest."""

    profiles: frozenset[str] = frozenset()
    too_large: bool = False


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

    def misfits(self, model: ResolvedModel, what: Facts, profiles: Sequence[Profile]) -> Misfits:
        """Where `model` does not start, of `profiles`; none where there was no time to see."""
        about = repr((what, [p.name for p in profiles], model.entry))
        key = hashlib.sha256(about.encode("utf-8", "surrogatepass"))
        name = key.hexdigest()[:32]
        kept = self._seen.get(name)
        if not (isinstance(kept, list) and len(kept) == 2 and isinstance(kept[0], list)):
            if time.monotonic() > self._until:
                self.complete = False
                return Misfits()
            try:
                kept = self._weighed(model, what, profiles)
            except ModelError:  # one broken model is only its own trouble
                kept = [[p.name for p in profiles], False]
        self._found[name] = kept
        return Misfits(frozenset(kept[0]), bool(kept[1]))

    def _weighed(self, model: ResolvedModel, what: Facts, profiles: Sequence[Profile]) -> list[Any]:
        with_gpus = any(p.gpus for p in profiles)
        names: list[str] = []
        short: list[bool] = []
        for profile in profiles:
            found = reach(model, what, profile, self._settings)
            if found is None or not found.starts:
                names.append(profile.name)
                if found is not None and (profile.gpus or not with_gpus):
                    short.append(found.memory_short)
        return [names, any(short)]

"""Whisper models in the form: which copies a session can serve, where their engine is, and which hardware they use.

Owns what the form shows of these; what a launch takes or refuses is `launcher.planning`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from launcher.errors import LauncherError
from launcher.models.inspect.facts import Facts
from launcher.models.resolve import ResolvedModel
from launcher.models.speech import is_chosen_for_vllm
from launcher.planning import Request
from launcher.planning.environment import choose_environment
from launcher.settings.schema import CatalogModel, Profile, Settings

ENGINE = "whisper"


def is_for_another_engine(what: Facts, entry: CatalogModel | None, settings: Settings) -> bool:
    """Whether a launch would refuse a Whisper model: the engine that it would get reads another format."""
    if what.engine == ENGINE:
        return is_chosen_for_vllm(entry, settings)
    if entry is not None and entry.engine == ENGINE:
        return True
    return what.model_type == "whisper" and not is_chosen_for_vllm(entry, settings)


class Installed:
    """Where the engine is installed; each environment is looked at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[tuple[str | None, str | None], bool] = {}

    def lacks(self, model: ResolvedModel, profiles: Sequence[Profile]) -> set[str]:
        """The names of `profiles` on which a launch of `model` would not find it."""
        return {profile.name for profile in profiles if not self._has(model, profile)}

    def _has(self, model: ResolvedModel, profile: Profile) -> bool:
        named = (model.entry.environment if model.entry else None, profile.environment)
        if named not in self._seen:
            try:
                choose_environment(Request(model.id), model, profile, ENGINE, self._settings, {})
                self._seen[named] = True
            except LauncherError:
                self._seen[named] = False
        return self._seen[named]


def more_than_it_uses(profiles: Sequence[Profile], unfit: Collection[str]) -> set[str]:
    """Profiles of several nodes or GPUs that have a smaller one beside them: a Whisper session uses one GPU or none."""
    fitting = [p for p in profiles if p.name not in unfit]
    enough = [p for p in fitting if p.nodes == 1 and p.gpus <= 1]
    clusters = {p.cluster for p in enough}
    return {p.name for p in fitting if p.cluster in clusters and p not in enough}

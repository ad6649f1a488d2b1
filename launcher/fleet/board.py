"""The models of the endpoint as they stood at the last look: every offer, and what else the user's sessions serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.fleet import shown
from launcher.fleet.lanes import Lanes
from launcher.fleet.learnt import Learnt
from launcher.fleet.offers import engine_of
from launcher.fleet.replicas import Member
from launcher.fleet.scale import Offer
from launcher.fleet.seen import ModelSeen
from launcher.settings.schema import Settings


class Board:
    """The models by name; `trouble` is why the last start of an offer led to nothing, until one leads to something."""

    def __init__(self, offers: Mapping[str, Offer], settings: Settings) -> None:
        self.trouble: dict[str, str] = {}
        self._offers = offers
        self._engines = {name: engine_of(offer, settings) for name, offer in offers.items()}
        self._models: dict[str, ModelSeen] = {}
        self._names: dict[str, str] = {}  # further names of each

    def models(self) -> Sequence[ModelSeen]:
        """Every offer, then the models of other sessions."""
        return list(self._models.values())

    def model(self, name: str) -> ModelSeen | None:
        """The model of that name, or with it among its further names."""
        found = self._models.get(name)
        return found if found is not None else self._models.get(self._names.get(name, ""))

    def write(self, members: Sequence[Member], lanes: Lanes, learnt: Learnt) -> None:
        """Take in what is seen now."""
        models: dict[str, ModelSeen] = {}
        for name, offer in self._offers.items():
            mine = [m for m in members if m.row.model == name]
            ready = any(not lane.leaving for lane in lanes.of(name))
            models[name] = shown.offered(
                offer, mine, ready, learnt, self.trouble.get(name), self._engines[name]
            )
        for name, sessions in lanes.others.items():
            models[name] = shown.other(name, sessions)
        self._models = models
        self._names = {served: name for name, model in reversed(models.items()) for served in model.served}

"""Parts for testing an endpoint's front: itself in a thread, and replicas that the test adds, starts and loses."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.fleet.choice import Lane
from launcher.fleet.front import EndpointFront
from launcher.fleet.seen import READY, STARTABLE, ModelSeen
from launcher.gateway.answers import Answer, refused
from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Holder, Keys
from launcher.gateway.place import Place
from launcher.gateway.server import Gateway
from tests.programs.front import KEY, RunningGateway, SimulatedEngine

REPLICA_KEY = "sk-" + "6b" * 32


class Replica(RunningGateway):
    """A session's gateway, with a key of its own, before a simulated engine."""

    def __init__(self, folder: Path, *args: str, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.engine = SimulatedEngine(folder, *args, **options)
        super().__init__(engine=self.engine.socket)

    async def _make(self) -> Gateway:
        front = SessionFront(self.routes, lambda: self.report)
        return Gateway(keys=Keys(REPLICA_KEY), front=front, name="replica-1")

    @property
    def place(self) -> Place:
        return Place(("127.0.0.1", self.port), REPLICA_KEY, proves=True)

    def close(self) -> None:
        self.engine.close()
        super().close()


@contextmanager
def pair() -> Iterator[list[Replica]]:
    """Two sessions."""
    with tempfile.TemporaryDirectory(prefix="iod") as folder:
        made = [Replica(Path(folder) / name) for name in ("a", "b")]
        yield made
        for replica in made:
            replica.close()


class Replicas:
    """A fleet in memory. `looked_at` are the replicas that were reported lost, which are taken away.

    `starts` is called in a thread for the first request of a cold model, once, and gives its places.
    """

    def __init__(self) -> None:
        self.seen: dict[str, ModelSeen] = {}
        self.known: dict[str, list[Lane]] = {}
        self.looked_at: list[str] = []
        self.starts: Callable[[str], Sequence[Place]] | None = None
        self.started: list[str] = []
        self.finds_well = False  # whether whoever is reported lost is looked at and found in order

    def add(
        self,
        model: str,
        *places: Place,
        served: str = "tiny",
        cluster: str = "local",
        aliases: frozenset[str] = frozenset(),
        **fields: Any,
    ) -> list[Lane]:
        """A model with one replica at each place, besides those that it has."""
        lanes = self.known.setdefault(model, [])
        made = [
            Lane(f"{model}-{number}", place, served, cluster)
            for number, place in enumerate(places, len(lanes) + 1)
        ]
        self.known[model] = [*lanes, *made]
        clusters = tuple(dict.fromkeys(lane.cluster for lane in self.known[model])) or (cluster,)
        given = {"clusters": clusters, "framework": "simulated", "created": 1.0, "served": aliases}
        given["state"] = READY if self.known[model] else STARTABLE
        self.seen[model] = ModelSeen(model, **{**given, **fields})
        return made

    def models(self) -> Sequence[ModelSeen]:
        return list(self.seen.values())

    def model(self, name: str) -> ModelSeen | None:
        found = self.seen.get(name)
        return found or next((one for one in self.seen.values() if name in one.served), None)

    def lanes(self, model: str) -> Sequence[Lane]:
        return self.known.get(model, [])

    async def wanted(self, model: str, hold_s: float, own: bool) -> ModelSeen:
        if self.starts is not None and model not in self.started:
            self.started.append(model)
            threading.Thread(target=self._start, args=(model,), daemon=True).start()
        loop = asyncio.get_running_loop()
        until = loop.time() + hold_s
        while not any(lane.open_to(own) for lane in self.known.get(model, ())) and loop.time() < until:
            await asyncio.sleep(0.01)
        return self.seen[model]

    def _start(self, model: str) -> None:
        assert self.starts is not None
        self.add(model, *self.starts(model))

    def lost(self, lane: Lane) -> None:
        self.looked_at.append(lane.replica)
        if not self.finds_well:
            for model, lanes in self.known.items():
                self.known[model] = [one for one in lanes if one is not lane]

    def clusters(self) -> Sequence[str]:
        return list(dict.fromkeys(name for model in self.seen.values() for name in model.clusters))

    def jobs(self, cluster: str | None, own: bool) -> dict[str, Any]:
        running = [
            {"Models": model.name}
            for model in self.seen.values()
            if cluster is None or cluster in model.clusters
        ]
        return {"running": running, "queued": [], "stopped": [], "others": []}


class Rules:
    """Access: `forbidden` models, those whose limit is `reached`, and what was spent on each."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.reached: set[str] = set()
        self.spent: dict[str, int] = {}

    def allowed(self, holder: Holder, model: ModelSeen) -> bool:
        return model.name not in self.forbidden

    def refusal(self, holder: Holder, model: ModelSeen) -> Answer | None:
        if not self.allowed(holder, model):
            return refused(403, "Not for this key.", "model_not_allowed")
        if model.name in self.reached:
            return refused(429, "Too much.", "rate_limit_exceeded", {"Retry-After": "7"})
        return None

    def spend(self, holder: Holder, model: str, tokens: int) -> None:
        self.spent[model] = self.spent.get(model, 0) + tokens


class RunningEndpoint(RunningGateway):
    """An endpoint on 127.0.0.1, in an event loop of its own thread; `used` is what its usage log is told."""

    def __init__(
        self, fleet: Replicas | None = None, *, hold_max_s: float = 30.0, further: Path | None = None
    ) -> None:
        self.fleet, self.rules, self._further = fleet or Replicas(), Rules(), further
        self.front = EndpointFront(self.fleet, self.rules, hold_max_s=hold_max_s)
        self.used: list[tuple[str, str, int, tuple[int, int]]] = []
        super().__init__()

    async def _make(self) -> Gateway:
        gateway = Gateway(keys=Keys(KEY, self._further), front=self.front, name="endpoint")
        gateway.on_end = lambda one: self.used.append((one.model, one.session, one.status, one.tokens))
        return gateway

    def status(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.ask("GET", "/status").json()
        return told


@contextmanager
def endpoint(**options: Any) -> Iterator[RunningEndpoint]:
    """A running endpoint without replicas."""
    made = RunningEndpoint(**options)
    try:
        yield made
    finally:
        made.close()

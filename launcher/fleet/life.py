"""The life of the endpoint: looks, decides by the rules of `launcher.fleet.scale`, and carries out what they say.

Owns the one loop that does so, once a second and whenever something has happened. What is claimed stands in the state
before anything is started, so that any number of gateways on one state may do this at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from launcher.errors import RequestError, SettingsError, StorageError
from launcher.fleet.board import Board
from launcher.fleet.capacity import Capacity
from launcher.fleet.choice import Lane
from launcher.fleet.facts import Facts
from launcher.fleet.handover import Handover
from launcher.fleet.lanes import Lanes
from launcher.fleet.learnt import Learnt
from launcher.fleet.missing import Missing, forget
from launcher.fleet.offers import offers_of
from launcher.fleet.peers import HOLD_S, Peers
from launcher.fleet.replicas import Member, by_model, joined
from launcher.fleet.scale import decide, retired
from launcher.fleet.scene import Action, ClusterSeen, Leave, Offer, Start, Stop
from launcher.fleet.seen import LEAVING, STARTABLE, ModelSeen
from launcher.fleet.sight import Sighted, Source, sources
from launcher.fleet.starts import Starts
from launcher.fleet.store import Store
from launcher.fleet.told import jobs
from launcher.gateway.upstream import Upstreams
from launcher.settings.schema import Settings

_LOG = logging.getLogger("launcher.fleet")
_TICK_S, _LEAST_S = 1.0, 0.05
_BEGUN_S = 3.0  # so long whoever is told to come back waits to hear that it is being started
_LOOKED_AT_S = 8.0  # so long a request waits for the look at a replica that did not answer
_RETRY_S = 5.0


class Life:
    """The fleet of one endpoint (`launcher.fleet.seen.Fleet`); `run` is its loop, `close` ends what it holds."""

    def __init__(self, settings: Settings, store: Store, url: str = "") -> None:
        self.on_gone: Callable[[str], object] | None = None  # called with a replica whose job is over
        self.offers: dict[str, Offer] = offers_of(settings)
        self.sources: dict[str, Source] = sources(settings, lambda _: self._wake.set())
        self._store = store
        self.peers = Peers(store, url)
        self._starts = Starts(settings, store, self.peers.name, self.sources)
        self._upstreams = Upstreams()
        self._handover = Handover(self._upstreams)
        self._lanes = Lanes(self.offers)
        self._learnt = Learnt()
        self._capacity = Capacity(settings, self.offers.values())
        self._folder = Path(settings.places.sessions)
        self._facts = Facts(self.offers, self._lanes, self.peers)
        self._members: list[Member] = []
        self._board = Board(self.offers, settings)
        self._answered: set[str] = set()  # replicas whose start was learnt from
        self._names: dict[str, str] = {}  # the models of replicas, by session, also of those that are over
        self._missing = Missing(self.peers.name, self.sources, self._facts.launching)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "state")
        self._state_trouble: str | None = None
        self._arrange()

    # -- what the front asks

    def models(self) -> Sequence[ModelSeen]:
        """Every offer, then the models of the user's other sessions."""
        return self._board.models()

    def model(self, name: str) -> ModelSeen | None:
        """The model of that name, or with it among its further names."""
        return self._board.model(name)

    def lanes(self, model: str) -> Sequence[Lane]:
        """The replicas of it that answer, also those leaving."""
        return self._lanes.of(model)

    async def wanted(self, model: str, hold_s: float, own: bool) -> ModelSeen:
        """Somebody asks for a model without a lane for them: start one, and wait for it up to `hold_s`."""
        load = self._facts.loads.get(model)
        if load is None:  # a session of the user's own, whose lane has just gone
            return self._board.model(model) or ModelSeen(
                model, LEAVING, "Its session is over.", offered=False
            )
        asked_at = time.time()
        load.asked(asked_at)
        until = time.monotonic() + hold_s
        seeing, begin_by = time.monotonic() + _LOOKED_AT_S, time.monotonic() + _BEGUN_S
        self._hold(model, +1)
        try:
            while True:
                if any(not lane.leaving and lane.open_to(own) for lane in self._lanes.of(model)):
                    return self._shown(model)
                mine = [m for m in self._members if m.row.model == model]
                looking = self._lanes.missed(model, mine) or not self._first_look_over()
                still = seeing if looking else 0.0
                # Whoever is told to come back shall hear what is being done, not what would be.
                begun = begin_by if self._shown(model).state == STARTABLE else 0.0
                left_s = max(until, still, begun) - time.monotonic()
                if left_s <= 0 or self._hopeless(model, mine, asked_at):
                    break
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._changed.wait()
        finally:
            self._hold(model, -1)
        found = self._shown(model)
        load.refused(time.time(), found.retry_s or _RETRY_S)
        self._wake.set()
        return found

    def lost(self, lane: Lane) -> None:
        """It did not answer: nobody is sent there until it was looked at."""
        self._lanes.lost(lane)
        self.sources[lane.cluster].doubt(self._session_of(lane.replica))

    def clusters(self) -> Sequence[str]:
        """The clusters where its sessions are."""
        return list(self.sources)

    def jobs(self, cluster: str | None, own: bool) -> dict[str, Any]:
        """FIRST's lists of jobs, of one cluster or of all; others see none that the owner launched for an offer."""
        wanted = [s for name, s in self.sources.items() if cluster in (None, name)]
        found = [one for source in wanted for one in (*source.seen.values(), *source.ended.values())]
        if not own:
            found = [one for one in found if one.id in self._names or one.served not in self.offers]
        return jobs(found, self._names)

    # -- its loop

    async def meet(self) -> None:
        """Say in the state that this gateway is there, and take over from dead ones, before anybody is told of it."""
        with contextlib.suppress(StorageError):
            await self._state(self.peers.meet)

    async def run(self) -> None:
        """Look and decide until cancelled; what is being submitted then is finished by `close`."""
        loop = asyncio.get_running_loop()
        self._learnt = await loop.run_in_executor(self._thread, Learnt.read, self._folder)
        looks = [loop.create_task(source.run()) for source in self.sources.values()]
        try:
            while True:
                begun = time.monotonic()
                await self._tick_told()
                took_s = time.monotonic() - begun
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await self._wake.wait()
                self._wake.clear()
                # However often it is woken, half of the time is for those who ask.
                await asyncio.sleep(max(_LEAST_S, min(took_s, _TICK_S)))
        finally:
            for task in (*looks, *self._tasks):
                task.cancel()
            await asyncio.gather(*looks, *self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Finish what is being submitted and stopped, and let other gateways take over at once."""
        loop = asyncio.get_running_loop()
        for work in (self._starts.close, self._handover.close, *(s.close for s in self.sources.values())):
            await loop.run_in_executor(None, work)
        with contextlib.suppress(StorageError):
            await self._state(self.peers.gone)
        self._upstreams.close()
        self._capacity.close()
        self._thread.shutdown(wait=False)

    async def _tick_told(self) -> None:
        try:
            await self._tick()
        except StorageError as error:  # requests go on to the replicas that are known
            if str(error) != self._state_trouble:
                self._state_trouble = str(error)
                _LOG.error("the state: %s", error)
        except Exception:
            _LOG.exception("the endpoint could not look after its sessions")
        else:
            if self._state_trouble is not None:
                _LOG.info("the state answers again")
            self._state_trouble = None

    async def _tick(self) -> None:
        try:
            await self._state(self.peers.exchange, self._facts.traffic())
            rows = await self._state(self._store.replicas)
        except StorageError:  # where the sessions answer can be seen all the same
            self._board.away = True
            self._members = joined([member.row for member in self._members], self._all_sighted())
            self._arrange()
            self._changed.set()
            raise
        self._board.away, sighted = False, self._all_sighted()
        self._members = joined(rows, sighted)
        now = {m.sighted.id: m.row.model for m in self._members if m.sighted is not None}
        self._names = now | {name: model for name, model in self._names.items() if name in sighted}
        for member in self._members:
            source = self.sources.get(member.row.cluster)
            if member.sighted is None and member.row.session is not None and source is not None:
                source.expect()
        await self._bury()
        self._learn()
        self._handover.known(self._members)
        self._arrange()
        clusters = [self._cluster(source) for source in self.sources.values()]
        if self._first_look_over():
            of_model = by_model(self._members)
            for offer in self.offers.values():
                await self._follow(offer, of_model.get(offer.name, []), clusters)
            for name in of_model.keys() - self.offers.keys():
                # Another gateway's settings may have the offer: only what is looked after from here is ended.
                mine = [m for m in of_model[name] if m.row.gateway == self.peers.name]
                await self._carry_out(name, mine, retired([self._facts.seen_there(m) for m in mine]))
        self._arrange()
        self._changed.set()

    async def _follow(self, offer: Offer, members: list[Member], clusters: Sequence[ClusterSeen]) -> None:
        seen = [self._facts.seen(member, offer, clusters) for member in members]
        now = time.time()
        demand = self._facts.demand(offer, members, now)
        actions = decide(offer, seen, demand, self._learnt, clusters, now)
        places = {where.cluster for where in offer.profiles}
        deaf = [c for c in clusters if c.name in places and not c.healthy]
        if demand.load and deaf and not actions and not members:
            self._board.trouble[offer.name] = f"{deaf[0].name} does not answer: {deaf[0].reason}"
        for start in actions:
            if isinstance(start, Start):
                _LOG.info("%s: one more on %s: %s", offer.name, start.profile, start.reason)
                await self._start(offer, members, start)
        await self._carry_out(offer.name, members, actions)
        for member in [m for m in members if m.answering and not m.leaving][: offer.minimum]:
            self._later(self._handover.keep_awake(member))

    async def _carry_out(self, model: str, members: Sequence[Member], actions: Sequence[Action]) -> None:
        """What goes: those that leave, and those that are ended."""
        by_id = {member.id: member for member in members}
        for action in actions:
            if isinstance(action, Leave):
                member = by_id[action.replica]
                _LOG.info("%s: %s takes no more: %s", model, member.id, action.reason)
                await self._state(self._store.leaving, model, member.row.slot, action.reason)
                if (lane := self._lanes.lane(member.id)) is not None:
                    lane.leaving = True
                self._wake.set()
            elif isinstance(action, Stop):
                heirs = (m for m in members if m.row.replaces == action.replica and m.answering)
                heir = next((m.sighted.id for m in heirs if m.sighted is not None), None)
                self._later(self._handover.stop(by_id[action.replica], action.reason, heir))

    async def _start(self, offer: Offer, members: list[Member], start: Start) -> None:
        taken = {member.row.slot for member in members} | {
            s for n, s in self._facts.launching if n == offer.name
        }
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        if not await self._state(self._store.claim, offer.name, slot, self.peers.name, HOLD_S):
            return  # another gateway was first: its row is seen at the next look
        self._facts.launching[offer.name, slot] = start
        rows = await self._state(self._store.replicas)
        members += [Member(r, None) for r in rows if (r.model, r.slot) == (offer.name, slot)]
        self._members = [*self._members, members[-1]]
        self._later(self._started(offer, slot, start))

    async def _started(self, offer: Offer, slot: int, start: Start) -> None:
        try:
            started = await self._starts.start(offer, slot, start)
        finally:
            del self._facts.launching[offer.name, slot]
            self._wake.set()
        if started.trouble is not None:
            _LOG.warning("%s could not be started on %s: %s", offer.name, start.profile, started.trouble)
            self._board.trouble[offer.name] = f"It could not be started: {started.trouble}"
            # A request that cannot be says nothing against the place, nor against other offers of the model.
            own = isinstance(started.trouble, RequestError | SettingsError)
            self._learnt.failed(offer.name if own else offer.model, start.cluster, start.profile, time.time())
        elif started.session is not None:
            _LOG.info("%s: session %s was submitted", offer.name, started.session.id)

    async def _bury(self) -> None:
        """Free the slots of those that are over, and of those that never were."""
        living = []
        for member in self._members:
            if member.ended is None and not self._missing.never_was(member):
                living.append(member)
                continue
            row = member.row
            status = member.ended
            if status is not None and member.sighted is not None:
                _LOG.info("%s: session %s is over: %s", row.model, member.sighted.id, status.message)
                plan, answered = member.sighted.session.plan, member.id in self._answered
                self._learnt.ended(plan, status, self._asked_as(row.model), answered=answered)
                if status.state == "FAILED" and not answered:
                    self._board.trouble[row.model] = f"Its last session failed: {status.message}"
            self._answered.discard(member.id)
            if status is None and member.sighted is not None and not self.sources[row.cluster].far:
                await self._state(forget, member.sighted)
            await self._state(self._store.release, row.model, row.slot, row.session)
        self._members = living

    def _learn(self) -> None:
        for member in self._members:
            if member.answering and member.id not in self._answered:
                assert member.sighted is not None
                self._answered.add(member.id)
                plan = member.sighted.session.plan
                self._learnt.learn(plan, member.sighted.status, self._asked_as(member.row.model))
                self._board.trouble.pop(member.row.model, None)
                _LOG.info("%s: session %s is ready", member.row.model, member.sighted.id)

    # -- what the rules are told

    def _cluster(self, source: Source) -> ClusterSeen:
        free = self._capacity.free(source.cluster)
        return ClusterSeen(source.cluster, not source.deaf, reason=source.trouble, free=free)

    def _first_look_over(self) -> bool:
        # What runs already must be known before anything is started; a cluster that does not answer is not waited for.
        return all(source.looked_at > 0 or source.trouble is not None for source in self.sources.values())

    def _hopeless(self, model: str, mine: Sequence[Member], asked_at: float) -> bool:
        """Whether nothing can be started for now: whoever waits is told why."""
        offer, now = self.offers[model], time.time()
        if mine or model not in self._board.trouble or now - asked_at < _TICK_S:
            return False
        names, learnt = offer.paused_as, self._learnt
        return all(learnt.paused(names, where.cluster, where.profile, now) for where in offer.profiles)

    def _hold(self, model: str, more: int) -> None:
        self._facts.hold(model, more)
        self._wake.set()

    # -- small things

    def _shown(self, model: str) -> ModelSeen:
        found = self._board.model(model)
        assert found is not None
        return found

    def _arrange(self) -> None:
        looked_at = {name: source.looked_at for name, source in self.sources.items()}
        for replica in self._lanes.arrange(self._members, self._all_sighted().values(), looked_at):
            if self.on_gone is not None:
                self.on_gone(replica)
        self._board.write(self._members, self._lanes, self._learnt)

    def _asked_as(self, model: str) -> str:
        # What the rules ask by: an offer may name its model by an alias.
        return self.offers[model].model if model in self.offers else model

    def _all_sighted(self) -> Mapping[str, Sighted]:
        found: dict[str, Sighted] = {}
        for source in self.sources.values():
            found |= source.ended
            found |= source.seen
        return found

    def _session_of(self, replica: str) -> str:
        for member in self._members:
            if member.id == replica and member.sighted is not None:
                return member.sighted.id
        return replica

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the endpoint could not look after a session", exc_info=error)

    async def _state(self, call: Any, *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *given))

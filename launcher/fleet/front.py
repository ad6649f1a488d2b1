"""The front of an endpoint: sends each request to a replica of the model that it names, and to another if that fails.

Owns the way of a request from its admission to its end. What replicas there are is the fleet's to know, who may use
what is access's, and the rule of the choice is `launcher.fleet.choice`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

from launcher.batch.form import FormError
from launcher.fleet import told
from launcher.fleet.choice import Lane, pick
from launcher.fleet.errand import Errand
from launcher.fleet.issued import myself
from launcher.fleet.paths import REALTIME, ROUTED, Asked, asked, named_in
from launcher.fleet.question import ModelField, Question
from launcher.fleet.seen import READY, Access, Fleet, ModelSeen
from launcher.gateway import answers, metrics
from launcher.gateway.answers import Answer
from launcher.gateway.body import PENDING_BYTES
from launcher.gateway.exchange import Exchange
from launcher.gateway.front import STREAMS, Batches, later
from launcher.gateway.headers import request_head
from launcher.gateway.keys import Holder
from launcher.gateway.request import SAFE_METHODS
from launcher.gateway.routes import Address, Target
from launcher.gateway.upstream import Upstreams
from launcher.gateway.usage import Usage
from launcher.gateway.way import Way

_LOG = logging.getLogger("launcher.gateway")
_BODY_BYTES = 64 * 2**20
# A request that ends every engine it meets must not go through all of them.
_MOVES_MAX = 3
# A session's gateway keeps a connection for longer than this (gateway.client.KEEP_TIMEOUT_S).
_IDLE_S = 20.0
_WRONG = (400, 403, 404)
_SECONDS = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
# So many wait for a start, and then go to one replica at once; who comes later is told to come again.
_HELD_MAX = 1000


class EndpointFront:
    """Many sessions behind one gateway; `hold_max_s` bounds how long a request may wait for a start.

    `page` makes the page for people where there is one. `counts` are those of requests whose replica failed.
    """

    def __init__(self, fleet: Fleet, access: Access, *, hold_max_s: float) -> None:
        self.usage = Usage()
        self.upstreams = Upstreams(_IDLE_S)
        self.counts = told.Counts()
        self.batches: Batches | None = None
        self.page: Callable[[Exchange, Target, Holder], Answer] | None = None
        self._fleet = fleet
        self._access = access
        self._hold_max_s = hold_max_s
        self._whose = myself()
        self._stopping = False
        self._held: dict[Errand, None] = {}  # what waits for a start
        self._errands: dict[str, dict[Errand, None]] = {}  # what runs on each replica

    @property
    def ready(self) -> bool:
        return True

    @property
    def stopping(self) -> bool:
        """Whether nothing new is taken; what waits for a start is then told to come again, for the next gateway."""
        return self._stopping

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self._stopping = stopping
        for errand in list(self._held) if stopping else ():
            errand.exchange.reply(told.stopping())

    def admitted(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Route it by its model, or answer what the endpoint itself knows."""
        request = exchange.request
        wanted = asked(target.path)
        if self.batches is not None and self.batches.serves(target.path):
            later(exchange, self.batches.answer(exchange, target, holder))
        elif wanted.path in ROUTED and request.method == "POST":
            self._route(exchange, target, holder, wanted)
        elif wanted.path == REALTIME and request.wants_websocket:
            self._begin(Errand(exchange, holder, wanted, target.query), named_in(target.query))
        elif wanted.path in ROUTED or (request.method not in SAFE_METHODS and wanted.listing):
            allowed = {"Allow": "POST" if wanted.path in ROUTED else "GET, HEAD"}
            text = f"{request.method} is not for this path."
            exchange.reply(answers.refused(405, text, "method_not_allowed", allowed))
        elif request.method not in SAFE_METHODS:
            exchange.reply(_not_found(wanted.path))
        elif target.path == "/metrics":
            exchange.reply(self._metrics(holder))
        elif target.path == "/status":
            exchange.reply(answers.json_answer(200, self.report(holder)))
        elif self.page is not None and target.page_path is not None:
            exchange.reply(self.page(exchange, target, holder))
        else:
            exchange.reply(self._listing(exchange, target, holder, wanted))

    def forsake(self, replica: str) -> None:
        """The replica is gone for good: what runs there moves, or ends with the event that says so."""
        for errand in list(self._errands.get(replica, ())):
            errand.exchange.lost(True)

    # -- what the endpoint tells

    def models(self, holder: Holder) -> list[ModelSeen]:
        """The models that the holder may use."""
        return [self._for(holder, model) for model in self._fleet.models() if self._shown(holder, model)]

    def _for(self, holder: Holder, model: ModelSeen) -> ModelSeen:
        # What is not ready for everybody may be so for who has launched a session of it.
        if model.state == READY or not any(not lane.leaving for lane in self._lanes(holder, model.name)):
            return model
        return dataclasses.replace(model, state=READY, message="Ready.", retry_s=None)

    def _lanes(self, holder: Holder, model: str) -> list[Lane]:
        """The replicas of it for this holder."""
        return [lane for lane in self._fleet.lanes(model) if lane.open_to(holder.own)]

    def _shown(self, holder: Holder, model: ModelSeen) -> bool:
        # A session that is no offer is private, unless a key was made for it by name.
        private = not (model.offered or holder.own or model.name in (holder.models or ()))
        return not private and self._access.allowed(holder, model)

    def report(self, holder: Holder) -> dict[str, object]:
        """What `/status` says to the holder; whose endpoint it is sees every key's usage, the others their own."""
        usage = self.usage.as_json()
        if not holder.own:
            mine = self.usage.keys.get(holder.name)
            usage = mine.as_json() if mine is not None else {}
        lanes = functools.partial(self._lanes, holder)
        seen = told.state(lanes, self.models(holder), self.counts, self._waiting())
        return {**seen, "usage": usage}

    def _waiting(self) -> Counter[str]:
        return Counter(errand.model.name for errand in self._held)

    def _listing(self, exchange: Exchange, target: Target, holder: Holder, wanted: Asked) -> Answer:
        clusters = self._clusters(holder)
        if wanted.listing and wanted.cluster is not None and wanted.cluster not in clusters:
            return told.no_cluster(wanted.cluster, clusters)
        if wanted.listing == "models":
            found = [one for one in self.models(holder) if told.misplaced(one, wanted) is None]
            return told.models(found, wanted)
        if wanted.listing == "endpoints":
            url = Address.of(exchange.request.headers, target.prefix).url
            return answers.json_answer(200, told.endpoints(self.models(holder), url))
        if wanted.listing == "jobs":
            return answers.json_answer(200, self._jobs(holder, wanted.cluster))
        if wanted.listing == "whoami":
            return answers.json_answer(200, told.whoami(holder))
        return _not_found(wanted.path)

    def _clusters(self, holder: Holder) -> Sequence[str]:
        """Those that are there for the holder: where the models are that the key may use."""
        if holder.own:
            return self._fleet.clusters()
        return list(dict.fromkeys(name for model in self.models(holder) for name in model.clusters))

    def _jobs(self, holder: Holder, cluster: str | None) -> dict[str, object]:
        jobs = self._fleet.jobs(cluster, holder.own)
        if holder.own:
            return jobs
        names = {model.name for model in self.models(holder)}
        return {kind: [job for job in found if job["Models"] in names] for kind, found in jobs.items()}

    def _metrics(self, holder: Holder) -> Answer:
        # They tell of everybody's keys. A monitor's key need not be able to do what an own one can.
        if not holder.own and holder.owner != self._whose:
            return answers.refused(403, "Metrics are for whose endpoint this is.", "not_yours")
        more = told.metrics(self._fleet, self.counts, self._waiting())
        headers = {"Content-Type": metrics.CONTENT_TYPE, "Cache-Control": "no-store"}
        return Answer(200, metrics.render(self.usage, None, more), headers)

    # -- a request on its way

    def _route(self, exchange: Exchange, target: Target, holder: Holder, wanted: Asked) -> None:
        errand = Errand(exchange, holder, wanted, target.query)
        kind = exchange.request.headers.text(b"content-type")
        if kind[:10].lower() == "multipart/":
            later(exchange, self._read_form(errand, kind))
        elif (body := exchange.incoming.arrived) is not None:
            self._ask(errand, body)
        else:
            later(exchange, self._read(errand))

    async def _read(self, errand: Errand) -> None:
        errand.exchange.go_on()
        body = await errand.exchange.body(_BODY_BYTES)
        if body is not None:
            self._ask(errand, body)
        elif errand.exchange.incoming.crowded:
            errand.exchange.reply(told.crowded())
        else:
            text = "The body is too long to look for its model."
            errand.exchange.reply(answers.refused(413, text, "body_too_long", close=True))

    def _ask(self, errand: Errand, body: bytes) -> None:
        exchange, budget = errand.exchange, errand.holder.budget
        long = len(body) > PENDING_BYTES
        if long and budget is not None:
            # To read a million values holds up everybody: not for a key that may ask nothing more now.
            if (wait_s := budget.admit()) > 0:
                exchange.reply(answers.over_limit(wait_s))
                return
            budget.give_back()
        try:
            errand.question = Question(body, streams=errand.asked.path in STREAMS)
        except ValueError as error:
            exchange.reply(answers.refused(400, str(error), "bad_request"))
        else:
            self._begin(errand, errand.question.model)
        if long and budget is not None and exchange.status in _WRONG:
            budget.admit()  # wrong, and read all the same

    async def _read_form(self, errand: Errand, kind: str) -> None:
        """Look for the model in a form, which may come after a long recording, and go on with the rest of it."""
        try:
            field = ModelField(kind)
            await self._look_for(field, errand.exchange)
        except FormError as error:
            errand.exchange.reply(answers.refused(400, str(error), "malformed_form", close=True))
            return
        exchange, incoming = errand.exchange, errand.exchange.incoming
        if field.value is not None:
            errand.field = field
            incoming.limit_bytes = PENDING_BYTES  # the rest can wait for a replica at the client's
            self._begin(errand, field.value)
            exchange.client.update_reading()
        elif incoming.complete:
            exchange.reply(answers.refused(400, 'The form has no field "model".', "bad_request", close=True))
        elif incoming.crowded:
            exchange.reply(told.crowded())
        else:
            text = 'Send the field "model" before the file: it did not come in the first 64 MB.'
            exchange.reply(answers.refused(400, text, "bad_request", close=True))

    async def _look_for(self, field: ModelField, exchange: Exchange) -> None:
        incoming = exchange.incoming
        exchange.go_on()
        incoming.limit_bytes = _BODY_BYTES
        exchange.client.update_reading()
        number = 0
        while True:
            pieces = incoming.pieces
            if number < len(pieces):
                number += 1
                if field.feed(pieces[number - 1]):
                    return
            elif incoming.complete or incoming.waiting_bytes > _BODY_BYTES or incoming.crowded:
                return
            else:
                await incoming.more()

    def _begin(self, errand: Errand, name: str) -> None:
        """The model's name is known: may it be used, and is it there?"""
        exchange, holder = errand.exchange, errand.holder
        model = self._fleet.model(name)
        if (
            model is not None
            and not (model.offered and model.name == name)
            and not self._shown(holder, model)
        ):
            # A further name tells nothing of it, and may be that of another one which the key may use.
            model = next((one for one in self.models(holder) if name in one.served), None)
        hold = exchange.request.headers.text(b"x-launcher-hold").strip()
        if model is None:
            answer: Answer | None = told.no_model(name, self.models(holder))
        elif hold and not _SECONDS.fullmatch(hold):
            answer = answers.refused(400, "X-Launcher-Hold must be a number of seconds.", "bad_request")
        elif self.stopping:
            answer = told.stopping()
        else:
            allowed = self._access.allowed(holder, model)  # whatever is wrong costs nothing of the limits
            answer = (allowed and told.misplaced(model, errand.asked)) or self._access.refusal(holder, model)
        if answer is not None:
            self.usage.refuse(holder.name, errand.asked.path, answer.status)
            exchange.reply(answer)
            return
        assert model is not None
        errand.model, errand.until = model, time.monotonic() + min(float(hold or 0), self._hold_max_s)
        exchange.model = model.name
        websocket = exchange.request.wants_websocket
        exchange.call = self.usage.begin(holder.name, errand.asked.path, websocket=websocket)
        exchange.on_end = lambda: self._ended(errand)
        self._send(errand)

    def _send(self, errand: Errand) -> None:
        """To the best lane that it has not failed on, or wait for one."""
        free, cluster = self._lanes(errand.holder, errand.model.name), errand.asked.cluster
        if errand.tried:
            free = [lane for lane in free if lane not in errand.tried]
        near = [lane for lane in free if lane.cluster == cluster] if cluster is not None else ()
        lane = pick(near) or pick(free)
        if lane is None:
            later(errand.exchange, self._wait(errand))
            return
        errand.take(lane)
        self._errands.setdefault(lane.replica, {})[errand] = None
        exchange, own = errand.exchange, errand.holder.own
        target = errand.asked.path + errand.written(lane.served)
        head = request_head(exchange.request, target, None, own=own, key=lane.place.key)
        way = Way(
            self.upstreams,
            lane.place,
            lambda: self._given_up(errand),
            True,
            self.usage.touch,
            lambda: self._fleet.lost(lane),
            lambda: self._again(errand),
            spare=lambda: self._spare(errand),
        )
        exchange.forward(way, head)

    def _spare(self, errand: Errand) -> bool:
        """Its replica has no room for it now: whether another one may have."""
        lanes = self._lanes(errand.holder, errand.model.name)
        return errand.moves < _MOVES_MAX and any(
            not lane.leaving and lane is not errand.lane and lane not in errand.tried for lane in lanes
        )

    def _again(self, errand: Errand) -> None:
        """Its replica failed before a byte of its answer had gone to the client."""
        errand.failed()
        self._leave(errand)
        if errand.moves > _MOVES_MAX:
            errand.exchange.reply(told.failed())
        else:
            self._send(errand)

    def _given_up(self, errand: Errand) -> Answer:
        """Its replica failed, and not all of the request is here any more to be sent to another one."""
        errand.failed()
        return told.failed()

    async def _wait(self, errand: Errand) -> None:
        if self.stopping:
            errand.exchange.reply(told.stopping())
            return
        name, hold_s = errand.model.name, max(0.0, errand.until - time.monotonic())
        if len(self._held) >= _HELD_MAX:
            hold_s = 0.0
        self._held[errand] = None
        try:
            model = await self._fleet.wanted(name, hold_s, errand.holder.own)
        except Exception:  # a 500 would be the last word on a line of a batch
            _LOG.exception("%s could not be waited for", name)
            errand.exchange.reply(told.unavailable())
            return
        finally:
            del self._held[errand]
        ready = [lane for lane in self._lanes(errand.holder, name) if not lane.leaving]
        if ready and not errand.exchange.done:
            if all(lane in errand.tried for lane in ready):  # they were looked at since
                errand.forgive()
            self._send(errand)
        else:
            errand.exchange.reply(told.not_there(model))

    def _leave(self, errand: Errand) -> None:
        lane = errand.leave()
        if lane is not None:
            running = self._errands.get(lane.replica, {})
            running.pop(errand, None)
            if not running:
                self._errands.pop(lane.replica, None)

    def _ended(self, errand: Errand) -> None:
        exchange, lane = errand.exchange, errand.lane
        moved, failed = bool(errand.moves), exchange.broken or (errand.moves and exchange.status >= 500)
        if lane is not None and exchange.status < 400 and not exchange.broken:
            errand.measure()
        self.counts.lost += bool(failed)
        self.counts.moved += moved and not failed and exchange.status != 429
        self._leave(errand)
        self._access.spend(errand.holder, errand.model.name, exchange.spent_tokens)


def _not_found(path: str) -> Answer:
    if path.startswith("/v1/responses/"):
        text = "An answer is kept, if at all, by the session that gave it. Ask that one at its own address."
        return answers.refused(404, text, "kept_by_session")
    return answers.refused(404, "Nothing is served here. The API is under /v1.", "not_found")

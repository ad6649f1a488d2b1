"""One request at an endpoint: for whom it asks what, which replica has it now, and which ones failed it."""

from __future__ import annotations

import re
import time
from urllib.parse import quote

from launcher.fleet.choice import Lane
from launcher.fleet.paths import Asked
from launcher.fleet.question import ModelField, Question
from launcher.fleet.seen import ModelSeen
from launcher.gateway.exchange import Exchange
from launcher.gateway.keys import Holder

_MODEL = re.compile(r"(?<=[?&]model=)[^&]*")


class Errand:
    """Counts itself on its lane; `model` and `until` (when it stops waiting) are set once its model is known.

    `tried` are the lanes that it shall not take again, `moves` is how often a lane failed it.
    """

    __slots__ = (
        *("_at", "_query", "asked", "exchange", "field", "holder", "lane", "model", "moves", "question"),
        *("tried", "until"),
    )
    model: ModelSeen
    until: float

    def __init__(self, exchange: Exchange, holder: Holder, asked: Asked, query: str) -> None:
        self.exchange = exchange
        self.holder = holder
        self.asked = asked
        self.question: Question | None = None
        self.field: ModelField | None = None
        self.lane: Lane | None = None
        self.tried: list[Lane] = []
        self.moves = 0
        self._query = query
        self._at = 0.0

    def take(self, lane: Lane) -> None:
        """It goes there."""
        self.lane, self._at = lane, time.monotonic()
        lane.in_flight += 1
        lane.used_at = time.time()
        self.exchange.cluster, self.exchange.session = lane.cluster, lane.replica

    def failed(self) -> None:
        """The lane did not answer it."""
        if self.lane is not None:
            self.tried.append(self.lane)
            self.moves += 1

    def leave(self) -> Lane | None:
        """It is no longer there; where it was."""
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.in_flight -= 1
            lane.used_at = time.time()
        return lane

    def forgive(self) -> None:
        """Its lanes may be tried again."""
        self.tried.clear()

    def measure(self) -> None:
        """What its answer says of the speed of its lane."""
        if self.lane is not None:
            prompt, completion = self.exchange.tokens
            work = self.exchange.audio_s or completion or prompt
            self.lane.measured(work, time.monotonic() - self._at)

    def written(self, served: str) -> str:
        """Write the model's name as the replica knows it into body and query; the query is returned."""
        exchange, question, field = self.exchange, self.question, self.field
        if question is not None:
            came = exchange.incoming.waiting
            body = question.written(came, served)
            exchange.usage_wanted = question.usage_wanted
            if body is not came:
                exchange.replace_body(body)
        elif field is not None and served and served != field.value:
            name = served.encode()
            body = exchange.incoming.waiting
            exchange.incoming.replace(body[: field.start] + name + body[field.end :])
            exchange.request.length += len(name) - (field.end - field.start)
            field.value, field.end = served, field.start + len(name)
        elif self._query and served:
            return _MODEL.sub(lambda _: quote(served, safe=""), self._query)
        return self._query

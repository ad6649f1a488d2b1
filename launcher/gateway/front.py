"""What a gateway stands before: decides about every request that was let in. Here the front of one session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from launcher.gateway import answers, metrics, pages
from launcher.gateway.answers import Answer
from launcher.gateway.exchange import Exchange
from launcher.gateway.fetch import fetch
from launcher.gateway.headers import request_head
from launcher.gateway.keys import Holder
from launcher.gateway.place import Place
from launcher.gateway.request import SAFE_METHODS
from launcher.gateway.routes import Address, Routes, Target
from launcher.gateway.stream import asking_for_usage
from launcher.gateway.upstream import Upstreams
from launcher.gateway.usage import Usage
from launcher.gateway.way import Way

_LOG = logging.getLogger("launcher.gateway")
# A longer question goes on as it comes; its stream's usage is counted if the client asks for it.
_QUESTION_BYTES = 2**20
STREAMS = frozenset(("/v1/chat/completions", "/v1/completions", "/invocations"))
_AUDIO = "/v1/audio/"


class Front(Protocol):
    """Decides where a request goes. `usage` counts what passes; `stopping` is set once nothing new is taken."""

    usage: Usage
    upstreams: Upstreams
    stopping: bool

    @property
    def ready(self) -> bool:
        """What `/health` says, whoever asks."""

    def admitted(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Answer, forward, or do so `later`; `holder` has shown a right key."""


class Batches(Protocol):
    """What answers for batch runs and their files (launcher.batch)."""

    def serves(self, path: str) -> bool:
        """Whether a request for `path` is for it."""

    async def answer(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Answer it; the limits of the key count there too."""


def later(exchange: Exchange, work: Coroutine[Any, Any, object]) -> None:
    """Decide about `exchange` in `work`; it ends when the client leaves, and a mistake in it is answered too."""
    exchange.task = asyncio.get_running_loop().create_task(_guarded(exchange, work))


async def _guarded(exchange: Exchange, work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except Exception:  # a mistake of ours must not leave somebody waiting
        _LOG.exception("a request could not be decided")
        exchange.reply(answers.internal())


class SessionFront:
    """One session: `report` gives what `status.json` holds, `routes` may change at any time.

    `on_trouble` is called when the engine could not be reached, so that who watches it can look at once.
    """

    def __init__(self, routes: Routes, report: Callable[[], Mapping[str, object]]) -> None:
        self.usage = Usage()
        self.upstreams = Upstreams()
        self.stopping = False
        self.on_trouble: Callable[[], None] | None = None
        self.batches: Batches | None = None
        self._routes = routes
        self._report = report
        self._ways: dict[Path, Way] = {}  # by the engine's socket

    @property
    def ready(self) -> bool:
        return self._routes.ready

    def admitted(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Answer what the gateway itself knows; the rest is the page's or the engine's."""
        request, path = exchange.request, target.path
        if self.batches is not None and self.batches.serves(path):
            later(exchange, self.batches.answer(exchange, target, holder))
        elif path == "/keep-alive" and request.method == "POST" and holder.budget is not None:
            exchange.reply(
                answers.refused(403, "A key with limits does not keep a session awake.", "limited_key")
            )
        elif path == "/keep-alive" and request.method == "POST":
            self.usage.touch()
            exchange.reply(Answer(204, headers={"Cache-Control": "no-store"}))
        elif path == "/status" and request.method in SAFE_METHODS:
            exchange.reply(answers.json_answer(200, {**self._report(), "usage": self.usage.as_json()}))
        elif path == "/metrics" and request.method in SAFE_METHODS:
            if holder.budget is not None and (wait_s := holder.budget.admit()) > 0:
                exchange.reply(answers.over_limit(wait_s))
            else:
                later(exchange, self._metrics(exchange))
        else:
            self._pass_on(exchange, target, holder)

    def _pass_on(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        routes, request = self._routes, exchange.request
        page_path, browser = target.page_path, request.from_browser
        probe = b"x-launcher-probe" in request.headers and (
            request.headers.text(b"x-launcher-probe") == routes.probe_nonce
        )
        if self.stopping or not (routes.ready or probe):
            exchange.reply(pages.state_page(self._report()) if browser else answers.not_ready(self._report()))
        elif page_path is not None and routes.page is not None and holder.budget is None:
            url = Address.of(request.headers, target.prefix).url
            gone = pages.page_gone if browser else answers.unreachable
            way = Way(self.upstreams, Place(routes.page), gone, False, _nothing, _nothing)
            head = request_head(request, page_path + target.query, f"{url}/ui", own=holder.own)
            exchange.forward(way, head)
        elif page_path is not None and routes.page_starting and browser:
            exchange.reply(pages.page_opening())
        elif target.path == "/" and browser:
            address = Address.of(request.headers, target.prefix)
            portal = bool(address.prefix)
            exchange.reply(pages.endpoint_page(address.url, portal, speech=routes.speech))
        elif page_path is not None or target.path == "/favicon.ico":
            exchange.reply(answers.refused(404, "Nothing is served here. The API is under /v1.", "not_found"))
        elif holder.budget is not None and (wait_s := holder.budget.admit()) > 0:
            self.usage.refuse(holder.name, target.path, 429)
            exchange.reply(answers.over_limit(wait_s))
        elif routes.engine is None:
            exchange.reply(answers.unreachable())
        else:
            # The probe is nobody's activity: it counts in a ledger that is thrown away.
            self._to_engine(exchange, target, holder, routes.engine, Usage() if probe else self.usage)

    def _to_engine(
        self, exchange: Exchange, target: Target, holder: Holder, engine: Path, usage: Usage
    ) -> None:
        exchange.call = usage.begin(holder.name, target.path, websocket=exchange.request.wants_websocket)
        if target.path not in STREAMS or exchange.request.method != "POST":
            self._send(exchange, target, engine, usage)
        elif (body := exchange.incoming.arrived) is not None:
            ask_for_usage(exchange, body)
            self._send(exchange, target, engine, usage)
        else:
            later(exchange, self._wait_for_question(exchange, target, engine, usage))

    async def _wait_for_question(
        self, exchange: Exchange, target: Target, engine: Path, usage: Usage
    ) -> None:
        exchange.go_on()
        body = await exchange.body(_QUESTION_BYTES)
        if body is not None:
            ask_for_usage(exchange, body)
        self._send(exchange, target, engine, usage)

    def _send(self, exchange: Exchange, target: Target, engine: Path, usage: Usage) -> None:
        way = self._ways.get(engine)
        if way is None or usage is not self.usage:
            way = Way(
                self.upstreams, Place(engine), answers.unreachable, True, usage.touch, self._trouble,
                up=lambda: self._routes.ready and not self.stopping,
            )  # fmt: skip
            if usage is self.usage:
                self._ways[engine] = way
        request, holder = exchange.request, exchange.holder
        # Only whose files they are may name them by a path on the cluster (launcher.whisper); an endpoint with the
        # session's key says for whom it asks.
        own = target.path.startswith(_AUDIO) and holder is not None and holder.own
        own = own and b"x-launcher-for-others" not in request.headers
        exchange.forward(way, request_head(request, target.path + target.query, None, own=own))

    async def _metrics(self, exchange: Exchange) -> None:
        engine = self._routes.engine
        theirs = await fetch(self.upstreams, Place(engine), "/metrics") if engine is not None else b""
        text = metrics.render(self.usage, self._report(), theirs)
        headers = {"Content-Type": metrics.CONTENT_TYPE, "Cache-Control": "no-store"}
        exchange.reply(Answer(200, text, headers))

    def _trouble(self) -> None:
        if self.on_trouble is not None:
            self.on_trouble()


def ask_for_usage(exchange: Exchange, body: bytes) -> None:
    """Let a stream bring its usage, which the client only gets if it asked for it."""
    asking, exchange.usage_wanted = asking_for_usage(body)
    if asking is not body:
        exchange.replace_body(asking)


def _nothing() -> None:
    """The page's trouble is the page's."""

"""The gateway: the one open port of a session. Says for every request where it goes, once `admission` let it in."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from launcher.gateway import answers, exchange, metrics, pages
from launcher.gateway.admission import Admission, Refusal
from launcher.gateway.answers import Answer
from launcher.gateway.client import Client
from launcher.gateway.exchange import Exchange
from launcher.gateway.fetch import fetch
from launcher.gateway.headers import request_head
from launcher.gateway.keys import Holder, Keys
from launcher.gateway.request import SAFE_METHODS, Request
from launcher.gateway.routes import Address, Routes, Target
from launcher.gateway.sockets import listen
from launcher.gateway.stream import asking_for_usage
from launcher.gateway.upstream import Upstreams
from launcher.gateway.usage import Usage
from launcher.gateway.way import Way

_LOG = logging.getLogger("launcher.gateway")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_CHECK_S, _KEYS_S = 1.0, 2.0  # the file of keys may lie on a network file system
_BODY_MAX_BYTES = 64 * 2**30  # ten hours of uncompressed audio are 7 GB
_ROUTED_BODY_BYTES = 64 * 2**20
# A longer question goes on as it comes; its stream's usage is counted if the client asks for it.
_QUESTION_BYTES = 2**20
_STREAMS = frozenset(("/v1/chat/completions", "/v1/completions", "/invocations"))
_AUDIO = "/v1/audio/"
_TARGET_REMEMBERED = 128
_PATH_SHOWN = 200
_STRANGERS_SHOWN = 60


class Gateway:
    """Serves one session on one port; `report` gives what `status.json` holds, `routes` may change at any time.

    `on_trouble` is called when the engine could not be reached, so that who watches it can look at once.
    """

    def __init__(
        self, *, keys: Keys, routes: Routes, report: Callable[[], Mapping[str, object]], session_id: str
    ) -> None:
        self.usage = Usage()
        self.on_trouble: Callable[[], None] | None = None
        self.body_max_bytes = _BODY_MAX_BYTES
        self.stopping = False
        self._keys = keys
        self._routes = routes
        self._report = report
        self._admission = Admission(keys, session_id)
        self._upstreams = Upstreams()
        self._clients: dict[Client, None] = {}  # the oldest first
        self._running: set[Exchange] = set()
        self._ways: dict[Path, Way] = {}  # by the engine's socket
        self._listeners: list[asyncio.Server] = []
        self._checking: asyncio.Task[None] | None = None
        # The rest is for upstreams and files; beyond this even a status could not be written.
        self._clients_max = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
        self._strangers_since, self._strangers = 0.0, 0

    async def start(self, host: str, port: int = 0) -> int:
        """Listen on `host`; returns the port, which the kernel chooses when `port` is 0."""
        sockets = listen(host, port)
        loop = asyncio.get_running_loop()
        self._listeners = [await loop.create_server(self._accept, sock=sock) for sock in sockets]
        self._checking = loop.create_task(self._check())
        return int(sockets[0].getsockname()[1])

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new requests, let running ones end within `grace_s`, then close everything."""
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        until = time.monotonic() + grace_s
        while (self._running or any(one.unsent_bytes for one in self._clients)) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0)  # the last answers' bytes are on their way
        for client in list(self._clients):
            if self._running or client.unsent_bytes:  # who does not read would keep it here for ever
                client.abort()
            else:
                client.close()
        if self._checking is not None:
            self._checking.cancel()
        self._upstreams.close()
        for _ in range(2):
            await asyncio.sleep(0)  # closed transports give back their sockets in the loop's next rounds

    def _accept(self) -> asyncio.BaseProtocol:
        if len(self._clients) >= self._clients_max:
            # Strangers must not keep out who has a key: the one that came first has had its time.
            stranger = next((client for client in self._clients if not client.trusted), None)
            if stranger is None:
                return _Closed()
            stranger.abort()
            del self._clients[stranger]
        client = Client(self)
        self._clients[client] = None
        return client

    def left(self, client: Client) -> None:
        """A client's connection is closed."""
        self._clients.pop(client, None)

    async def _check(self) -> None:
        refreshed = 0.0
        while True:
            await asyncio.sleep(min(_CHECK_S, exchange.HEARTBEAT_S / 2))
            now = time.monotonic()
            try:
                if now - refreshed >= _KEYS_S:
                    refreshed = now
                    self._keys.refresh()
                self._upstreams.tidy()
                for client in list(self._clients):
                    client.check(now)
            except Exception:  # without this task nothing would end in time and no key be revoked
                _LOG.exception("the gateway could not look after its connections")

    # -- one request

    def decide(self, exchange: Exchange) -> None:
        """Answer or forward; called once the request's head is whole."""
        self._running.add(exchange)
        request = exchange.request
        if (mistake := _mistake(exchange)) is not None:
            exchange.reply(mistake)
            return
        try:
            raw = request.target.decode("latin-1")
            target = Target.parsed(raw) if len(raw) <= _TARGET_REMEMBERED else Target.parse(raw)
        except ValueError as error:
            exchange.reply(answers.refused(400, str(error), "bad_request", close=True))
            return
        if target.prefix == raw and request.from_browser:
            # Without the last slash a relative link, the login's among them, would leave the session.
            exchange.reply(Answer(303, headers={"Location": f"{raw.rpartition('/')[2]}/"}))
        elif target.path == "/health" and request.method in SAFE_METHODS:
            up = self._routes.ready and not self.stopping
            exchange.reply(answers.json_answer(200 if up else 503, {"status": "up" if up else "down"}))
        elif target.path == "/login" and request.method in ("GET", "HEAD", "POST"):
            self._later(exchange, self._admission.login(exchange, target))
        else:
            verdict = self._admission.admit(request, target)
            if not isinstance(verdict, Refusal):
                exchange.holder, exchange.client.trusted = verdict, True
                self._admitted(exchange, target, verdict)
            elif verdict.guess:
                self._later(exchange, self._admission.refuse(exchange, verdict))
            else:
                exchange.reply(verdict.answer)

    def _admitted(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        request, path = exchange.request, target.path
        if path == "/logout":
            exchange.reply(self._admission.logout(request, target))
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
                self._later(exchange, self._metrics(exchange))
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
            way = Way(self._upstreams, routes.page, gone, False, _nothing, _nothing)
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
        elif routes.models and request.method == "POST":
            self._later(exchange, self._route(exchange, target, holder))
        elif routes.engine is None:
            exchange.reply(answers.unreachable())
        else:
            # The probe is nobody's activity: it counts in a ledger that is thrown away.
            self._to_engine(exchange, target, holder, routes.engine, Usage() if probe else self.usage)

    async def _route(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Choose among many engines by the `model` that the body names."""
        exchange.go_on()
        body = await exchange.body(_ROUTED_BODY_BYTES)
        if body is None:
            exchange.reply(answers.refused(413, "The body is too long.", "body_too_long", close=True))
            return
        try:
            model = json.loads(body)["model"]
        except (ValueError, KeyError, TypeError):
            model = None
        engine = self._routes.models.get(model) if isinstance(model, str) else None
        if engine is None:
            exchange.reply(answers.refused(404, "No session here serves this model.", "model_not_found"))
        else:
            self._to_engine(exchange, target, holder, engine, self.usage)

    def _to_engine(
        self, exchange: Exchange, target: Target, holder: Holder, engine: Path, usage: Usage
    ) -> None:
        exchange.call = usage.begin(holder.name, target.path, websocket=exchange.request.wants_websocket)
        if target.path not in _STREAMS or exchange.request.method != "POST":
            self._send(exchange, target, engine, usage)
        elif (body := exchange.arrived) is not None:
            self._ask_for_usage(exchange, body)
            self._send(exchange, target, engine, usage)
        else:
            self._later(exchange, self._wait_for_question(exchange, target, engine, usage))

    async def _wait_for_question(
        self, exchange: Exchange, target: Target, engine: Path, usage: Usage
    ) -> None:
        exchange.go_on()
        body = await exchange.body(_QUESTION_BYTES)
        if body is not None:
            self._ask_for_usage(exchange, body)
        self._send(exchange, target, engine, usage)

    def _ask_for_usage(self, exchange: Exchange, body: bytes) -> None:
        asking, exchange.usage_wanted = asking_for_usage(body)
        if asking is not body:
            exchange.replace_body(asking)

    def _send(self, exchange: Exchange, target: Target, engine: Path, usage: Usage) -> None:
        way = self._ways.get(engine)
        if way is None or usage is not self.usage:
            way = Way(self._upstreams, engine, answers.unreachable, True, usage.touch, self._trouble)
            if usage is self.usage:
                self._ways[engine] = way
        # Only whose files they are may name them by a path on the cluster (launcher.whisper).
        own = target.path.startswith(_AUDIO) and exchange.holder is not None and exchange.holder.own
        exchange.forward(way, request_head(exchange.request, target.path + target.query, None, own=own))

    async def _metrics(self, exchange: Exchange) -> None:
        engine = self._routes.engine
        theirs = await fetch(self._upstreams, engine, "/metrics") if engine is not None else b""
        text = metrics.render(self.usage, self._report(), theirs)
        headers = {"Content-Type": metrics.CONTENT_TYPE, "Cache-Control": "no-store"}
        exchange.reply(Answer(200, text, headers))

    def _later(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        exchange.task = asyncio.get_running_loop().create_task(_guarded(exchange, work))

    def _trouble(self) -> None:
        if self.on_trouble is not None:
            self.on_trouble()

    # -- its end

    def ended(self, exchange: Exchange) -> None:
        """Count the request, and log it without its query, headers or bodies."""
        self._running.discard(exchange)
        tokens = (0, 0)
        if exchange.call is not None:
            tokens = exchange.tokens
            exchange.call.end(exchange.status, tokens, audio_s=exchange.audio_s, broken=exchange.broken)
        if exchange.holder is not None and exchange.holder.budget is not None:
            exchange.holder.budget.spend(exchange.spent_tokens)
        if _LOG.isEnabledFor(logging.INFO) and (exchange.holder is not None or self._worth_a_line()):
            spent_ms = (time.monotonic() - exchange.begun) * 1000
            request, status = exchange.request, exchange.status
            path = request.path[:_PATH_SHOWN]
            _LOG.info("%s %s %d %d B %.0f ms", request.method, path, status, exchange.sent_bytes, spent_ms)

    def _worth_a_line(self) -> bool:
        # Whoever has no key could fill a disk: a few lines a minute are written, then only their number.
        now = time.monotonic()
        if now - self._strangers_since > 60:
            if self._strangers > _STRANGERS_SHOWN:
                _LOG.info("%d more requests came without a right key", self._strangers - _STRANGERS_SHOWN)
            self._strangers_since, self._strangers = now, 0
        self._strangers += 1
        return self._strangers <= _STRANGERS_SHOWN


async def _guarded(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # a mistake of ours must not leave somebody waiting
        _LOG.exception("a request could not be decided")
        exchange.reply(
            answers.json_answer(
                500, answers.error_body("The gateway failed.", "server_error", "internal"), close=True
            )
        )


def _mistake(exchange: Exchange) -> Answer | None:
    """What is wrong with a request whoever sent it; None for an ordinary one."""
    request = exchange.request
    if exchange.broken_body is not None:
        return exchange.broken_body
    if request.version not in ("1.1", "1.0"):  # the parser lets HTTP/0.9 and HTTP/2.0 lines pass
        return answers.refused(505, "Only HTTP/1.1 is spoken here.", "http_version", close=True)
    if request.method not in _METHODS:
        return answers.refused(405, "This method is not allowed.", "method_not_allowed", close=True)
    if len(request.headers) < len(request.headers.fields) and len(request.headers.all(b"host")) > 1:
        return answers.refused(400, "A request has one Host.", "bad_request", close=True)
    if request.chunked and not _only_chunked(request):
        return answers.refused(501, "The only transfer coding is chunked.", "transfer_coding", close=True)
    if b"expect" in request.headers and request.headers.text(b"expect").lower() != "100-continue":
        return answers.refused(417, "Only 'Expect: 100-continue' is understood.", "expectation", close=True)
    return None


def _only_chunked(request: Request) -> bool:
    codings = [word.lower() for word in request.headers.words(b"transfer-encoding")]
    return codings == ["chunked"] and request.version == "1.1"


def _nothing() -> None:
    """The page's trouble is the page's."""


class _Closed(asyncio.Protocol):
    """For a connection too many: closed at once, so that those who are in keep what they need."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

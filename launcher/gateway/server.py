"""The gateway: the one open port of a session or an endpoint. Lets a request in, or not; its front decides the rest."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable

from launcher.gateway import answers, exchange
from launcher.gateway.admission import Admission, Refusal
from launcher.gateway.answers import SESSION, Answer, Door
from launcher.gateway.client import Client
from launcher.gateway.exchange import Exchange
from launcher.gateway.front import Front, later
from launcher.gateway.keys import Holder, KeyRing
from launcher.gateway.proof import PROOF
from launcher.gateway.request import SAFE_METHODS, Request
from launcher.gateway.routes import Target
from launcher.gateway.sockets import listen

_LOG = logging.getLogger("launcher.gateway")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_CHECK_S, _KEYS_S = 1.0, 2.0  # the file of keys may lie on a network file system
_BODY_MAX_BYTES = 64 * 2**30  # ten hours of uncompressed audio are 7 GB
_TARGET_REMEMBERED = 128
_PATH_SHOWN = 200
_STRANGERS_SHOWN = 60


class Gateway:
    """Serves `front` on one port, for those who have one of `keys`; `name` makes its cookie's name.

    `door` has the words for those who have none.

    `on_end` is called for each request that was let in, before the last byte of its answer goes out.
    """

    def __init__(self, *, keys: KeyRing, front: Front, name: str, door: Door = SESSION) -> None:
        self.usage = front.usage
        self.on_end: Callable[[Exchange], None] | None = None
        self.body_max_bytes = _BODY_MAX_BYTES
        self.stopping = False
        self._keys = keys
        self._front = front
        self._admission = Admission(keys, name, door)
        self._clients: dict[Client, None] = {}  # the oldest first
        self._running: set[Exchange] = set()
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
        self.stopping = self._front.stopping = True
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
        self._front.upstreams.close()
        for _ in range(2):
            await asyncio.sleep(0)  # closed transports give back their sockets in the loop's next rounds

    def _accept(self) -> asyncio.BaseProtocol:
        if len(self._clients) >= self._clients_max:
            spared = self._spared()
            if spared is None:
                return _Closed()
            spared.abort()
            del self._clients[spared]
        client = Client(self)
        self._clients[client] = None
        return client

    def _spared(self) -> Client | None:
        """Whose connection makes room for another: strangers, and then one key, must not keep out the others."""
        stranger = next((client for client in self._clients if client.holder is None), None)
        if stranger is not None:  # the one that came first has had its time
            return stranger
        ((greedy, _),) = Counter(client.holder for client in self._clients).most_common(1)
        return next((client for client in self._clients if client.holder is greedy and client.idle), None)

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
                self._front.upstreams.tidy()
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
            up = self._front.ready and not self.stopping
            shown = self._keys.proof(request.headers.text(b"x-launcher-challenge"))
            headers = {PROOF: shown} if shown is not None else None
            exchange.reply(
                answers.json_answer(200 if up else 503, {"status": "up" if up else "down"}, headers)
            )
        elif target.path == "/login" and request.method in ("GET", "HEAD", "POST"):
            later(exchange, self._admission.login(exchange, target))
        else:
            verdict = self._admission.admit(request, target)
            if not isinstance(verdict, Refusal):
                self._hand_over(exchange, target, verdict)
            elif verdict.guess:
                later(exchange, self._guessed(exchange, target))
            else:
                exchange.reply(verdict.answer)

    async def _guessed(self, exchange: Exchange, target: Target) -> None:
        if (holder := await self._admission.guessed(exchange, target)) is not None:
            self._hand_over(exchange, target, holder)

    def _hand_over(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        exchange.holder = exchange.client.holder = holder
        exchange.incoming.count_for(holder.name)
        if target.path == "/logout":
            exchange.reply(self._admission.logout(exchange.request, target))
            return
        try:
            self._front.admitted(exchange, target, holder)
        except Exception:  # a mistake of ours must not leave somebody waiting
            _LOG.exception("a request could not be decided")
            exchange.reply(answers.internal())

    # -- its end

    def ending(self, exchange: Exchange) -> None:
        """The last byte of an answer goes out now."""
        if self.on_end is not None and exchange.holder is not None:
            self.on_end(exchange)

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


class _Closed(asyncio.Protocol):
    """For a connection too many: closed at once, so that those who are in keep what they need."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

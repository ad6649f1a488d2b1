"""The gateway: the one open port of a session. Says for every request where it goes, once `admission` let it in."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import ClientError, WSServerHandshakeError, web

from launcher.gateway import answers, pages, proxy, websocket
from launcher.gateway.admission import SAFE_METHODS, Admission, is_browser
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Address, Routes, Target
from launcher.gateway.sockets import listen
from launcher.gateway.usage import Tail, Usage

_LOG = logging.getLogger("launcher.gateway")
# aiohttp's own reports quote the broken bytes of a request, which may hold a key: they are not for a log file.
_SILENT = logging.Logger("launcher.gateway.http", logging.CRITICAL + 1)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# What monitoring reads: a scrape every minute must not keep an unused session awake.
_NO_ACTIVITY = frozenset(("/metrics", "/load", "/ping", "/version"))
# Also the time that an unfinished request head may take.
_KEEPALIVE_TIMEOUT_S = 75.0
# How long a new connection may take to send the head of its first request.
_HEAD_TIMEOUT_S = 10.0
_PATH_SHOWN = 200
_REFUSALS_SHOWN = 60
_CLIENT_LEFT = 499  # nginx's number for it


class Gateway:
    """Serves one session on one port; `report` gives what `status.json` holds, `routes` may change at any time."""

    def __init__(
        self, *, keys: Keys, routes: Routes, report: Callable[[], Mapping[str, object]], session_id: str
    ) -> None:
        self.usage = Usage()
        self._routes = routes
        self._report = report
        self._admission = Admission(keys, session_id)
        self._upstreams = proxy.Upstreams()
        self._running = 0
        self._stopping = False
        self._server: web.Server | None = None
        self._listeners: list[asyncio.Server] = []
        # The rest is for upstreams and files; beyond this even a status could not be written.
        self._connections_max = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
        self._refused_since, self._refused = 0.0, 0
        self._silent: set[web.RequestHandler] = set()

    async def start(self, host: str, port: int = 0) -> int:
        """Listen on `host`; returns the port, which the kernel chooses when `port` is 0."""
        self._server = web.Server(
            self._respond,
            handler_cancellation=True,
            access_log=None,
            logger=_SILENT,
            auto_decompress=False,
            keepalive_timeout=_KEEPALIVE_TIMEOUT_S,
            max_line_size=16384,
            max_field_size=16384,
            lingering_time=5.0,
        )
        sockets = listen(host, port)
        loop = asyncio.get_running_loop()
        self._listeners = [await loop.create_server(self._accept, sock=sock) for sock in sockets]
        return int(sockets[0].getsockname()[1])

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._server is not None
        if len(self._server.connections) >= self._connections_max:
            return _Closed()
        connection = self._server()
        loop = asyncio.get_running_loop()
        self._silent.add(connection)
        loop.call_later(_HEAD_TIMEOUT_S, self._close_if_silent, connection)
        return connection

    def _close_if_silent(self, connection: web.RequestHandler) -> None:
        # aiohttp would keep a connection without one whole request head as long as one between two requests.
        if connection in self._silent:
            self._silent.discard(connection)
            connection.force_close()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new requests, let running ones end within `grace_s`, then close everything."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        until = time.monotonic() + grace_s
        while self._running and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self._server is not None:
            transports = [connection.transport for connection in self._server.connections if self._running]
            await self._server.shutdown(0.1)
            for (
                transport
            ) in transports:  # a client that does not read would keep its last bytes here for ever
                if transport is not None:
                    transport.abort()
        await self._upstreams.close()
        await asyncio.sleep(0)  # closed transports give back their sockets in the loop's next round

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and log it without its query, headers or bodies."""
        begun, status, size = time.monotonic(), _CLIENT_LEFT, 0
        self._running += 1
        self._silent.discard(request.protocol)
        try:
            response = await self._decide(request)
            if self._stopping and not response.prepared:
                response.force_close()
            status, size = response.status, response.body_length
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                size = len(response.body)
            return response
        finally:
            self._running -= 1
            if self._worth_a_line(status):
                path = (
                    request.raw_path.partition("?")[0][:_PATH_SHOWN]
                    .encode("ascii", "backslashreplace")
                    .decode()
                )
                spent_ms = (time.monotonic() - begun) * 1000
                _LOG.info("%s %s %d %d B %.0f ms", request.method, path, status, size, spent_ms)

    def _worth_a_line(self, status: int) -> bool:
        # Whoever has no key could fill a disk with refusals: a few a minute are told, then only their number.
        if status not in (400, 401, 403, 404, 405):
            return True
        now = time.monotonic()
        if now - self._refused_since > 60:
            if self._refused > _REFUSALS_SHOWN:
                _LOG.info("%d more requests were refused", self._refused - _REFUSALS_SHOWN)
            self._refused_since, self._refused = now, 0
        self._refused += 1
        return self._refused <= _REFUSALS_SHOWN

    async def _decide(self, request: web.BaseRequest) -> web.StreamResponse:
        method, admission = request.method, self._admission
        if request.version.major != 1:  # the parser lets HTTP/0.9 and HTTP/2.0 lines pass
            return _closing(answers.refused(505, "Only HTTP/1.1 is spoken here.", "http_version"))
        if method not in _METHODS:
            return _closing(answers.refused(405, "This method is not allowed.", "method_not_allowed"))
        try:
            target = Target.parse(request.raw_path)
        except ValueError as error:
            return _closing(answers.refused(400, str(error), "bad_request"))
        if target.path == "/health" and method in SAFE_METHODS:
            up = self._routes.ready and not self._stopping
            return answers.json_answer(200 if up else 503, {"status": "up" if up else "down"})
        if target.path == "/login" and method in ("GET", "HEAD", "POST"):
            return await admission.login(request, target)
        refusal = await admission.refusal(request, target)
        if refusal is not None:
            return refusal
        if target.path == "/logout":
            return admission.logout(request, target)
        if target.path == "/status" and method in SAFE_METHODS:
            return answers.json_answer(200, {**self._report(), "usage": self.usage.as_json()})
        return await self._pass_on(request, target)

    async def _pass_on(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        routes, page_path, browser = self._routes, target.page_path, is_browser(request)
        probe = request.headers.get("X-Launcher-Probe") == routes.probe_nonce
        if self._stopping or not (routes.ready or probe):
            return pages.state_page(self._report()) if browser else answers.not_ready(self._report())
        if page_path is not None and routes.page is not None:
            return await self._to_page(request, target, routes.page, page_path)
        if page_path is not None and routes.page_starting and browser:
            return pages.page_opening()
        if target.path == "/" and browser:
            address = Address.of(request.headers, target.prefix)
            return pages.endpoint_page(address.url, portal=bool(address.prefix))
        if page_path is not None or target.path == "/favicon.ico":
            return answers.refused(404, "Nothing is served here. The API is under /v1.", "not_found")
        if routes.engine is None:
            return answers.unreachable()
        # The probe is nobody's activity: it counts in a ledger that is thrown away.
        return await self._to_engine(request, target, routes.engine, Usage() if probe else self.usage)

    async def _to_page(
        self, request: web.BaseRequest, target: Target, socket: Path, path: str
    ) -> web.StreamResponse:
        address = Address.of(request.headers, target.prefix)
        url, session = proxy.upstream_url(path, target.query), self._upstreams.session(socket)
        try:
            headers = proxy.request_headers(request, page_url=f"{address.url}/ui")
            if websocket.wanted(request):
                return await websocket.relay(request, session, url, headers, lambda: None)
            return (await proxy.forward(request, session, url, headers, Tail()))[0]
        except proxy.BadRequestError as error:
            return _closing(answers.refused(400, str(error), "bad_request"))
        except (ClientError, OSError) as error:
            _raise_if_client_left(request, error)
            return pages.page_gone() if is_browser(request) else answers.unreachable()

    async def _to_engine(
        self, request: web.BaseRequest, target: Target, socket: Path, usage: Usage
    ) -> web.StreamResponse:
        url, session = proxy.upstream_url(target.path, target.query), self._upstreams.session(socket)
        is_websocket, tail, status = websocket.wanted(request), Tail(), _CLIENT_LEFT
        usage.begin(is_websocket, active=target.path not in _NO_ACTIVITY)
        try:
            headers = proxy.request_headers(request, page_url=None)
            if is_websocket:
                response = await websocket.relay(request, session, url, headers, usage.touch)
                status = 101
            else:
                response, whole = await proxy.forward(request, session, url, headers, tail)
                status = response.status if whole else 502
            return response
        except proxy.BadRequestError as error:
            status = 400
            return _closing(answers.refused(status, str(error), "bad_request"))
        except WSServerHandshakeError as error:
            status = error.status
            return answers.refused(status, "The engine refused this WebSocket.", "websocket_refused")
        except (ClientError, OSError) as error:
            _raise_if_client_left(request, error)
            status = 502
            return answers.unreachable()
        finally:
            usage.end(
                is_websocket,
                active=target.path not in _NO_ACTIVITY,
                failed=status >= 400 and status != _CLIENT_LEFT,
                tokens=tail.tokens() if request.method == "POST" else (0, 0),
            )


def _raise_if_client_left(request: web.BaseRequest, error: Exception) -> None:
    """aiohttp's errors do not tell which side closed; there is nobody to answer when it was the client."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("The client left.") from error


def _closing(response: web.Response) -> web.Response:
    """Nothing more is read from a client that sent nonsense."""
    response.force_close()
    return response


class _Closed(asyncio.Protocol):
    """For a connection too many: closed at once, so that those who are in keep what they need."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

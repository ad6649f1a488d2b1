"""The tests' portal behaves as OOD's proxy: what the app sees of a request, what the browser gets back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web

from tests.portal.apache import Portal

pytestmark = pytest.mark.browser


class App:
    """A tiny real HTTP server behind the portal: echo, redirect, cookies, an event stream, a WebSocket."""

    def __init__(self) -> None:
        self.port = 0
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def echo(self, request: web.Request) -> web.Response:
        return web.json_response({"path": request.raw_path, "headers": dict(request.headers)})

    async def redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=303, headers={"Location": request.query["to"]})

    async def cookies(self, request: web.Request) -> web.Response:
        response = web.Response(text="set")
        response.headers.add("Set-Cookie", "a=1; Domain=example.org; Path=/; HttpOnly")
        response.headers.add("Set-Cookie", "b=2")
        return response

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: one\n\n")
        every_s = float(request.query.get("every_s", "60"))
        try:
            while not self.go_on.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.go_on.wait(), every_s)
                await answer.write(b": beat\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        await answer.write(b"data: two\n\n")
        return answer

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(f"heard {message.data}")
        return answer


@asynccontextmanager
async def _behind(portal: Portal) -> AsyncIterator[tuple[App, aiohttp.ClientSession]]:
    app = App()
    routes = web.Application()
    for name in ("redirect", "cookies", "stream", "socket"):
        routes.router.add_route("*", f"/{{prefix:.*}}{name}", getattr(app, name))
    routes.router.add_route("*", "/{path:.*}", app.echo)
    runner = web.AppRunner(routes, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    app.port = runner.addresses[0][1]
    tls = ssl.create_default_context(cafile=str(portal.certificate)) if portal.scheme == "https" else True
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), cookie_jar=jar) as client:
        login = "; ".join(f"{name}={value}" for name, value in portal.cookies.items())
        client.headers["Cookie"] = f"{login}; mine=1"
        yield app, client
    await runner.cleanup()


async def test_node_keeps_the_prefix_and_rnode_strips_it(portal: Portal) -> None:
    async with _behind(portal) as (app, client):
        async with client.get(portal.node_url("127.0.0.1", app.port, "v1/models?x=1%202")) as answer:
            assert (await answer.json())["path"] == f"/node/127.0.0.1/{app.port}/v1/models?x=1%202"
        async with client.get(portal.rnode_url("127.0.0.1", app.port, "v1/models?x=1%202")) as answer:
            assert (await answer.json())["path"] == "/v1/models?x=1%202"
        async with client.get(portal.rnode_url("127.0.0.1", app.port).rstrip("/")) as answer:
            assert (await answer.json())["path"] == "/"


async def test_the_app_sees_no_authorization_and_not_the_portals_cookie(portal: Portal) -> None:
    async with _behind(portal) as (app, client):
        sent = {"Authorization": "Bearer sk-x", "X-Api-Key": "sk-x", "X-Forwarded-User": "root"}
        sent["X-Forwarded-Host"] = "evil.example"
        for url in (portal.node_url, portal.rnode_url):
            async with client.get(url("127.0.0.1", app.port, "echo"), headers=sent) as answer:
                seen = (await answer.json())["headers"]
            assert "Authorization" not in seen
            assert seen["X-Api-Key"] == "sk-x"
            assert seen["Cookie"].strip() == "mine=1"
            assert seen["X-Forwarded-User"] == portal.user
            assert seen["X-Forwarded-Proto"] == "http"
            # A client can put a host before the portal's own, but the last one is Apache's.
            assert seen["X-Forwarded-Host"].split(", ") == ["evil.example", f"localhost:{portal.port}"]
            assert seen["Host"] == f"127.0.0.1:{app.port}"
            assert "X-Forwarded-Prefix" not in seen
            assert seen["X-Forwarded-Escaped-Uri"]


async def test_version_31_passes_authorization_on() -> None:
    with Portal(version="3.1") as portal:
        async with _behind(portal) as (app, client):
            url = portal.node_url("127.0.0.1", app.port, "echo")
            async with client.get(url, headers={"Authorization": "Basic x"}) as answer:
                assert (await answer.json())["headers"]["Authorization"] == "Basic x"


@pytest.mark.parametrize(
    ("location", "node", "rnode"),
    [
        ("/login", "/login", "/rnode/127.0.0.1/{port}/login"),
        ("http://127.0.0.1:{port}/a", "/a", "/rnode/127.0.0.1/{port}/a"),
        ("/rnode/127.0.0.1/{port}/a", None, "/rnode/127.0.0.1/{port}/rnode/127.0.0.1/{port}/a"),
        ("login", "login", "login"),
        ("./", "./", "/rnode/127.0.0.1/{port}/"),
    ],
)
async def test_location_is_rewritten(portal: Portal, location: str, node: str | None, rnode: str) -> None:
    async with _behind(portal) as (app, client):
        for url, expected in ((portal.node_url, node), (portal.rnode_url, rnode)):
            if expected is None:
                continue
            to = location.format(port=app.port)
            where = url("127.0.0.1", app.port, "redirect")
            async with client.get(where, params={"to": to}, allow_redirects=False) as answer:
                assert answer.headers["Location"] == expected.format(port=app.port)


async def test_cookies_are_bound_to_the_apps_prefix(portal: Portal) -> None:
    async with _behind(portal) as (app, client):
        for route, url in (("node", portal.node_url), ("rnode", portal.rnode_url)):
            async with client.get(url("127.0.0.1", app.port, "cookies")) as answer:
                path = f"/{route}/127.0.0.1/{app.port}"
                set_cookies = answer.headers.getall("Set-Cookie")
            assert set_cookies == [f"a=1; Path={path}; HttpOnly", f"b=2; Path={path}"]


@pytest.mark.parametrize("scheme", ["portal", "portal_https"])
async def test_streams_and_websockets_pass(request: pytest.FixtureRequest, scheme: str) -> None:
    portal: Portal = request.getfixturevalue(scheme)
    async with _behind(portal) as (app, client):
        for url in (portal.node_url, portal.rnode_url):
            app.go_on.clear()
            async with client.get(url("127.0.0.1", app.port, "stream")) as answer:
                assert await asyncio.wait_for(answer.content.readline(), 3) == b"data: one\n"
                app.go_on.set()
                assert (await answer.content.read()).endswith(b"data: two\n\n")
            async with client.ws_connect(url("127.0.0.1", app.port, "socket")) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str(timeout=3) == "heard hello"


async def test_the_app_hears_when_the_browser_leaves_while_tokens_flow(portal: Portal) -> None:
    async with _behind(portal) as (app, client):
        async with client.get(portal.node_url("127.0.0.1", app.port, "stream?every_s=0.2")) as answer:
            await answer.content.readline()
            answer.close()
        await asyncio.wait_for(app.left.wait(), 3)


async def test_without_the_portals_login_nothing_is_reached(portal: Portal) -> None:
    async with _behind(portal) as (app, client):
        client.headers["Cookie"] = ""
        for url in (portal.node_url, portal.rnode_url):
            where = url("127.0.0.1", app.port, "echo?a=b&c=d")
            async with client.post(where) as answer:
                assert answer.status == 401
            async with client.get(where, allow_redirects=False) as answer:
                assert answer.status == 302
                assert answer.headers["Location"].startswith("/oidc/login?next=")


async def test_a_browser_is_logged_in_on_the_way(portal: Portal) -> None:
    async with _behind(portal) as (app, _), aiohttp.ClientSession() as browser:
        for url in (portal.node_url, portal.rnode_url):
            async with browser.get(url("127.0.0.1", app.port, "echo?a=b&c=d")) as answer:
                assert (await answer.json())["path"].endswith("/echo?a=b&c=d")


async def test_a_dead_app_is_named(portal: Portal) -> None:
    async with _behind(portal) as (_, client), client.get(portal.node_url("127.0.0.1", 9)) as answer:
        assert (answer.status, await answer.text()) == (503, "Failed to connect to 127.0.0.1:9")


async def test_a_silent_stream_is_cut_at_the_timeout() -> None:
    with Portal(timeout_s=1) as portal:
        async with _behind(portal) as (app, client):
            url = portal.node_url("127.0.0.1", app.port, "stream")
            with pytest.raises(aiohttp.ClientPayloadError):
                async with client.get(url) as answer:
                    await asyncio.wait_for(answer.content.read(), 10)

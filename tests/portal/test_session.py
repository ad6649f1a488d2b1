"""A session behind the portal, under both prefixes, over http and https: who gets in, what passes, what stays apart."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest

from launcher.gateway import exchange
from tests.portal.apache import Portal
from tests.portal.behind import HTML, WAYS, OtherSession, browser, log_in, root, status
from tests.programs.front import KEY, RunningGateway, SimulatedEngine, chat, wait_until
from tests.programs.recorder import Recorder
from tests.programs.wire import HOST, replies
from tests.programs.wire import exchange as exchange_raw

pytestmark = [pytest.mark.browser, pytest.mark.timeout(200)]

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]
OTHER_KEY = "sk-" + "6b" * 32


@pytest.fixture
def engine(start_engine: StartEngine) -> SimulatedEngine:
    return start_engine()


@pytest.fixture
def front(engine: SimulatedEngine, start_gateway: StartGateway) -> RunningGateway:
    return start_gateway(engine=engine.socket)


@pytest.fixture
def portal_of(request: pytest.FixtureRequest) -> Callable[[str], Portal]:
    """The portal of one of the WAYS."""

    def find(way: str) -> Portal:
        found: Portal = request.getfixturevalue("portal_https" if way.endswith("https") else "portal")
        return found

    return find


@pytest.mark.parametrize("way", WAYS)
async def test_the_cards_post_opens_the_session(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    async with browser(portal) as client:
        assert await status(client, f"{at}v1/models") == 401
        answer = await log_in(client, at)
        assert answer.status == 303
        assert urljoin(str(answer.url), answer.headers["Location"]) == at
        (morsel,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
        assert morsel["path"] == urlsplit(at).path.rstrip("/")
        assert morsel["httponly"] is True
        assert morsel["samesite"] == "Lax"
        assert bool(morsel["secure"]) is way.endswith("https")
        assert morsel["domain"] == ""
        assert KEY not in str(answer.headers)
        async with client.get(at, headers=HTML) as page:
            assert page.status == 200
            assert KEY not in await page.text()
        origin = {"Origin": portal.url}
        async with client.post(f"{at}v1/chat/completions", data=chat(), headers=origin) as said:
            assert (await said.json())["usage"]["completion_tokens"] == 7
        # Another's page on another origin has the cookie sent with its posts, where the browser lets it.
        evil = {"Origin": "https://evil.example"}
        assert await status(client, f"{at}v1/chat/completions", "POST", evil) == 403
        # The other prefix is another path: a cookie is bound to its own.
        other = at.replace("/rnode/", "/node/") if "/rnode/" in at else at.replace("/node/", "/rnode/")
        assert await status(client, f"{other}v1/models") == 401


@pytest.mark.parametrize("way", WAYS)
async def test_a_wrong_key_opens_nothing(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    async with browser(portal) as client:
        answer = await log_in(client, at, OTHER_KEY)
        assert answer.status == 401
        assert "Set-Cookie" not in answer.headers
        assert await status(client, at, headers=HTML) == 401
        assert await status(client, f"{at}v1/models", headers={"X-Api-Key": OTHER_KEY}) == 401
        # The portal takes Authorization away, so a key counts only in the other header.
        assert await status(client, f"{at}v1/models", headers={"Authorization": f"Bearer {KEY}"}) == 401
        assert await status(client, f"{at}v1/models", headers={"X-Api-Key": KEY}) == 200


@pytest.mark.parametrize("way", WAYS)
async def test_who_has_logged_out_is_out(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    async with browser(portal) as client:
        login = await log_in(client, at)
        kept = login.headers["Set-Cookie"].partition(";")[0]
        assert await status(client, f"{at}v1/models") == 200
        evil = {"Origin": "https://evil.example"}
        assert await status(client, f"{at}logout", "POST", evil) == 403
        assert await status(client, f"{at}v1/models") == 200
        async with client.post(
            f"{at}logout", headers={"Origin": portal.url}, allow_redirects=False
        ) as answer:
            assert answer.status == 303
            assert urljoin(str(answer.url), answer.headers["Location"]) == f"{at}login"
            gone = SimpleCookie(answer.headers["Set-Cookie"])
        assert [morsel["path"] for morsel in gone.values()] == [urlsplit(at).path.rstrip("/")]
        assert not any(cookie.key.startswith("launcher") for cookie in client.cookie_jar)
        assert await status(client, f"{at}v1/models") == 401
        # Nor does a copy of the cookie help.
        assert (
            await status(client, f"{at}v1/models", headers={"Cookie": f"{_portals(portal)}; {kept}"}) == 401
        )


def _portals(portal: Portal) -> str:
    return "; ".join(f"{name}={value}" for name, value in portal.cookies.items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("same_id", [True, False], ids=["same id", "own id"])
async def test_two_sessions_in_one_jar_share_no_login(
    way: str, same_id: bool, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    other = OtherSession(OTHER_KEY, "tiny-1" if same_id else "tiny-2", engine=front.routes.engine)
    try:
        first, second = root(portal, way, front.port), root(portal, way, other.port)
        async with browser(portal) as client:
            assert (await log_in(client, first)).status == 303
            assert await status(client, f"{second}v1/models") == 401
            assert (await log_in(client, second)).status == 401, "the other session's key"
            assert (await log_in(client, second, OTHER_KEY)).status == 303
            assert await status(client, f"{first}v1/models") == 200
            assert await status(client, f"{second}v1/models") == 200
            sent = {"Origin": portal.url}
            assert await status(client, f"{first}logout", "POST", sent) == 303
            assert await status(client, f"{first}v1/models") == 401
            assert await status(client, f"{second}v1/models") == 200
    finally:
        other.close()


async def test_two_sessions_without_a_portal_share_no_login(front: RunningGateway) -> None:
    """Cookies know no ports: on one host the jar sends each session's cookie to both."""
    other = OtherSession(OTHER_KEY, "tiny-2", engine=front.routes.engine)
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(quote_cookie=False)) as client:
            first, second = (f"http://localhost:{port}/" for port in (front.port, other.port))
            assert (await log_in(client, first)).status == 303
            assert await status(client, f"{second}v1/models") == 401
            assert (await log_in(client, second, OTHER_KEY)).status == 303
            assert await status(client, f"{first}v1/models") == 200
            assert await status(client, f"{second}v1/models") == 200
    finally:
        other.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_login_page_posts_to_the_session_wherever_it_is_shown(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    # Without the slash the prefix's last part is the port: only under /node the gateway can see that.
    places = ["", "ui/", "v1/a/b/c", "login", "x?a=b/c/d"] + ([] if way.startswith("rnode") else [".."])
    async with browser(portal) as client:
        for place in places:
            where = at.rstrip("/") if place == ".." else f"{at}{place}"
            async with client.get(where, headers=HTML) as answer:
                page = await answer.text()
                action = page.partition('action="')[2].partition('"')[0]
                assert urljoin(str(answer.url), action) == f"{at}login", place


@pytest.mark.parametrize("way", WAYS)
async def test_a_websocket_echoes_through_portal_gateway_and_engine(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    async with browser(portal) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"{at}v1/realtime", headers={"Origin": portal.url})
        assert refused.value.status == 401
        await log_in(client, at)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"{at}v1/realtime", headers={"Origin": "https://evil.example"})
        assert refused.value.status == 403
        async with client.ws_connect(
            f"{at}v1/realtime", headers={"Origin": portal.url}, protocols=["realtime"]
        ) as socket:
            assert socket.protocol == "realtime"
            assert (await socket.receive_json(timeout=10))["type"] == "session.created"
            for size in (1, 125, 126, 70_000, 1_000_000):
                await socket.send_str("é" * size)
                assert await socket.receive_str(timeout=10) == "é" * size
            await socket.send_bytes(bytes(1000))
            assert await socket.receive_bytes(timeout=10) == bytes(1000)
    wait_until(lambda: front.usage.in_flight == 0)


async def test_silence_longer_than_the_portals_timeout_does_not_cut_a_stream(
    start_engine: StartEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of silence at Apache's 60 s, in small: each of five gaps is longer than Apache waits."""
    monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.5)
    engine = start_engine("--first-token-ms", "3600", "--token-rate", "0.278", "--tokens", "5")
    front = start_gateway(engine=engine.socket)
    with Portal(timeout_s=3) as plain, Portal(timeout_s=3, scheme="https") as tls:

        async def listen(portal: Portal, way: str) -> bytes:
            async with browser(portal) as client:
                at = root(portal, way, front.port)
                await log_in(client, at)
                sent = {"Origin": portal.url}
                async with client.post(
                    f"{at}v1/chat/completions", data=chat(stream=True), headers=sent
                ) as answer:
                    assert answer.headers["Content-Type"].startswith("text/event-stream")
                    return await answer.content.read()

        said = await asyncio.gather(*(listen(tls if way.endswith("https") else plain, way) for way in WAYS))
    for body in said:
        parts = body.decode().removesuffix("\n\n").split("\n\n")
        found = [json.loads(part[6:]) for part in parts if part.startswith("data: {")]
        assert parts[-1] == "data: [DONE]"
        assert sum(bool(event["choices"][0]["delta"].get("content")) for event in found) == 5
        # Whatever is no event is a comment, which every client of event streams passes over.
        assert {part for part in parts if not part.startswith("data: ")} == {": keep-alive"}
        assert parts.count(": keep-alive") >= 5


async def test_the_engine_hears_that_the_browser_left_a_silent_stream(
    start_engine: StartEngine, start_gateway: StartGateway, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apache tells it only when it has something to pass on; the heartbeat is that."""
    monkeypatch.setattr(exchange, "HEARTBEAT_S", 0.5)
    engine = start_engine("--first-token-ms", "100000")
    front = start_gateway(engine=engine.socket)
    async with browser(portal) as client:
        at = root(portal, "node", front.port)
        await log_in(client, at)
        sent = {"Origin": portal.url}
        answer = await client.post(f"{at}v1/chat/completions", data=chat(stream=True), headers=sent)
        await answer.content.readline()
        assert engine.counts()["running"] == 1
        answer.close()
    wait_until(lambda: engine.counts()["running"] == 0)
    assert engine.counts()["cancelled"] == 1


async def _blocks(block: bytes, number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield block


@pytest.mark.parametrize("way", ["node", "rnode-https"])
async def test_a_large_upload_passes_the_portal(
    way: str, front: RunningGateway, portal_of: Callable[[str], Portal]
) -> None:
    portal = portal_of(way)
    at = root(portal, way, front.port)
    block = bytes(2**20)

    async with browser(portal) as client:
        await log_in(client, at)
        sent = {"Origin": portal.url}
        for body in (io.BytesIO(block * 32), _blocks(block, 32)):
            async with client.post(f"{at}v1/audio/transcriptions", data=body, headers=sent) as answer:
                assert (await answer.json())["text"] == f"Simulated transcription of {32 * 2**20} bytes."


SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + KEY.encode() + b"\r\n\r\n"
TRICKS = {
    "CL and TE": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a length in Connection": b"Connection: Content-Length\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a coding in Connection": b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n" % len(SMUGGLED),
    "a body": b"Content-Length: %d\r\n\r\n" % len(SMUGGLED),
    "an expectation": b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "an upgrade": b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "an upgrade to HTTP/2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "a chunk extension": b"Transfer-Encoding: chunked\r\n\r\n0;\n\r\n\r\n",
    "a bare LF": b"X: y\nContent-Length: 0\r\n\r\n",
    "a folded line": b"X: y\r\n Content-Length: 0\r\n\r\n",
}


@pytest.fixture
def recorder(sockets: Path) -> Iterator[Recorder]:
    made = Recorder(sockets)
    yield made
    made.close()


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("route", ["node", "rnode"])
def test_nothing_is_smuggled_through_portal_and_gateway(
    route: str, trick: str, portal: Portal, recorder: Recorder, start_gateway: StartGateway
) -> None:
    """What the portal lets through must mean the same to it and to the gateway: here, one refused request."""
    front = start_gateway(engine=recorder.socket)
    head = b"POST /%s/127.0.0.1/%d/v1/x HTTP/1.1\r\n" % (route.encode(), front.port) + HOST
    head += b"Cookie: " + _portals(portal).encode() + b"\r\n"
    received, _ = exchange_raw(portal.port, head + TRICKS[trick] + SMUGGLED, silence_s=1.0)
    # The smuggled one may be seen by the portal itself, which has no such page and no login for it.
    assert not [reply for reply in replies(received) if reply.status < 300]
    assert recorder.requests == []
    assert recorder.connections == 0

"""What the tests of a session behind the portal share: two prefixes, two schemes, and browsers with cookie jars."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.server import Gateway
from tests.portal.apache import Portal
from tests.programs.front import KEY, RunningGateway

WAYS = ("node", "rnode", "node-https", "rnode-https")
HTML = {"Accept": "text/html,application/xhtml+xml"}


class OtherSession(RunningGateway):
    """Another session of the same user: a key and an id of its own, or the id of a requeued one."""

    def __init__(self, key: str, session_id: str, **routes: Any) -> None:
        self._key, self._session_id = key, session_id
        super().__init__(**routes)

    async def _make(self) -> Gateway:
        front = SessionFront(self.routes, lambda: self.report)
        return Gateway(keys=Keys(self._key), front=front, name=self._session_id)


def root(portal: Portal, way: str, port: int) -> str:
    """The session's address in the browser, with a slash at its end."""
    return (portal.rnode_url if way.startswith("rnode") else portal.node_url)("127.0.0.1", port)


@asynccontextmanager
async def browser(portal: Portal) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who is logged in to the portal, with one jar for all its cookies."""
    tls = ssl.create_default_context(cafile=str(portal.certificate)) if portal.scheme == "https" else True
    jar = aiohttp.CookieJar(quote_cookie=False)
    jar.update_cookies(portal.cookies, URL(portal.url))
    connector, timeout = aiohttp.TCPConnector(ssl=tls), aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as client:
        yield client


async def log_in(client: aiohttp.ClientSession, at: str, key: str = KEY) -> aiohttp.ClientResponse:
    """Post the key as the card's form does; the redirect is not followed."""
    where = URL(at)
    sent = {**HTML, "Origin": str(where.origin()), "Sec-Fetch-Site": "same-origin"}
    async with client.post(f"{at}login", data={"key": key}, headers=sent, allow_redirects=False) as answer:
        await answer.read()
        return answer


async def status(
    client: aiohttp.ClientSession, url: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> int:
    """The status of one request without its own key, redirects not followed."""
    async with client.request(method, url, headers=headers, allow_redirects=False) as answer:
        await answer.read()
        return answer.status

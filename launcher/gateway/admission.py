"""Lets a request in or turns it away: the key, the cookie, the login form. Default deny."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from aiohttp import web

from launcher.gateway import answers, pages, websocket
from launcher.gateway.keys import Keys, Throttle, cookie_name, cookie_values, presented_key
from launcher.gateway.routes import Address, Target, same_origin

SAFE_METHODS = frozenset(("GET", "HEAD"))
_LOGIN_BYTES, _LOGIN_TIMEOUT_S = 8192, 10.0


class Admission:
    """Checks requests of one session against its `keys`."""

    def __init__(self, keys: Keys, session_id: str) -> None:
        self._keys = keys
        self._cookie = cookie_name(session_id)
        self._throttle = Throttle()

    async def refusal(self, request: web.BaseRequest, target: Target) -> web.Response | None:
        """None for a request with the right key, or with our cookie from our own pages; else what it gets."""
        headers = request.headers
        offered = websocket.protocols(request) if "Sec-WebSocket-Protocol" in headers else ()
        key = presented_key(headers, offered)
        if key is not None and self._keys.accepts(key):
            return None
        if self._cookies_of(request):
            # A page of another app on the portal's origin could post here, or open a WebSocket, with our cookie.
            harmless = request.method in SAFE_METHODS and not websocket.wanted(request)
            if harmless or same_origin(headers):
                return None
            return answers.refused(403, "This request comes from another site's page.", "cross_origin")
        if key is not None and not await self._throttle.wrong():
            return answers.too_many_guesses()
        if is_browser(request):
            return pages.login_page(target.up())
        return answers.unauthorized(key is not None)

    async def login(self, request: web.BaseRequest, target: Target) -> web.Response:
        """Show the form, or take it: a cookie for the right key, a slow refusal for a wrong one."""
        if request.method != "POST":
            if self._cookies_of(request):
                return _redirect("./")
            return pages.login_page(target.up(), status=200)
        try:
            async with asyncio.timeout(_LOGIN_TIMEOUT_S):
                key = await _posted_key(request)
        except TimeoutError:
            return answers.refused(408, "The login took too long.", "timeout")
        except ValueError as error:
            return answers.refused(400, str(error), "bad_request")
        cookie = self._keys.login(key)
        if cookie is None:
            if not await self._throttle.wrong():
                return answers.too_many_guesses()
            return pages.login_page(target.up(), wrong=True)
        address = Address.of(request.headers, target.prefix)
        response = _redirect("./")
        response.set_cookie(
            self._cookie,
            cookie,
            path=address.prefix or "/",  # the portal puts its own prefix here anyway
            httponly=True,
            samesite="Lax",
            secure=True if address.scheme == "https" else None,
        )
        return response

    def logout(self, request: web.BaseRequest, target: Target) -> web.Response:
        """End the login of the cookie that came with the request."""
        if request.method != "POST":
            return answers.refused(405, "Log out by POST.", "method_not_allowed", {"Allow": "POST"})
        for value in self._cookies_of(request):
            self._keys.forget(value)
        response = _redirect("./login")
        response.del_cookie(self._cookie, path=Address.of(request.headers, target.prefix).prefix or "/")
        return response

    def _cookies_of(self, request: web.BaseRequest) -> list[str]:
        """The values of our cookie that a login gave out; an old session's counts as none."""
        return [
            value
            for header in request.headers.getall("Cookie", ())
            for value in cookie_values(header, self._cookie)
            if self._keys.knows(value)
        ]


def is_browser(request: web.BaseRequest) -> bool:
    """Whether the request is a person's, who should see a page."""
    return request.method in SAFE_METHODS and "text/html" in request.headers.get("Accept", "")


async def _posted_key(request: web.BaseRequest) -> str:
    """The form's `key`; raises ValueError for a body that is no login form."""
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > _LOGIN_BYTES:
                raise ValueError("The login form is too big.")
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=16)
    except web.RequestPayloadError as error:
        raise ValueError("The login form is broken.") from error
    return fields.get("key", [""])[0].strip()


def _redirect(location: str) -> web.Response:
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})

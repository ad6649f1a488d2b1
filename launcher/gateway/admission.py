"""Lets a request in or turns it away: the key, the cookie, the login form. Default deny."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from urllib.parse import parse_qs

from launcher.errors import StorageError
from launcher.gateway import answers, pages
from launcher.gateway.answers import SESSION, Answer, Door
from launcher.gateway.exchange import Exchange
from launcher.gateway.keys import Holder, KeyRing, Throttle, cookie_name, cookie_values
from launcher.gateway.request import SAFE_METHODS, Request
from launcher.gateway.routes import Address, Target, same_origin

_LOGIN_BYTES, _LOGIN_TIMEOUT_S = 8192, 10.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request gets instead; a wrong `guess` gets it late."""

    answer: Answer
    guess: bool = False


class Admission:
    """Checks the requests of one gateway against its `keys`; `name` makes its cookie's name."""

    def __init__(self, keys: KeyRing, name: str, door: Door = SESSION) -> None:
        self._keys = keys
        self._cookie = cookie_name(name)
        self._door = door
        self._throttle = Throttle()

    def admit(self, request: Request, target: Target) -> Holder | Refusal:
        """Whose right key came, or whose cookie from our own pages; else what the request gets."""
        key = request.presented_key()
        if key is not None and (holder := self._keys.holder(key)) is not None:
            return holder
        if (holder := self._logged_in(request)) is not None:
            # A page of another app on the portal's origin could post here, or open a WebSocket, with our cookie.
            harmless = request.method in SAFE_METHODS and not request.wants_websocket
            if harmless or same_origin(request.headers):
                return holder
            return Refusal(
                answers.refused(403, "This request comes from another site's page.", "cross_origin")
            )
        if request.from_browser:
            return Refusal(pages.login_page(target.up(), door=self._door), guess=key is not None)
        return Refusal(answers.unauthorized(key is not None, self._door), guess=key is not None)

    async def guessed(self, exchange: Exchange, target: Target) -> Holder | None:
        """Whose key it is that was not known, if it was made just now; else the answer, when its time has come."""
        away = False
        try:
            await self._keys.anew()
        except StorageError:
            away = not exchange.request.from_browser
        verdict = self.admit(exchange.request, target)
        if not isinstance(verdict, Refusal):
            return verdict
        in_time = await self._throttle.wrong()
        answer = answers.keys_away() if away else verdict.answer
        exchange.reply(answer if in_time else answers.too_many_guesses())
        return None

    async def login(self, exchange: Exchange, target: Target) -> None:
        """Show the form, or take it: a cookie for the right key, a slow refusal for a wrong one."""
        exchange.reply(await self._login(exchange, target))

    async def _login(self, exchange: Exchange, target: Target) -> Answer:
        request = exchange.request
        if request.method != "POST":
            if self._logged_in(request) is not None:
                return _redirect("./")
            return pages.login_page(target.up(), status=200, door=self._door)
        try:
            async with asyncio.timeout(_LOGIN_TIMEOUT_S):
                body = await exchange.body(_LOGIN_BYTES)
        except TimeoutError:
            return answers.refused(408, "The login took too long.", "timeout", close=True)
        if body is None:
            return answers.refused(400, "The login form is too big.", "bad_request", close=True)
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=16)
        except ValueError:
            return answers.refused(400, "The login form is broken.", "bad_request")
        key = fields.get("key", [""])[0].strip()
        cookie = self._keys.login(key)
        if cookie is None:  # it may have been made just now
            with contextlib.suppress(StorageError):
                await self._keys.anew()
            cookie = self._keys.login(key)
        if cookie is None and self._keys.holder(key) is not None:
            return pages.login_page(target.up(), trouble=pages.LIMITED_KEY, door=self._door)
        if cookie is None:
            if not await self._throttle.wrong():
                return answers.too_many_guesses()
            return pages.login_page(target.up(), trouble=self._door.wrong, door=self._door)
        address = Address.of(request.headers, target.prefix)
        secure = "; Secure" if address.scheme == "https" else ""
        # The portal puts its own prefix into Path anyway.
        return _redirect(
            "./", f"{self._cookie}={cookie}; HttpOnly; Path={address.prefix or '/'}; SameSite=Lax{secure}"
        )

    def logout(self, request: Request, target: Target) -> Answer:
        """End the login of the cookie that came with the request."""
        if request.method != "POST":
            return answers.refused(405, "Log out by POST.", "method_not_allowed", {"Allow": "POST"})
        for value in self._cookies_of(request):
            self._keys.forget(value)
        path = Address.of(request.headers, target.prefix).prefix or "/"
        return _redirect("./login", f'{self._cookie}=""; Max-Age=0; Path={path}')

    def _logged_in(self, request: Request) -> Holder | None:
        return next(
            (holder for value in self._cookies_of(request) if (holder := self._keys.cookie(value))), None
        )

    def _cookies_of(self, request: Request) -> list[str]:
        return [
            value
            for header in request.headers.all(b"cookie")
            for value in cookie_values(header, self._cookie)
        ]


def _redirect(location: str, cookie: str | None = None) -> Answer:
    headers = {"Location": location, "Cache-Control": "no-store"}
    return Answer(303, b"", {**headers, "Set-Cookie": cookie} if cookie else headers)

"""Who may talk to a session: the API key, the cookies that a login gave out, and the price of a wrong guess."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

_COOKIES_KEPT = 4096
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 5.0
_GUESSES_WAITING = 32
_FORGIVEN_AFTER_S = 10.0
# OpenAI's browser clients cannot set headers on a WebSocket and send the key as a subprotocol.
KEY_PROTOCOL = "openai-insecure-api-key."


class Keys:
    """The session's API key and the cookies made for it. Only hashes are kept."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key)
        self._cookies: dict[bytes, None] = {}  # in the order they were made

    def accepts(self, candidate: str) -> bool:
        """Whether `candidate` is the key; takes the same time for every wrong one."""
        return hmac.compare_digest(_digest(candidate), self._digest)

    def login(self, candidate: str) -> str | None:
        """A new cookie value (256 random bits, not the key) for the right key, else None."""
        if not self.accepts(candidate):
            return None
        cookie = secrets.token_urlsafe(32)
        self._cookies[_digest(cookie)] = None
        while len(self._cookies) > _COOKIES_KEPT:
            del self._cookies[next(iter(self._cookies))]
        return cookie

    def knows(self, cookie: str) -> bool:
        """Whether `cookie` came from a login of this session."""
        return _digest(cookie) in self._cookies

    def forget(self, cookie: str) -> None:
        """End the login that `cookie` stands for."""
        self._cookies.pop(_digest(cookie), None)


class Throttle:
    """Makes wrong keys slow, all of them together: a guess waits longer the more came before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heat = 0.0
        self._last = clock()
        self._waiting = 0

    def next_delay_s(self) -> float:
        """Count one wrong key and say how long its answer must wait; every ten quiet seconds forgive one."""
        now = self._clock()
        self._heat = max(0.0, self._heat - (now - self._last) / _FORGIVEN_AFTER_S)
        self._last = now
        delay_s = float(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(self._heat, 8.0)))
        self._heat = min(self._heat + 1, 8.0)
        return delay_s

    async def wrong(self) -> bool:
        """Wait for a wrong key; False, at once, when too many already wait."""
        if self._waiting >= _GUESSES_WAITING:
            return False
        self._waiting += 1
        try:
            await asyncio.sleep(self.next_delay_s())
        finally:
            self._waiting -= 1
        return True


def presented_key(headers: Mapping[str, str], protocols: Sequence[str] = ()) -> str | None:
    """The key in a request's headers, right or wrong. The portal strips Authorization, hence X-Api-Key."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if key := headers.get("X-Api-Key", "").strip():
        return key
    return next(
        (item.removeprefix(KEY_PROTOCOL) for item in protocols if item.startswith(KEY_PROTOCOL)), None
    )


def cookie_name(session_id: str) -> str:
    """The name of a session's cookie: all sessions behind one portal share its cookie jar."""
    return "launcher_" + "".join(
        letter if letter.isascii() and letter.isalnum() else "_" for letter in session_id
    )


def cookie_values(header: str, name: str) -> list[str]:
    """The values of cookie `name`; a browser may send several, of different paths."""
    pairs = (item.strip().partition("=") for item in header.split(";"))
    return [value for found, _, value in pairs if found == name]


def without_our_cookies(header: str) -> str:
    """The Cookie header without any session's login."""
    items = (item.strip() for item in header.split(";"))
    return "; ".join(item for item in items if item and not item.startswith("launcher_"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

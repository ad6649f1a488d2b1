"""Who may talk to a session: its API key, further keys, the cookies of logins, and the price of a wrong guess."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.errors import StorageError
from launcher.gateway.limits import Budget
from launcher.gateway.proof import proof
from launcher.sessions.keys import OWN, NamedKey, load, opened

_LOG = logging.getLogger("launcher.gateway")
_COOKIES_KEPT = 4096
_COOKIES_KEPT_FURTHER = 64  # of each further key
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 5.0
_GUESSES_WAITING = 32
_FORGIVEN_AFTER_S = 10.0
# So often, at most, the file of further keys is looked at for a key that is not known.
_ANEW_S = 0.5


@dataclass(slots=True, eq=False)
class Holder:
    """Whoever has one of the keys; `own` is the session's own, which has no limits and does not end before it.

    At an endpoint a key has an `owner`, who is in `groups`; `models` are the only ones it may use, None: all of them.
    """

    name: str
    own: bool
    budget: Budget | None
    expires_at: float | None
    revoked: bool = False
    owner: str = ""
    groups: frozenset[str] = frozenset()
    models: frozenset[str] | None = None

    @property
    def valid(self) -> bool:
        """Whether the key still opens the session."""
        return not self.revoked and (self.expires_at is None or time.time() < self.expires_at)


class KeyRing(Protocol):
    """What a gateway asks of the keys that open it; `Keys` says what each means."""

    def holder(self, candidate: str) -> Holder | None:
        """Whose key `candidate` is."""

    async def anew(self) -> None:
        """Somebody came with a key that is not known: take over what has changed now; raises StorageError."""

    def login(self, candidate: str) -> str | None:
        """A new cookie value for a right key."""

    def cookie(self, value: str) -> Holder | None:
        """Whose login `value` came from."""

    def forget(self, cookie: str) -> None:
        """End a login."""

    def named(self, name: str) -> Holder | None:
        """Who has the key called `name`, as long as it is valid."""

    def refresh(self) -> None:
        """Take over what has changed; called every two seconds."""

    def proof(self, challenge: str) -> str | None:
        """What shows to whoever has the session's key that it is here too; None: there is no such key."""


class Keys:
    """The session's API key, the further keys in the file `further`, and the cookies made for them. Only hashes."""

    def __init__(self, key: str, further: Path | None = None) -> None:
        self._own = (_digest(key), Holder(OWN, True, None, None))
        self._known = [self._own]
        self._cookies: dict[bytes, Holder] = {}  # in the order they were made
        self._file = further
        self._mark: tuple[int, ...] | None = None
        self._further: dict[NamedKey, Holder] = {}
        self._readable, self._refreshed_at = True, 0.0
        self.refresh()

    def holder(self, candidate: str) -> Holder | None:
        """Whose key `candidate` is; takes the same time for every wrong one, whatever it has in common with a key."""
        found = self._holder(candidate)
        if found is None and time.monotonic() - self._refreshed_at >= _ANEW_S:  # a key that was made just now
            self.refresh()
            found = self._holder(candidate)
        return found

    async def anew(self) -> None:
        """Nothing more than `holder` does itself: the file is near."""

    def _holder(self, candidate: str) -> Holder | None:
        digest, found = _digest(candidate), None
        for known, holder in self._known:
            if hmac.compare_digest(digest, known):
                found = holder
        return found if found is not None and found.valid else None

    def login(self, candidate: str) -> str | None:
        """A new cookie value (256 random bits, not the key) for a right key, else None.

        A key with limits is for programs: behind the login is the page, which asks the model with the session's own.
        """
        holder = self.holder(candidate)
        if holder is None or holder.budget is not None:
            return None
        mine = [cookie for cookie, whose in self._cookies.items() if whose is holder]
        if len(mine) >= (_COOKIES_KEPT if holder.own else _COOKIES_KEPT_FURTHER):
            del self._cookies[mine[0]]
        cookie = secrets.token_urlsafe(32)
        self._cookies[_digest(cookie)] = holder
        return cookie

    def cookie(self, value: str) -> Holder | None:
        """Whose login `value` came from, as long as that key is valid."""
        holder = self._cookies.get(_digest(value))
        return holder if holder is not None and holder.valid else None

    def named(self, name: str) -> Holder | None:
        """Who has the key called `name`, as long as it is valid: on whose behalf a batch goes on."""
        return next((holder for _, holder in self._known if holder.name == name and holder.valid), None)

    def forget(self, cookie: str) -> None:
        """End the login that `cookie` stands for."""
        self._cookies.pop(_digest(cookie), None)

    def proof(self, challenge: str) -> str | None:
        """What shows to whoever has the session's key that it is here too."""
        return proof(self._own[0], challenge)

    def refresh(self) -> None:
        """Take over what has changed in the file of further keys; to be called every two seconds."""
        self._refreshed_at = time.monotonic()
        if self._file is None:
            return
        try:
            # Opening asks a network file system's server; the answer to a mere stat may be a minute old.
            file = opened(self._file)
            if file is None:
                self._take((), lambda: ())
            else:
                with file:
                    self._take(_mark(os.fstat(file.fileno())), functools.partial(load, file, self._file))
            self._readable = True
        except OSError as error:  # too many open files say nothing about the keys: what is known holds
            if self._readable:
                _LOG.warning("the further keys cannot be read: %s: %s", self._file, error.strerror)
            self._readable = False

    def _take(self, mark: tuple[int, ...], read: Callable[[], Sequence[NamedKey]]) -> None:
        if mark == self._mark:
            return
        keys: Sequence[NamedKey] = ()
        try:
            keys = read()
        except StorageError as error:
            _LOG.warning("no further keys: %s", error)
        self._mark = mark
        self._replace(keys)

    def _replace(self, keys: Sequence[NamedKey]) -> None:
        living: dict[NamedKey, Holder] = {}
        for key in keys:
            if not key.expired:
                # One that only ends later is whose it was: its logins and its running answers go on.
                lasting = dataclasses.replace(key, expires_at=None)
                living[lasting] = self._further.get(lasting) or _holder_of(key)
                living[lasting].expires_at = key.expires_at
        for key, holder in self._further.items():
            if key not in living:
                holder.revoked = True
        self._further = living
        # The session's own stays the last, so that no entry in the file can pass for it.
        self._known = [*((bytes.fromhex(key.digest), holder) for key, holder in living.items()), self._own]
        self._cookies = {cookie: holder for cookie, holder in self._cookies.items() if holder.valid}


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


def _holder_of(key: NamedKey) -> Holder:
    limited = key.requests_per_minute is not None or key.tokens_per_minute is not None
    budget = Budget(key.requests_per_minute, key.tokens_per_minute) if limited else None
    # Files and batches are the key's, not those of the next one that gets its name.
    return Holder(key.name, False, budget, key.expires_at, owner=key.digest)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    """What changes whenever a file is replaced or written."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

"""Who may talk to the endpoint: its named keys from the store, and the cookies of logins."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from launcher.errors import LauncherError, StorageError
from launcher.fleet import issued
from launcher.fleet.issued import Issued
from launcher.fleet.store import Store
from launcher.gateway.keys import Holder
from launcher.gateway.limits import Budget, Share

_LOG = logging.getLogger("launcher.gateway")
_COOKIES_KEPT = 64  # of each key
# So often, at most, the store is asked for a key that is not known, and so long that key waits for the answer.
_ANEW_S, _WAITED_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret that opens: whose it is, and until when; None is as long as the holder."""

    holder: Holder
    until: float | None = None

    @property
    def valid(self) -> bool:
        return self.holder.valid and (self.until is None or time.time() < self.until)


class StoredKeys:
    """The named keys in `store`: a KeyRing. `groups` says which owners are in which group.

    `share` is kept at the number of gateways that live, which divide each limit. The store is read in a thread of its
    own. Where it does not answer, what is known holds.
    """

    def __init__(self, store: Store, groups: Mapping[str, Iterable[str]] | None = None) -> None:
        self._store = store
        self.share = Share()
        self._me = issued.myself()
        self._groups_of: dict[str, set[str]] = {}
        for group, owners in (groups or {}).items():
            for owner in owners:
                self._groups_of.setdefault(owner, set()).add(group)
        self._known: dict[bytes, _Known] = {}  # by the hash of the secret; replaced as a whole
        self._holders: dict[tuple[object, ...], Holder] = {}
        self._cookies: dict[
            bytes, bytes
        ] = {}  # to the hash of the secret that logged in, in the order they were made
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._reading: Future[None] | None = None
        self._asked_at, self._heard_of, self._told = 0.0, 0.0, False
        self._replace(issued.listed(store))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def holder(self, candidate: str) -> Holder | None:
        """Whose key `candidate` is. What is looked up is its hash, from which nobody learns a part of a key."""
        return self._valid(_digest(candidate))

    async def anew(self) -> None:
        """Take over what is in the store now, as far as it answers in time; however many ask, it is asked rarely.

        Raises StorageError where it did not answer.
        """
        since = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAITED_S):
                while self._heard_of < since:  # one that began before may have missed the key
                    await asyncio.sleep(self._asked_at + _ANEW_S - time.monotonic())
                    await asyncio.wait([asyncio.wrap_future(self._read())])
        if self._heard_of < since or self._told:
            raise StorageError("The database of the keys does not answer.", "Try again in a minute.")

    def _valid(self, digest: bytes) -> Holder | None:
        known = self._known.get(digest)
        return known.holder if known is not None and known.valid else None

    def login(self, candidate: str) -> str | None:
        """A new cookie value (256 random bits, not the key) for a right key, else None; also for one with limits."""
        digest = _digest(candidate)
        if self.holder(candidate) is None:
            return None
        mine = [cookie for cookie, whose in self._cookies.items() if whose == digest]
        if len(mine) >= _COOKIES_KEPT:
            del self._cookies[mine[0]]
        cookie = secrets.token_urlsafe(32)
        self._cookies[_digest(cookie)] = digest
        return cookie

    def cookie(self, value: str) -> Holder | None:
        """Whose login `value` came from, as long as the secret that it was made with is valid."""
        digest = self._cookies.get(_digest(value))
        return None if digest is None else self._valid(digest)

    def named(self, name: str) -> Holder | None:
        """Who has the key called `name`, as long as it is valid: on whose behalf a batch goes on."""
        return next(
            (one.holder for one in self._known.values() if one.holder.name == name and one.valid), None
        )

    def forget(self, cookie: str) -> None:
        """End the login that `cookie` stands for."""
        self._cookies.pop(_digest(cookie), None)

    def proof(self, challenge: str) -> str | None:
        """An endpoint has many keys, and none of them is its own."""
        return None

    def refresh(self) -> None:
        """Take over what has changed in the store, as soon as it has answered; to be called every two seconds."""
        self._cookies = {cookie: digest for cookie, digest in self._cookies.items() if self._valid(digest)}
        self._read()

    def _read(self) -> Future[None]:
        if self._reading is None or self._reading.done():
            self._asked_at = time.monotonic()
            self._reading = self._thread.submit(self._take, self._asked_at)
        return self._reading

    def _take(self, asked_at: float) -> None:
        try:
            self._replace(issued.listed(self._store))
            self.share.gateways = max(1, len(self._store.gateways()))
            self._told = False
        except LauncherError as error:
            if not self._told:
                _LOG.warning("the keys cannot be read, those that are known hold: %s", error)
            self._told = True
        finally:
            self._heard_of = asked_at

    def _replace(self, found: Iterable[Issued]) -> None:
        known: dict[bytes, _Known] = {}
        holders: dict[tuple[object, ...], Holder] = {}
        for one in found:
            key = one.key
            # Whoever has the same limits is the same, also with a new secret: what was used of them stays used.
            lasting: tuple[object, ...] = (
                key.name, one.owner, one.own, one.groups, one.models, key.requests_per_minute, key.tokens_per_minute
            )  # fmt: skip
            holder = self._holders.get(lasting)
            holders[lasting] = holder = self._holder(one) if holder is None else holder
            holder.expires_at = key.expires_at
            known[bytes.fromhex(key.digest)] = _Known(holder)
            if one.former is not None:
                known[bytes.fromhex(one.former)] = _Known(holder, one.former_until)
        for gone in self._holders.keys() - holders.keys():
            self._holders[gone].revoked = True
        self._known, self._holders = known, holders

    def _holder(self, one: Issued) -> Holder:
        key = one.key
        limited = key.requests_per_minute is not None or key.tokens_per_minute is not None
        budget = None
        if limited:
            budget = Budget(key.requests_per_minute, key.tokens_per_minute, share=self.share)
        groups = one.groups | self._groups_of.get(one.owner, set())
        return Holder(
            key.name,
            # Several people may share a state: own is only who runs this gateway.
            one.own and one.owner == self._me,
            budget,
            key.expires_at,
            owner=one.owner,
            groups=frozenset(groups),
            models=one.models,
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

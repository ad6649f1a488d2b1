"""Keys of batch runs: each run has one of its own, which counts as the key of whoever made the batch.

They live in memory and go through a pipe; with the gateway they are gone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets

from launcher.gateway.keys import Holder, KeyRing
from launcher.gateway.limits import Budget

_WAIT_S = 30.0


class Passes:
    """The keys of a gateway and, with them, those of its runs: a KeyRing itself."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._runs: dict[bytes, _Run] = {}

    def open(self, name: str, owner: str) -> str:
        """A new key for a run on behalf of the key called `name`, which is `owner`'s."""
        secret = f"sk-run-{secrets.token_hex(32)}"
        self._runs[_digest(secret)] = _Run(name, owner)
        return secret

    def close(self, secret: str) -> None:
        """The run is over."""
        self._runs.pop(_digest(secret), None)

    def whose(self, name: str, owner: str) -> Holder | None:
        """Who has the key called `name`, as long as it is valid and still `owner`'s: a name may be given again."""
        found = self._keys.named(name)
        return found if found is not None and owner_of(found) == owner else None

    def holder(self, candidate: str) -> Holder | None:
        """Whose key `candidate` is."""
        run = self._runs.get(_digest(candidate))
        if run is None:
            return self._keys.holder(candidate)
        found = self.whose(run.name, run.owner)
        if found is not None:
            run.last = found
            return found
        # A refusal would be the answer to each line of the batch; so each is told to wait, and the run its end.
        return dataclasses.replace(run.last, budget=_Shut(None, None), expires_at=None, revoked=False)

    async def anew(self) -> None:
        """Take over what has changed now."""
        await self._keys.anew()

    def named(self, name: str) -> Holder | None:
        """Who has the key called `name`, as long as it is valid."""
        return self._keys.named(name)

    def login(self, candidate: str) -> str | None:
        """A new cookie value for a right key, but not for a run's."""
        return self._keys.login(candidate)

    def cookie(self, value: str) -> Holder | None:
        """Whose login `value` came from."""
        return self._keys.cookie(value)

    def forget(self, cookie: str) -> None:
        """End a login."""
        self._keys.forget(cookie)

    def proof(self, challenge: str) -> str | None:
        """What shows that the session's key is here."""
        return self._keys.proof(challenge)

    def refresh(self) -> None:
        """Take over what has changed."""
        self._keys.refresh()


def owner_of(holder: Holder) -> str:
    """Whose the files and batches are that come with this key: an endpoint's keys have owners, a session's are one."""
    return holder.owner or holder.name


class _Run:
    """On whose behalf a run asks; `last` is who had the key when it last was valid."""

    __slots__ = ("last", "name", "owner")

    def __init__(self, name: str, owner: str) -> None:
        self.name, self.owner = name, owner
        self.last = Holder(name, False, None, None, owner=owner)


class _Shut(Budget):
    """Of a key that has ended: nothing goes on."""

    __slots__ = ()

    def admit(self) -> float:
        return _WAIT_S


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

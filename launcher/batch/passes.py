"""Keys of batch runs: each run has one of its own, which counts as the key of whoever made the batch.

They live in memory and go through a pipe; with the gateway they are gone.
"""

from __future__ import annotations

import hashlib
import secrets

from launcher.gateway.keys import Holder, KeyRing
from launcher.gateway.limits import Budget

_WAIT_S = 30.0


class Passes:
    """The keys of a gateway and, with them, those of its runs: a KeyRing itself."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._names: dict[bytes, str] = {}

    def open(self, name: str) -> str:
        """A new key for a run on behalf of the key called `name`."""
        secret = f"sk-run-{secrets.token_hex(32)}"
        self._names[_digest(secret)] = name
        return secret

    def close(self, secret: str) -> None:
        """The run is over."""
        self._names.pop(_digest(secret), None)

    def holder(self, candidate: str) -> Holder | None:
        """Whose key `candidate` is."""
        name = self._names.get(_digest(candidate))
        if name is None:
            return self._keys.holder(candidate)
        # A 401 would be the answer to each line of the batch; its end is told to the run in another way.
        return self._keys.named(name) or Holder(name, False, _Shut(None, None), None)

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

    def refresh(self) -> None:
        """Take over what has changed."""
        self._keys.refresh()


class _Shut(Budget):
    """Of a key that has ended: nothing goes on."""

    __slots__ = ()

    def admit(self) -> float:
        return _WAIT_S


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

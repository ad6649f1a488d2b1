"""The user's own key for the endpoint and where it answers: one private file, renewed before it ends.

Two kinds: a key that this launcher makes in the state, for whoever runs the gateway; and one that somebody gave, for an
endpoint of theirs at a URL.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from launcher.errors import RequestError, SessionError, StorageError
from launcher.fleet.issued import find, myself, new, revoke, rotate
from launcher.fleet.peers import living
from launcher.fleet.places import store_url
from launcher.fleet.store import Store
from launcher.sessions.keys import digest
from launcher.sessions.lock import locked
from launcher.sessions.paths import write_private
from launcher.settings.schema import Settings

_BYTES_MAX = 65536
# A key is renewed when less than this part of its time is left; the one before is good until its own end.
_RENEWED_BELOW = 0.25
_AGAIN = "Log in: launcher auth login"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A key, and until when it is good; `url` is None for the own endpoint, `name` for a key that somebody gave."""

    key: str
    expires_at: float | None
    made_at: float
    name: str | None = None
    url: str | None = None

    def __repr__(self) -> str:
        return f"Ticket(name={self.name!r}, url={self.url!r}, expires_at={self.expires_at!r})"

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def fresh(self) -> bool:
        """Whether it need not be renewed yet."""
        if self.expires_at is None:
            return True
        return self.expires_at - time.time() > _RENEWED_BELOW * (self.expires_at - self.made_at)


def place(settings: Settings) -> Path:
    """The file of the user's own key."""
    return Path(settings.places.sessions).parent / "access.json"


def held(settings: Settings) -> Ticket | None:
    """What the file says; None where there is none. Raises StorageError for one that cannot be believed."""
    path = place(settings)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}.", _AGAIN) from error
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise StorageError(f"{path} can be read or changed by somebody else.", f"Remove it. {_AGAIN}")
        data = opened.read(_BYTES_MAX)
    try:
        return _checked(Ticket(**json.loads(data)))
    except (ValueError, TypeError, RecursionError):
        raise StorageError(f"{path} is broken.", f"Remove it. {_AGAIN}") from None


def token(settings: Settings, *, anew: bool = False) -> Ticket:
    """A key that is good for a while: the one in the file, or a new or renewed one; `anew` always makes another.

    Raises RequestError where the key was given by somebody and has ended.
    """
    with _one_at_a_time(settings):
        known = None if anew and _broken(settings) else held(settings)
        if known is not None and known.url is not None and not anew:
            if known.expired:
                raise RequestError(
                    f"The key for {known.url} has ended.",
                    f"Ask who gave it for another, then: launcher auth login --url {known.url}",
                )
            return known
        with contextlib.closing(Store(store_url(settings))) as store:
            return _own(settings, store, known if known is not None and known.url is None else None, anew)


def keep(settings: Settings, url: str, key: str, expires_at: float | None) -> Ticket:
    """Keep a key that somebody gave for their endpoint at `url`."""
    with _one_at_a_time(settings):
        return _written(settings, Ticket(key, expires_at, time.time(), None, url))


def drop(settings: Settings) -> bool:
    """Forget the key, and revoke it where this launcher made it; whether there was one."""
    with _one_at_a_time(settings):
        known = None if _broken(settings) else held(settings)
        if known is not None and known.name is not None:
            with contextlib.closing(Store(store_url(settings))) as store:
                _revoke(store, known)
        try:
            place(settings).unlink()
        except FileNotFoundError:
            return False
    return True


def address(settings: Settings, ticket: Ticket) -> str:
    """The base URL of the endpoint that the key is for; raises SessionError where none is reached from here."""
    if ticket.url is not None:
        return ticket.url
    with contextlib.closing(Store(store_url(settings))) as store:
        running = living(store)
    if not running:
        raise SessionError("No gateway of yours runs.", "Start one: launcher gateway")
    # At a loopback address of another host somebody else may listen here, who would be given the key.
    reached = [one for one in running if one.host == os.uname().nodename or not _loopback(one.url)]
    if not reached:
        raise SessionError(
            f"Your gateway answers on {running[-1].host} alone.",
            "Use it there, or set endpoint.host to an address that other hosts reach.",
        )
    return reached[-1].url


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _own(settings: Settings, store: Store, known: Ticket | None, anew: bool) -> Ticket:
    lifetime_s = settings.endpoint.key_hours * 3600
    if known is not None and known.name is not None and not anew:
        issued = find(store, known.name)
        current = issued is not None and issued.key.digest == digest(known.key)
        if current and issued is not None and not issued.key.expired:
            if known.fresh:
                return known
            changed, secret = rotate(store, known.name, lifetime_s=lifetime_s, grace_s=lifetime_s)
            return _written(settings, Ticket(secret, changed.key.expires_at, time.time(), known.name))
    user = myself()
    name = f"access-{re.sub('[@+]', '_', user)[:40]}-{secrets.token_hex(3)}"
    made, secret = new(store, name, owner=user, lifetime_s=lifetime_s, own=True)
    ticket = _written(settings, Ticket(secret, made.key.expires_at, time.time(), name))
    if anew and known is not None:
        _revoke(store, known)
    return ticket


def _revoke(store: Store, known: Ticket) -> None:
    with contextlib.suppress(RequestError):  # it is gone already
        revoke(store, known.name or "", force=True)


def _broken(settings: Settings) -> bool:
    try:
        held(settings)
    except StorageError:
        return True
    return False


def _written(settings: Settings, ticket: Ticket) -> Ticket:
    path = place(settings)
    try:
        write_private(path, json.dumps(asdict(ticket)) + "\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", "Check its folder.") from error
    return ticket


def _checked(ticket: Ticket) -> Ticket:
    said: dict[str, Any] = asdict(ticket)
    numbers = [said["made_at"], *([] if said["expires_at"] is None else [said["expires_at"]])]
    texts = [said["key"], *(said[name] for name in ("name", "url") if said[name] is not None)]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) in (int, float) for n in numbers):
        raise ValueError("not what we wrote")
    if (ticket.name is None) == (ticket.url is None):
        raise ValueError("neither of the two kinds")
    return ticket


@contextlib.contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    path = place(settings)
    lock_path = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.enter_context(locked(lock_path))
        except OSError as error:
            raise StorageError(f"{lock_path}: {error.strerror}.", "Check its folder.") from error
        yield

"""Further keys of a session: the content of `keys.json`, which holds their names, limits and hashes, never a key.

Written by `launcher keys`, read by the gateway while the session runs. A file that somebody else could have written is
not believed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from launcher.errors import LauncherError, RequestError, StorageError
from launcher.sessions.clock import TIME_MAX
from launcher.sessions.lock import locked
from launcher.sessions.paths import SessionPaths, write_private

SCHEMA = 1
OWN = "session"  # what the session's own key is called where uses are counted
# Each request is compared with every key.
KEYS_MAX = 256
_PER_MINUTE_MAX = 10**9
_FILE_BYTES_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# File systems that have no locks, or no server for them: two commands within the same millisecond are rarer than those.


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One further key; `digest` is the SHA-256 of the secret in hex, times are Unix times, None is no limit."""

    name: str
    digest: str
    created_at: float
    expires_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        said: dict[str, Any] = dataclasses.asdict(self)  # by a person or a file: the types are a hope
        name = said["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                f'"{str(name)[:80]}" cannot be the name of a key.',
                "Use letters, digits, dots, dashes and underscores: at most 64, the first a letter or a digit.",
            )
        if name.lower() == OWN:
            raise RequestError(f'"{name}" is the name of the session\'s own key.', "Choose another name.")
        if not isinstance(said["digest"], str) or not _DIGEST.fullmatch(said["digest"]):
            raise RequestError(f'The hash of key "{name}" is broken.')
        for what in ("created_at", "expires_at"):
            when = said[what]
            if when is None and what == "expires_at":
                continue
            # JSON in Python knows NaN, which nothing is later than: such a key would never expire.
            if type(when) not in (int, float) or not 0 <= when <= TIME_MAX:
                raise RequestError(f'{what} of key "{name}" is broken.')
        for what in ("requests_per_minute", "tokens_per_minute"):
            value = said[what]
            if value is not None and (type(value) is not int or not 1 <= value <= _PER_MINUTE_MAX):
                shown = f'"{value[:40]}"' if isinstance(value, str) else str(value)[:40]
                option = f"--{what.replace('_', '-')}"
                raise RequestError(
                    f"{what} ({option}) must be a whole number from 1 to {_PER_MINUTE_MAX}, not {shown}.",
                    "Leave it out for no limit.",
                )

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.time()


def digest(secret: str) -> str:
    """What is kept of a secret. It has 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read(path: Path) -> tuple[NamedKey, ...]:
    """The keys in `path`, those that have expired too; raises StorageError for a file that cannot be believed."""
    file = opened(path)
    if file is None:
        return ()
    with file:
        return load(file, path)


def opened(path: Path) -> BinaryIO | None:
    """`path`, open for `load`; None where there is no such file. Raises OSError."""
    try:  # neither through a link nor waiting for the other end of a pipe
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        return None


def load(file: BinaryIO, path: Path) -> tuple[NamedKey, ...]:
    """The keys in the open `file`; `path` is for the words of the StorageError."""
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise _unbelievable(path, "somebody else could have written it")
    data = file.read(_FILE_BYTES_MAX + 1)
    if len(data) > _FILE_BYTES_MAX:
        raise _unbelievable(path, "it is too big")
    try:
        content = json.loads(data)
        if content["schema"] != SCHEMA:
            raise _unbelievable(path, f"it has schema {content['schema']}, this launcher reads {SCHEMA}")
        # An entry of a newer launcher may carry a limit that this one does not know: none is passed over.
        keys = tuple(NamedKey(**entry) for entry in content["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RequestError) as error:
        why = error.message if isinstance(error, LauncherError) else "it is broken"
        raise _unbelievable(path, why.rstrip(".")) from error
    if len({key.name for key in keys}) != len(keys) or len(keys) > KEYS_MAX:
        raise _unbelievable(path, "it names a key twice, or too many")
    return keys


def new(
    paths: SessionPaths,
    name: str,
    *,
    lifetime_s: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[NamedKey, str]:
    """Make a key and its secret, which is kept nowhere; raises RequestError for a name or limit that cannot be."""
    secret, now = f"sk-{secrets.token_hex(32)}", time.time()
    ends = None if lifetime_s is None else now + lifetime_s
    key = NamedKey(name, digest(secret), now, ends, requests_per_minute, tokens_per_minute)
    with _changing(paths) as keys:
        if any(known.name == name and not known.expired for known in keys):
            raise RequestError(
                f'There is a key "{name}" already.', "Choose another name, or revoke that one first."
            )
        keys[:] = [known for known in keys if known.name != name]
        if len(keys) >= KEYS_MAX:
            keys[:] = [known for known in keys if not known.expired]
        if len(keys) >= KEYS_MAX:
            raise RequestError(f"A session can have {KEYS_MAX} further keys.", "Revoke one that is not used.")
        keys.append(key)
    return key, secret


def renew(paths: SessionPaths, name: str, lifetime_s: float) -> None:
    """Let the key `name` end `lifetime_s` from now, also one that has expired; raises RequestError as `revoke` does."""
    with _changing(paths) as keys:
        known = _named(keys, name)
        keys[keys.index(known)] = dataclasses.replace(known, expires_at=time.time() + lifetime_s)


def revoke(paths: SessionPaths, name: str) -> NamedKey:
    """Take the key `name` away; raises RequestError with like names when there is none."""
    if name.lower() == OWN:
        raise RequestError("The session's own key cannot be revoked.", "Stop the session.")
    with _changing(paths) as keys:
        keys.remove(known := _named(keys, name))
        return known


def _named(keys: Sequence[NamedKey], name: str) -> NamedKey:
    for known in keys:
        if known.name == name:
            return known
    names = [known.name for known in keys]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[-5:]
    raise RequestError(
        f'There is no key "{name[:80]}".',
        f"Its keys: {', '.join(near)}." if near else "The session has no further keys.",
    )


@contextlib.contextmanager
def _changing(paths: SessionPaths) -> Iterator[list[NamedKey]]:
    """The keys as a list to change, which is written at the end; one command at a time."""
    try:
        with locked(paths.further_keys_lock):
            keys = list(read(paths.further_keys))
            yield keys
            content = {"schema": SCHEMA, "keys": [dataclasses.asdict(key) for key in keys]}
            write_private(paths.further_keys, json.dumps(content) + "\n")
    except OSError as error:
        where = error.filename or paths.further_keys
        raise StorageError(f"{where}: {error.strerror}.", "The keys are as they were.") from error


def _unbelievable(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is not believed: {why}.", "Remove it, then make the keys of the session anew."
    )

"""The named keys of the endpoint as the store has them: made, rotated, revoked. Never a secret, only its hash."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from launcher.errors import RequestError, did_you_mean
from launcher.fleet.store import Store
from launcher.fleet.tables import keys
from launcher.sessions.clock import clock
from launcher.sessions.keys import NamedKey, digest

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MODEL_LETTERS, _MODELS_MAX = 300, 1000
# A key that was used so lately is taken away only from somebody who says so twice.
BUSY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Issued:
    """One key: `key` has its name, hash, end and limits; `owner` is who is counted.

    `own` is the key of whoever runs the gateway. `models` None: all that the groups allow. `former` is the hash before
    the last rotation, good until `former_until`; `used_at` the last use that is known.
    """

    key: NamedKey
    owner: str
    own: bool = False
    groups: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    former: str | None = None
    former_until: float | None = None
    used_at: float | None = None

    def __post_init__(self) -> None:
        if not _OWNER.fullmatch(self.owner):
            raise RequestError(
                f'"{self.owner[:80]}" cannot be the owner of a key.',
                "Write a user's name: letters, digits and . _ @ + -, at most 128.",
            )
        for group in self.groups:
            if not _GROUP.fullmatch(group):
                raise RequestError(
                    f'"{group[:80]}" cannot be the name of a group.', "Use one of the settings'."
                )
        for model in self.models or ():
            if not model.strip() or len(model) > _MODEL_LETTERS or not model.isprintable():
                raise RequestError(
                    f"{model[:80]!r} cannot be the name of a model.", "See: launcher ls-endpoints"
                )
        if len(self.models or ()) > _MODELS_MAX:
            raise RequestError(f"A key can name {_MODELS_MAX} models.", "Name a group instead.")

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def left_s(self) -> float | None:
        """For how many seconds it still is valid; None without end."""
        return None if self.key.expires_at is None else max(0.0, self.key.expires_at - time.time())


def myself() -> str:
    """This user as the owner of a key: what cannot stand in one is replaced."""
    name = pwd.getpwuid(os.geteuid()).pw_name
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name).lstrip("._@+-")[:128] or "me"


def listed(store: Store) -> list[Issued]:
    """All keys, those that have expired too, by name."""
    with store.reading() as connection:
        return [_issued(row) for row in connection.execute(select(keys).order_by(keys.c.name))]


def new(
    store: Store,
    name: str,
    *,
    owner: str,
    lifetime_s: float | None,
    own: bool = False,
    groups: Iterable[str] = (),
    models: Iterable[str] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[Issued, str]:
    """Make a key and its secret, which is kept nowhere; `lifetime_s` None is without end.

    Raises RequestError for a value that cannot be, or a name that a valid key has.
    """
    secret, now = _secret(), time.time()
    ends = None if lifetime_s is None else now + lifetime_s
    named = NamedKey(name, digest(secret), now, ends, requests_per_minute, tokens_per_minute)
    limited = None if models is None else frozenset(models)
    made = Issued(named, owner, own, frozenset(groups), limited)
    with store.writing() as connection:
        known = _find(connection, name)
        if known is not None and not known.key.expired:
            raise RequestError(
                f'There is a key "{name}" already.',
                f"Choose another name, or: launcher keys rotate --endpoint {name}",
            )
        connection.execute(delete(keys).where(keys.c.name == name))
        connection.execute(insert(keys).values(**_row(made)))
    return made, secret


def rotate(
    store: Store, name: str, *, lifetime_s: float | None = None, grace_s: float = 0.0
) -> tuple[Issued, str]:
    """Give the key a new secret; the one before opens for `grace_s` more, but no longer than it would have.

    `lifetime_s` None: as long as it was valid for the last time, from now. Raises RequestError as `revoke` does.
    """
    secret, now = _secret(), time.time()
    with store.writing() as connection:
        known = _named(connection, name)
        ends = known.key.expires_at
        if lifetime_s is None and ends is not None:
            lifetime_s = ends - known.key.created_at
        former_until = None
        if grace_s > 0 and not known.key.expired:
            former_until = now + grace_s if ends is None else min(ends, now + grace_s)
        changed = dataclasses.replace(
            known,
            key=dataclasses.replace(
                known.key,
                digest=digest(secret),
                created_at=now,
                expires_at=None if lifetime_s is None else now + lifetime_s,
            ),
            former=known.key.digest if former_until is not None else None,
            former_until=former_until,
        )
        connection.execute(update(keys).where(keys.c.name == name).values(**_row(changed)))
    return changed, secret


def revoke(store: Store, name: str, *, force: bool = False) -> Issued:
    """Take the key away; raises RequestError with like names when there is none.

    One that was used within the last hour is only taken with `force`.
    """
    with store.writing() as connection:
        known = _named(connection, name)
        if not force and not known.key.expired and known.used_at is not None:
            since_s = time.time() - known.used_at
            if since_s < BUSY_S:
                raise RequestError(
                    f'The key "{name}" of {known.owner} was used {clock(since_s)} ago.',
                    f"Take it away all the same: launcher keys revoke --endpoint --force {name}",
                    "in-use",
                )
        connection.execute(delete(keys).where(keys.c.name == name))
    return known


def find(store: Store, name: str) -> Issued | None:
    """The key called `name`, also one that has expired."""
    with store.reading() as connection:
        return _find(connection, name)


def _secret() -> str:
    return f"sk-{secrets.token_hex(32)}"


def _find(connection: Connection, name: str) -> Issued | None:
    row = connection.execute(select(keys).where(keys.c.name == name)).one_or_none()
    return None if row is None else _issued(row)


def _named(connection: Connection, name: str) -> Issued:
    if (found := _find(connection, name)) is not None:
        return found
    names = list(connection.execute(select(keys.c.name).order_by(keys.c.created_at.desc())).scalars())
    near = did_you_mean(name, names) or (f"Its latest: {', '.join(names[:5])}." if names else None)
    raise RequestError(
        f'The endpoint has no key "{name[:80]}".', near or "It has none: launcher keys new --endpoint"
    )


def _row(issued: Issued) -> dict[str, Any]:
    plain = {name: getattr(issued.key, name) for name in issued.key.__dataclass_fields__}
    return {
        **plain,
        "owner": issued.owner,
        "own": issued.own,
        "groups": json.dumps(sorted(issued.groups)),
        "models": None if issued.models is None else json.dumps(sorted(issued.models)),
        "former": issued.former,
        "former_until": issued.former_until,
        "used_at": issued.used_at,
    }


def _issued(row: Any) -> Issued:
    of = row._mapping
    plain = {name: of[name] for name in NamedKey.__dataclass_fields__}
    return Issued(
        NamedKey(**plain),
        of["owner"],
        of["own"],
        frozenset(json.loads(of["groups"])),
        None if of["models"] is None else frozenset(json.loads(of["models"])),
        of["former"],
        of["former_until"],
        of["used_at"],
    )

"""The tables of the endpoint's state, and how the store of an older launcher is brought up to them. No query."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from launcher.errors import StorageError

_all = MetaData()

# Small facts of the endpoint itself: the schema's version, the port that was chosen once.
notes = Table("notes", _all, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

# Named keys. Of a secret only its SHA-256 is kept; `former` is the one before a rotation, good until `former_until`.
keys = Table(
    "keys",
    _all,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("groups", Text, nullable=False),  # JSON: a list of names
    Column("models", Text),  # JSON: a list of names; NULL is every model that the groups allow
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("former", Text),
    Column("former_until", Double),
    Column("used_at", Double),
)

# One row for each request that was answered; never a word of what was asked or said.
uses = Table(
    "uses",
    _all,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("key", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("audio_s", Double, nullable=False),
    Column("first_byte_s", Double),
    Column("seconds", Double, nullable=False),
    Index("uses_at", "at"),
)

# What is left of uses that are too old to be kept one by one. `month` is such as 2026-11 by the clock of whoever added
# them up. For the means: `first_byte_s` is the sum of `first_bytes` times, `seconds` that of `answered` ones.
# All are floats: a count of tokens is exact up to 2^53, and none is too large.
months = Table(
    "months",
    _all,
    Column("month", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("cluster", Text, primary_key=True),
    *(
        Column(name, Double, nullable=False)
        for name in (
            *("requests", "errors", "prompt_tokens", "completion_tokens", "audio_s"),
            *("first_byte_s", "first_bytes", "seconds", "answered"),
        )
    ),
)

# The living replicas: who has the row of a model's slot, and only who has it, may start a job for it.
replicas = Table(
    "replicas",
    _all,
    Column("model", Text, primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("gateway", Text, nullable=False),
    Column("until", Double, nullable=False),
    Column("claimed_at", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("session", Text, unique=True),
    Column("cluster", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("replaces", Text),
)

# The gateways that run on this state, and what each of them sends where: a replica is empty when it is for all of them.
gateways = Table(
    "gateways",
    _all,
    Column("id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("until", Double, nullable=False),
)
loads = Table(
    "loads",
    _all,
    Column("gateway", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("session", Text, primary_key=True),  # empty: requests that wait for any replica of the model
    Column("in_flight", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("asked_at", Double, nullable=False),
)

_VERSION = "schema"


def _first(connection: Connection) -> None:
    _all.create_all(connection)


def _months(connection: Connection) -> None:
    months.create(connection, checkfirst=True)  # a new store has all tables from the first step


# Each step makes of one version the next. A step is never changed once it was released: write another one.
_STEPS: tuple[Callable[[Connection], None], ...] = (_first, _months)
SCHEMA = len(_STEPS)


def upgrade(connection: Connection, where: str) -> None:
    """Bring the store up to this launcher's tables, in a transaction that nobody else shares.

    Raises StorageError when a newer launcher has made them.
    """
    found = 0
    if inspect(connection).has_table(notes.name):
        value = connection.execute(select(notes.c.value).where(notes.c.name == _VERSION)).scalar()
        found = int(value) if value is not None and value.isdecimal() else 0
    if found > SCHEMA:
        raise StorageError(
            f"{where} was written by a newer launcher (schema {found}, this one knows {SCHEMA}).",
            "Use that launcher, or name another state: set endpoint.state in the settings.",
        )
    for step in _STEPS[found:]:
        step(connection)
    if found < SCHEMA:
        connection.execute(notes.delete().where(notes.c.name == _VERSION))
        connection.execute(notes.insert().values(name=_VERSION, value=str(SCHEMA)))

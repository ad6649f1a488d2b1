"""The endpoint's state: one SQLite file on a local disk, or a PostgreSQL database, which several gateways may share.

Owns the connection, what a transaction is, and the claims: who may start a job. All methods are one transaction each,
and block: a gateway calls them in a thread. Trouble with the database is a StorageError.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from launcher.fleet import database, tables
from launcher.fleet.tables import gateways, loads, notes, replicas

CLAIMED, PLANNED, LEAVING = "CLAIMED", "PLANNED", "LEAVING"
_FORGOTTEN_S = 3600.0
_LOCK = 0x6C61756E  # any number that is always the same: PostgreSQL's lock of who makes the tables


@dataclass(frozen=True, slots=True)
class Replica:
    """One living row: `gateway` looks after it until `until` (a Unix time of the database's clock).

    `session` is None from the claim until the plan; `replaces` is the session that this one takes over from.
    """

    model: str
    slot: int
    gateway: str
    until: float
    claimed_at: float
    state: str
    reason: str
    session: str | None
    cluster: str
    profile: str
    replaces: str | None


@dataclass(frozen=True, slots=True)
class Running:
    """One living gateway; `url` is where it is reached."""

    id: str
    url: str
    host: str
    pid: int
    started_at: float
    until: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one gateway sends to a session, or has waiting for a model (`session` is then empty)."""

    model: str
    session: str
    in_flight: int
    waiting: int
    asked_at: float


class Store:
    """The state at `url`: sqlite:////folder/file.db or postgresql://user@host/database.

    A file on a network's file system is refused: SQLite's log needs memory that all who write it share. With
    `?network=allowed` at the end of the URL it is taken, for those who know that only one host uses it.
    """

    def __init__(self, url: str) -> None:
        self._engine, self.where = database.opened(url)
        self._lite = self._engine.dialect.name == "sqlite"
        self._insert = _insert(self._lite)
        try:
            with self.writing() as connection:
                if not self._lite:
                    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                tables.upgrade(connection, self.where)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the connections; whoever uses the store again gets new ones."""
        self._engine.dispose()

    # -- transactions

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self._told(), self._engine.connect() as connection:
            yield connection.execution_options(reads=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: all of it, or nothing where it raises."""
        with self._told(), self._engine.begin() as connection:
            yield connection

    def insert(self, table: Table) -> Any:
        """An INSERT into `table` that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return self._insert(table)

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert `rows`, each the values of all columns in their order, without those whose primary key is there."""
        new = self.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        # Straight to the driver: what SQLAlchemy does with each value takes longer than the database.
        connection.exec_driver_sql(str(new.compile(dialect=connection.dialect)), rows)

    def now(self, connection: Connection) -> float:
        """The Unix time by the one clock that all gateways share."""
        if self._lite:
            return time.time()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise database.trouble(error, self.where) from error

    # -- notes

    def note(self, name: str) -> str | None:
        """What was kept under `name`."""
        with self.reading() as connection:
            return connection.execute(select(notes.c.value).where(notes.c.name == name)).scalar()

    def keep(self, name: str, value: str) -> str:
        """Keep `value` under `name` unless something is there; what is there now."""
        with self.writing() as connection:
            connection.execute(self.insert(notes).values(name=name, value=value).on_conflict_do_nothing())
            return str(connection.execute(select(notes.c.value).where(notes.c.name == name)).scalar_one())

    # -- gateways

    def present(self, gateway: str, url: str, hold_s: float) -> None:
        """Say that `gateway` lives, and renew all of its claims, for `hold_s` seconds from now."""
        with self.writing() as connection:
            now = self.now(connection)
            row = {"id": gateway, "url": url, "host": os.uname().nodename, "pid": os.getpid()}
            new = self.insert(gateways).values(**row, started_at=now, until=now + hold_s)
            connection.execute(
                new.on_conflict_do_update(index_elements=["id"], set_={"url": url, "until": now + hold_s})
            )
            connection.execute(
                update(replicas).where(replicas.c.gateway == gateway).values(until=now + hold_s)
            )
            # Those that were killed left their rows.
            connection.execute(gateways.delete().where(gateways.c.until < now - _FORGOTTEN_S))
            connection.execute(loads.delete().where(loads.c.gateway.not_in(select(gateways.c.id))))

    def gone(self, gateway: str) -> None:
        """Say that `gateway` ends: another may take over what it started at once."""
        with self.writing() as connection:
            connection.execute(gateways.delete().where(gateways.c.id == gateway))
            connection.execute(loads.delete().where(loads.c.gateway == gateway))
            mine = replicas.c.gateway == gateway
            connection.execute(replicas.delete().where(mine, replicas.c.session.is_(None)))
            connection.execute(update(replicas).where(mine).values(until=0.0))

    def gateways(self) -> list[Running]:
        """The gateways that live, the oldest first."""
        with self.reading() as connection:
            living = select(gateways).where(gateways.c.until > self.now(connection))
            return [Running(**_dict(row)) for row in connection.execute(living.order_by("started_at", "id"))]

    def report(self, gateway: str, found: Sequence[Traffic]) -> None:
        """Say what `gateway` sends where and what waits, instead of what it said before."""
        rows = [
            {"gateway": gateway, "model": one.model, "session": one.session, "in_flight": one.in_flight,
             "waiting": one.waiting, "asked_at": one.asked_at}
            for one in found
        ]  # fmt: skip
        with self.writing() as connection:
            connection.execute(loads.delete().where(loads.c.gateway == gateway))
            if rows:
                connection.execute(loads.insert(), rows)

    def loads(self) -> list[Traffic]:
        """What all living gateways together send where, and what waits; one for each model and session."""
        of = loads.c
        with self.reading() as connection:
            living = select(gateways.c.id).where(gateways.c.until > self.now(connection))
            added = select(
                of.model,
                of.session,
                func.sum(of.in_flight).label("in_flight"),
                func.sum(of.waiting).label("waiting"),
                func.max(of.asked_at).label("asked_at"),
            )
            found = connection.execute(
                added.where(of.gateway.in_(living))
                .group_by(of.model, of.session)
                .order_by(of.model, of.session)
            )
            return [Traffic(**_dict(row)) for row in found]

    # -- claims

    def claim(self, model: str, slot: int, gateway: str, hold_s: float) -> bool:
        """Whether `gateway`, and nobody else, may start a session for the model's slot, for `hold_s` seconds.

        A claim that led to no plan can be made anew when its time is over. One that has a session never can: that
        session is found by `take_over`.
        """
        with self.writing() as connection:
            now = self.now(connection)
            row = {
                "gateway": gateway,
                "until": now + hold_s,
                "claimed_at": now,
                "state": CLAIMED,
                "reason": "",
            }
            new = self.insert(replicas).values(model=model, slot=slot, cluster="", profile="", **row)
            over = (replicas.c.until <= now) & replicas.c.session.is_(None)
            done = connection.execute(
                new.on_conflict_do_update(index_elements=["model", "slot"], set_=row, where=over),
                execution_options={"preserve_rowcount": True},  # of an INSERT it is otherwise not asked for
            )
            return bool(done.rowcount == 1)

    def planned(
        self,
        model: str,
        slot: int,
        gateway: str,
        session: str,
        cluster: str,
        profile: str,
        replaces: str | None = None,
    ) -> bool:
        """Write down the session that is about to be submitted. False: the claim is another's now, submit nothing."""
        values = {"session": session, "cluster": cluster, "profile": profile, "replaces": replaces}
        with self.writing() as connection:
            mine = self._row(model, slot) & (replicas.c.gateway == gateway)
            living = mine & (replicas.c.until > self.now(connection)) & replicas.c.session.is_(None)
            return bool(
                connection.execute(update(replicas).where(living).values(state=PLANNED, **values)).rowcount
                == 1
            )

    def leaving(self, model: str, slot: int, reason: str) -> None:
        """Let no gateway send anything more to the replica."""
        with self.writing() as connection:
            found = update(replicas).where(self._row(model, slot), replicas.c.session.is_not(None))
            connection.execute(found.values(state=LEAVING, reason=reason))

    def release(self, model: str, slot: int, session: str | None) -> bool:
        """Free the slot whose `session` is over, or was never planned; whether it was so."""
        with self.writing() as connection:
            of_session = replicas.c.session.is_(None) if session is None else replicas.c.session == session
            return bool(
                connection.execute(replicas.delete().where(self._row(model, slot), of_session)).rowcount
            )

    def replicas(self) -> list[Replica]:
        """All living replicas, of every gateway; a claim that led to no plan is over with its time."""
        with self.reading() as connection:
            living = replicas.c.session.is_not(None) | (replicas.c.until > self.now(connection))
            found = select(replicas).where(living).order_by(replicas.c.model, replicas.c.slot)
            return [Replica(**_dict(row)) for row in connection.execute(found)]

    def take_over(self, gateway: str, hold_s: float, dead: Collection[str] = ()) -> list[Replica]:
        """Take the sessions of gateways whose time is over, or that are `dead` as the caller knows; those taken now."""
        with self.writing() as connection:
            now = self.now(connection)
            others = replicas.c.session.is_not(None) & (replicas.c.gateway != gateway)
            lost = others & or_(replicas.c.until <= now, replicas.c.gateway.in_(list(dead)))
            # The rows are locked: of two gateways that look at once, one takes each.
            found = connection.execute(
                select(replicas).where(lost).order_by(replicas.c.model, replicas.c.slot).with_for_update()
            ).all()
            taken = []
            for row in found:
                values = {"gateway": gateway, "until": now + hold_s}
                connection.execute(update(replicas).where(self._row(row.model, row.slot)).values(**values))
                taken.append(Replica(**{**_dict(row), **values}))
            if dead:
                connection.execute(gateways.delete().where(gateways.c.id.in_(list(dead))))
                unplanned = replicas.c.session.is_(None) & replicas.c.gateway.in_(list(dead))
                connection.execute(replicas.delete().where(unplanned))
            return taken

    @staticmethod
    def _row(model: str, slot: int) -> Any:
        return (replicas.c.model == model) & (replicas.c.slot == slot)


def _insert(lite: bool) -> Callable[[Table], Any]:
    # The one that is not used would be half of the time that the commands take.
    if lite:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert
    from sqlalchemy.dialects import postgresql

    return postgresql.insert


def _dict(row: Any) -> dict[str, Any]:
    return dict(row._mapping)

"""The way to the endpoint's database: what its URL may say, a private file of SQLite, a server of PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from launcher.errors import StorageError
from launcher.sessions.mounts import file_system, shared_by_hosts
from launcher.sessions.ownership import require_own

_WAIT_S = 30  # for another's transaction
_TRIES, _AGAIN_S = 100, 0.05
_HINT = (
    "Set endpoint.state in the settings to sqlite:////FOLDER/endpoint.db or postgresql://USER@HOST/DATABASE."
)

# By the words of the database, the first that fit.
_ADVICE = (
    (("password",), "Write HOST:PORT:DATABASE:USER:PASSWORD into ~/.pgpass, and make that mode 0600."),
    (
        ("permission denied", "no schema"),
        "Each user needs a database, or a schema, that is theirs alone; see docs/site.md.",
    ),
    (("connection failed", "connection is bad"), "Is it running? endpoint.state in the settings names it."),
    (("locked", "timeout"), "Another program holds it; try again."),
)


def opened(url: str) -> tuple[Engine, str]:
    """The engine for `url`, and what it is called in a sentence, without any password; raises StorageError."""
    wanted = _parsed(url)
    if wanted.get_backend_name() == "sqlite":
        path = _path(wanted)
        return _file(wanted, path), str(path)
    # A password may stand in front of the host or among the options behind the question mark.
    where = wanted.set(query={}).render_as_string()
    return _server(wanted, where), where


def looked_at(url: str) -> str:
    """What the database is called, once it has answered; nothing is made. Of a file only its place is looked at."""
    wanted = _parsed(url)
    if wanted.get_backend_name() == "sqlite":
        path = _path(wanted)
        _require_local(path, wanted)
        return str(path)
    engine, where = opened(url)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.select(1))
    except SQLAlchemyError as error:
        raise trouble(error, where) from error
    finally:
        engine.dispose()
    return where


def trouble(error: SQLAlchemyError, where: str) -> StorageError:
    """One sentence for what the database said."""
    said = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    # The first line; the next ones may repeat values.
    said = (said.strip().splitlines() or ["no words"])[0].rstrip(".")[:300]
    advice = (hint for words, hint in _ADVICE if any(word in said for word in words))
    hint = next(advice, "Nothing was changed; look at endpoint.state in the settings.")
    return StorageError(f"{where}: {said}.", hint)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError, NoSuchModuleError):
        # The text may hold a password: it is not repeated.
        raise StorageError("endpoint.state is no URL of a database.", _HINT) from None
    if kind not in ("sqlite", "postgresql"):
        raise StorageError(f'endpoint.state names a database of the kind "{kind[:40]}".', _HINT)
    return parsed


def _path(url: URL) -> Path:
    if url.database in (None, "", ":memory:") or url.host:
        raise StorageError("endpoint.state names no file.", _HINT)
    return Path(os.path.abspath(os.path.expanduser(str(url.database))))


def _require_local(path: Path, url: URL) -> None:
    kind = file_system(Path(os.path.realpath(path)))
    if shared_by_hosts(kind) and url.query.get("network") != "allowed":
        raise StorageError(
            f"{path} is on a network's file system ({kind}), where SQLite can lose what two hosts write.",
            "Set endpoint.state to a file on a local disk or to a PostgreSQL database; if only this host will ever "
            "use it, write ?network=allowed behind the file's name.",
        )


def _file(url: URL, path: Path) -> Engine:
    _require_local(path, url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own(path.parent, "endpoint.state")
        # Before SQLite does: it would make a file that everybody may read; its two companions get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise StorageError(
                f"{path} can be read or changed by somebody else.",
                "Make it mode 0600, or choose another file.",
            )
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}.", _HINT) from error
    engine = sqlalchemy.create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": _WAIT_S}, pool_size=4
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where Python thinks
        _use_log(connection)
        connection.execute("PRAGMA synchronous = FULL")  # a key that was printed is there after a power cut

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # Who only begins to write in the middle of a transaction may find that it was too late.
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _use_log(connection: sqlite3.Connection) -> None:
    # While another process does the same, SQLite says "locked" without waiting.
    for left in reversed(range(_TRIES)):
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError:
            if not left:
                raise
        time.sleep(_AGAIN_S)


def _server(url: URL, where: str) -> Engine:
    usual = {
        "connect_timeout": 10,
        "application_name": "launcher",
        # Of a host that vanished nothing comes any more, not even an error, for a quarter of an hour.
        "tcp_user_timeout": _WAIT_S * 1000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "options": f"-c statement_timeout={_WAIT_S}s -c lock_timeout={_WAIT_S}s",
    }
    own: dict[str, Any] = {name: value for name, value in usual.items() if name not in url.query}
    if isinstance(theirs := url.query.get("options"), str):
        own["options"] = f"{usual['options']} {theirs}"  # the last one counts
    own["prepare_threshold"] = None  # a pool between us and the server would lose prepared statements
    try:
        return sqlalchemy.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,  # the server may have been restarted
            pool_size=4,
            paramstyle="format",  # values in their order, as for SQLite (Store.insert_new)
            connect_args=own,
        )
    except ImportError as error:
        raise StorageError(
            f"{where} needs psycopg, which is not installed.",
            "Ask the site to install it: make install PREFIX=… EXTRAS='ui whisper postgres'. "
            "In a checkout of your own: scripts/venv.sh .venv postgres.",
        ) from error

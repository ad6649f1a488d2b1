"""A real PostgreSQL on a Unix socket, as Debian packs it: one server for the run, fresh tables for each test.

Owns the server's process and folder. It refuses to run as root: then it is one of the tests' users.

    with Postgres() as server:
        Store(server.database())
        server.kill(); server.start()        # as after a power cut
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.programs.front import wait_until
from tests.slurm.people import make_people, run_as

LOCKED = "locked"  # the role that needs a password
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
max_connections = 60
shared_buffers = 16MB
fsync = off
"""


def programs() -> Path | None:
    """The folder of the newest PostgreSQL that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """The server; whoever can reach its folder, which is this test's, needs no password."""

    def __init__(self) -> None:
        bin_ = programs()
        assert bin_ is not None
        self._bin = bin_
        self._person = make_people().alice
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        os.chown(self.folder, self._person.uid, self._person.gid)
        self._data = self.folder / "data"
        self._count = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        argv = [str(self._bin / "initdb"), "-D", str(self._data), "-U", "launcher", "-A", "trust"]
        done = run_as(self._person, [*argv, "-N", "-E", "UTF8", "--locale=C.UTF-8"])
        assert done.returncode == 0, done.stderr
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(folder=self.folder))
        rules = self._data / "pg_hba.conf"  # the first line that fits counts
        rules.write_text(f"local all {LOCKED} scram-sha-256\n{rules.read_text()}")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()  # nothing of it is needed again
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        change = os.geteuid() == 0
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._person.uid if change else None,
                group=self._person.gid if change else None,
                extra_groups=[] if change else None,
            )
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)

    def kill(self) -> None:
        """End the server without any goodbye; its children end with it."""
        self._end(signal.SIGQUIT)

    def database(self) -> str:
        """The URL of an empty schema, which is what a new database would be, and made at once."""
        name = f"state{next(self._count)}"
        self._do(f"CREATE SCHEMA {name}")
        return f"postgresql://launcher@/postgres?host={self.folder}&options=-csearch_path%3D{name}"

    def database_of(self, role: str, url: str) -> str:
        """The database of `url` as another role sees it, which is made and may do nothing there."""
        self._do(f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN PASSWORD 'a secret'")
        return url.replace("//launcher@", f"//{role}@")

    def _do(self, *statements: str) -> None:
        import psycopg  # an extra of the launcher's, which only these tests need

        with psycopg.connect(
            host=str(self.folder), user="launcher", dbname="postgres", autocommit=True
        ) as opened:
            for statement in statements:
                opened.execute(statement.encode())

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(30)

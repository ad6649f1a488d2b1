"""A database for `sacct`: Debian's mariadb on a Unix socket and slurmdbd in front of it.

Owns the two processes and their files inside the cluster's folder; cluster.py decides when they run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.slurm.processes import Processes, connects

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def start_database(processes: Processes, folder: Path, user: str) -> None:
    """Start mariadb without any network; its only account is `user`, known by the socket's peer credentials."""
    data, socket = folder / "mariadb", folder / "mariadb.sock"
    data.mkdir(mode=0o700)
    install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}"]
    install += [
        "--skip-test-db",
        "--auth-root-authentication-method=socket",
        f"--auth-root-socket-user={user}",
    ]
    subprocess.run(install, check=True, capture_output=True)
    server = ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--socket={socket}"]
    server += ["--skip-networking", "--innodb-buffer-pool-size=64M", f"--pid-file={folder}/mariadb.pid"]
    processes.start("mariadbd", server)
    if not processes.wait_for("mariadbd", lambda: connects(socket)):
        raise RuntimeError(f"mariadbd does not start:\n{(folder / 'mariadbd.out').read_text()}")


def start_slurmdbd(processes: Processes, folder: Path, user: str, munge_socket: Path, port: int) -> bool:
    """Start slurmdbd on `port`; False when it cannot have the port."""
    configuration = folder / "slurmdbd.conf"
    settings = {"munge_socket": munge_socket, "port": port, "user": user, "folder": folder}
    configuration.write_text(_SLURMDBD.format(**settings))
    configuration.chmod(0o600)
    # The MySQL client library takes the socket of `localhost` from here.
    environment = {"MYSQL_UNIX_PORT": str(folder / "mariadb.sock"), "SLURM_CONF": str(folder / "slurm.conf")}
    processes.start("slurmdbd", ["slurmdbd", "-D"], os.environ | environment)
    return processes.wait_for("slurmdbd", lambda: connects(port))

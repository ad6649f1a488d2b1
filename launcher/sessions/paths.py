"""The names of a session's files: one object knows every one of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SessionPaths:
    """The files of the session whose directory (mode 0700) is `root`."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "session.json"

    @property
    def job_script(self) -> Path:
        return self.root / "job.sh"

    @property
    def job(self) -> Path:
        """`job.json`: the job's id, written by whoever submitted it."""
        return self.root / "job.json"

    @property
    def next(self) -> Path:
        """`next.json`: the id of the job that goes on with its batch run."""
        return self.root / "next.json"

    @property
    def key(self) -> Path:
        return self.root / "api_key"

    @property
    def further_keys(self) -> Path:
        """`keys.json`: the hashes of further keys, written by `launcher keys`."""
        return self.root / "keys.json"

    @property
    def further_keys_lock(self) -> Path:
        return self.root / ".keys.lock"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def connection(self) -> Path:
        return self.root / "connection.json"

    @property
    def stop(self) -> Path:
        """`stop.json`: says who asked for the end, written before the job is cancelled."""
        return self.root / "stop.json"

    @property
    def words(self) -> Path:
        """`connection.words`: what OOD's after.sh reads."""
        return self.root / "connection.words"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """The files that hold the key; none of them outlives the session."""
        return self.connection, self.key, self.words

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def preliminary(self) -> Path:
        """`preliminary.json`: the record of a session that runs, or that was killed before it could write its own."""
        return self.root / "preliminary.json"

    @property
    def members(self) -> Path:
        """`members.json`: which sessions were launched together with this one."""
        return self.root / "members.json"

    @property
    def batch_script(self) -> Path:
        """`batch.sh`: the one script of all members, in the directory of the first."""
        return self.root / "batch.sh"

    @property
    def batches(self) -> Path:
        """`batches`: files that were uploaded for batch runs, and what came of them (launcher.batch.http)."""
        return self.root / "batches"

    @property
    def job_log(self) -> Path:
        return self.root / "job.log"

    @property
    def engine_log(self) -> Path:
        return self.root / "engine.log"

    def rank_log(self, rank: int) -> Path:
        """`engine-1.log`: of the engine's process on another node of the session; of rank 0, `engine.log`."""
        return self.root / f"engine-{rank}.log" if rank else self.engine_log

    @property
    def nodes_log(self) -> Path:
        """`nodes.log`: what was said while the engine's processes on other nodes were started and ended."""
        return self.root / "nodes.log"

    @property
    def gateway_log(self) -> Path:
        return self.root / "gateway.log"

    @property
    def batch_log(self) -> Path:
        return self.root / "batch.log"

    @property
    def page_log(self) -> Path:
        return self.root / "ui.log"


def write_private(path: Path, text: str | Iterable[str], *, durable: bool = True) -> None:
    """Replace `path` by a 0600 file holding `text`, in one step: a reader sees the old or the new, never a part.

    What is written again every few seconds need not be `durable`; waiting for the disk would hold up the gateway.
    """
    import tempfile  # loads `random`: who only looks at sessions need not wait for that

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines((text,) if isinstance(text, str) else text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise

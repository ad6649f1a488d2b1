"""One batch run, by its folder: what it asks for, how it stands, the wish to end it.

The output is the journal: what stands in it is done, and after any kill the same run goes on with the rest.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, Self

from launcher.batch.journal import busy
from launcher.batch.report import ACTIVE, CANCELLED, OVER, STOPPED, Show, Status
from launcher.batch.spec import Spec
from launcher.errors import RequestError, StorageError


class Run:
    """The run in `folder` (mode 0700): `run.json` its Spec, `status.json` its Status, `cancel` the wish to end it,
    `source.json` the digest of its input, `lock` locked by who carries it: output and error file lie where the Spec
    says, which may be a file system without locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, spec: Spec) -> Self:
        """Make the folder; one that is there is taken when it asks for the same. Raises RequestError, StorageError."""
        spec.checked()
        made = cls(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be made: {error.strerror}.", "Free some space there."
            ) from error
        if made.spec_path.exists() and (before := made.spec).input != spec.input:
            raise RequestError(
                f"{spec.output} holds the answers to {before.input}.", "Name another output with -o."
            )
        spec.write(made.spec_path)
        return made

    @property
    def spec_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def status_path(self) -> Path:
        return self.folder / "status.json"

    @property
    def cancel_path(self) -> Path:
        return self.folder / "cancel"

    @property
    def source_path(self) -> Path:
        return self.folder / "source.json"

    @property
    def lock_path(self) -> Path:
        return self.folder / "lock"

    @property
    def spec(self) -> Spec:
        """What is asked; raises SessionError where this is no run's folder."""
        return Spec.read(self.spec_path)

    @property
    def running(self) -> bool:
        """Whether some process is at it now."""
        return busy(self.lock_path) or busy(Path(self.spec.output))

    def status(self) -> Status:
        """How it stands; a run whose process was killed is `stopped`."""
        found = Status.read(self.status_path)
        if found.state not in ACTIVE or self.running:
            return found
        found = Status.read(self.status_path)  # it may have ended between the two
        if found.state not in ACTIVE:
            return found
        message = found.message or "Its process is gone."
        return dataclasses.replace(found, state=STOPPED, in_flight=0, rate=0.0, left_s=None, message=message)

    def cancel(self) -> Status:
        """Have it end soon, what is in flight included; what is answered stays. Harmless when it is over."""
        now = self.status()
        if now.state in OVER:
            return now
        self.cancel_path.touch(mode=0o600)
        if now.state not in ACTIVE:
            now = dataclasses.replace(now, state=CANCELLED, message="", code="")
            now.write(self.status_path)
        return now


async def run(
    folder: Path, base_url: str, key: str | None, progress: Show | None = None, **how: Any
) -> Status:
    """Carry the run in `folder` as far as it goes; `how` as for `Work.send`, and raises what Work raises."""
    from launcher.batch.work import Work

    work = await asyncio.to_thread(Work, Run(folder), fresh=False)
    with work:
        return await work.send(base_url, key, progress, **how)

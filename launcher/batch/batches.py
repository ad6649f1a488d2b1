"""The batches of OpenAI's `/v1/batches` on disk: what was asked for, how far it is, what came of it.

`batch.json` is written once when a batch is made, `state.json` by whoever carries it (launcher.batch.carrier), `cancel`
by whoever wants its end: so that two gateways may look after one folder, and a killed one leaves nothing unsaid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from launcher.batch.files import new_id, owner_folder, private
from launcher.batch.spec import Spec
from launcher.errors import RequestError
from launcher.sessions.paths import write_private

_ID = re.compile(r"batch_[0-9a-f]{24}")
VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
# There is no way to delete one: without a bound any key could fill the disk with batches of an empty line.
_KEPT = 2000
FINAL = frozenset((COMPLETED, FAILED, EXPIRED, CANCELLED))
STATUSES = (VALIDATING, FAILED, IN_PROGRESS, FINALIZING, COMPLETED, EXPIRED, CANCELLING, CANCELLED)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for. `key` is the name of the key that did so, never the key; times are Unix times.

    `models` are the names that its lines may give (none: any); `model` is told where there is but one.
    `input` and `output` are set where the request named paths (FIRST's body); `folder` is the output folder it named.
    """

    id: str
    owner: str
    key: str
    at: float
    expires_at: float
    window: str = "24h"
    endpoint: str | None = None
    input_file_id: str | None = None
    model: str | None = None
    models: tuple[str, ...] = ()
    output_lasts_s: int | None = None
    metadata: Mapping[str, str] | None = None
    input: str | None = None
    folder: str | None = None
    output: str | None = None
    cluster: str = ""
    framework: str = ""

    @property
    def by_path(self) -> bool:
        """Whether it was asked for in FIRST's words."""
        return self.input is not None


@dataclass(frozen=True, slots=True)
class State:
    """How far a batch is; `errors` are OpenAI's: code, message, line, param. `running_s`: the time its runs took.

    `end` is the last status, from the moment when no run may begin any more.
    """

    status: str = VALIDATING
    times: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[Mapping[str, Any], ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    running_s: float = 0.0
    end: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    def now(self, status: str, **changes: Any) -> Self:
        """The state from now on; the time it began is remembered."""
        times = {**self.times, f"{status}_at": int(time.time())} if status != self.status else self.times
        return dataclasses.replace(self, status=status, times=times, **changes)


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one batch: one object knows every name in it."""

    folder: Path

    @property
    def asked(self) -> Path:
        return self.folder / "batch.json"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def cancel(self) -> Path:
        return self.folder / "cancel"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def input(self) -> Path:
        return self.folder / "input.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "output.jsonl"

    @property
    def errors(self) -> Path:
        return self.folder / "errors.jsonl"

    @property
    def run(self) -> Path:
        """The folder of the run itself (launcher.batch.run)."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    def read_state(self) -> State:
        """How far it is; the beginning where nothing was written yet, or a power cut took it."""
        try:
            data = json.loads(self.state.read_bytes())
            return State(**{**data, "errors": tuple(data["errors"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return State()

    def tidy(self) -> None:
        """Drop the links to what is in the owner's files, who may delete it there, of a batch that is over."""
        for path in (self.input, self.output, self.errors):
            path.unlink(missing_ok=True)

    def write_state(self, state: State, *, durable: bool = True) -> None:
        """Say how far it is; raises OSError."""
        write_private(self.state, json.dumps(dataclasses.asdict(state)) + "\n", durable=durable)

    def seen(self) -> State:
        """The state as its owner sees it: one that is being cancelled says so."""
        state = self.read_state()
        if state.final:
            return state
        try:
            since = int(self.cancel.stat().st_mtime)
        except FileNotFoundError:
            return state
        return dataclasses.replace(state, status=CANCELLING, times={**state.times, "cancelling_at": since})


def errors_of(output: Path) -> Path:
    """The error file beside an output that was named."""
    return output.with_name(f"{output.name}.errors")


class Batches:
    """All batches below `folder`. Blocking: called in threads.

    One owner may have `most` unfinished ones, and of those that are over the newest `kept` are remembered.
    """

    def __init__(self, folder: Path, most: int, kept: int = _KEPT) -> None:
        self._folder = folder
        self._most, self._kept = most, kept
        self._asked: dict[Path, Asked] = {}  # what is on disk never changes
        self._over: set[Path] = set()

    def make(self, asked: Asked, content: Path | None) -> Asked:
        """Begin a batch, whose uploaded input is `content`; raises RequestError beyond what one owner may have."""
        mine = [(place, place.read_state().final) for _, place in self.of(asked.owner)]
        over = [place for place, final in mine if final]
        active = len(mine) - len(over)
        if active >= self._most:
            raise RequestError(
                f"{active} of your batches are not finished, and no more are allowed at a time.",
                "Wait for one to end, or cancel one.",
            )
        for old in over[self._kept :]:
            self._forget(old)
        place = self.place(asked)
        private(place.folder)
        try:
            if content is not None:
                try:
                    os.link(content, place.input)  # the batch goes on when its owner deletes the file
                except OSError:
                    shutil.copyfile(content, place.input)
                    place.input.chmod(0o600)
            place.run.mkdir(mode=0o700)
            self._spec(asked, place).checked().write(place.run / "run.json")
            write_private(place.asked, json.dumps(dataclasses.asdict(asked)) + "\n")
        except BaseException:
            shutil.rmtree(place.folder, ignore_errors=True)
            raise
        self._asked[place.folder] = asked
        return asked

    def _spec(self, asked: Asked, place: Place) -> Spec:
        output = Path(asked.output) if asked.output is not None else None
        return Spec(
            asked.input or str(place.input),
            str(output or place.output),
            str(errors_of(output) if output is not None else place.errors),
            asked.endpoint,
            asked.models,
            strict=not asked.by_path,  # as OpenAI and FIRST do
        )

    def new_id(self) -> str:
        """The id of a batch that is about to be made."""
        return new_id("batch_")

    def place(self, asked: Asked) -> Place:
        return Place(self._of(asked.owner) / asked.id)

    def get(self, owner: str, batch_id: str) -> tuple[Asked, Place] | None:
        """A batch of this owner; None: there is none, or it is somebody else's."""
        if not _ID.fullmatch(batch_id):
            return None
        place = Place(self._of(owner) / batch_id)
        asked = self._read(place)
        return None if asked is None else (asked, place)

    def of(self, owner: str) -> Iterator[tuple[Asked, Place]]:
        """The owner's batches, the newest first."""
        try:
            names = sorted(os.listdir(self._of(owner)), reverse=True)
        except FileNotFoundError:
            return
        for name in names:
            if (found := self.get(owner, name)) is not None:
                yield found

    def going_on(self, owner: str) -> list[tuple[Asked, State]]:
        """The owner's batches that are not over, as the owner sees them, the newest first."""
        found = [(asked, place.seen()) for asked, place in self.of(owner) if place.folder not in self._over]
        return [(asked, state) for asked, state in found if not state.final]

    def unfinished(self) -> list[tuple[Asked, Place]]:
        """Everybody's batches that are not over, the oldest first."""
        found = []
        for folder in set(self._folder.glob("*/batch_*")) - self._over:
            place = Place(folder)
            asked = self._read(place)
            if asked is None:
                continue
            if place.read_state().final:
                place.tidy()
                self._over.add(folder)
            else:
                found.append((asked, place))
        return sorted(found, key=lambda one: one[0].at)

    def _forget(self, place: Place) -> None:
        """Remove a batch that is over; what it has handed out are files of its owner, and stays."""
        with contextlib.suppress(FileNotFoundError):
            place.asked.unlink()
        self._asked.pop(place.folder, None)
        shutil.rmtree(place.folder, ignore_errors=True)
        self._over.discard(place.folder)

    def _of(self, owner: str) -> Path:
        return self._folder / owner_folder(owner)

    def _read(self, place: Place) -> Asked | None:
        if (known := self._asked.get(place.folder)) is not None:
            return known if place.asked.exists() else None  # another gateway may have forgotten it
        try:
            data = json.loads(place.asked.read_bytes())
            asked = Asked(**{**data, "models": tuple(data["models"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self._asked[place.folder] = asked
        return asked

"""What came of it: a result for each recording, and how far all of them are while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError
from launcher.transcripts.ledger import Mark

# `done` now, `skipped` since it was finished before; `running`: another command has it; `stalled`: begun or waiting,
# the same command goes on; `failed`: it cannot be transcribed; `exhausted`: given up after several attempts.
DONE, SKIPPED, RUNNING = "done", "skipped", "running"
STALLED, FAILED, EXHAUSTED = "stalled", "failed", "exhausted"
GOOD = frozenset({DONE, SKIPPED})


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recording; `message` is a sentence where there is something to say.

    `seconds` is the time it took now; `continued_s`, where in the recording that began.
    """

    path: str
    state: str
    message: str = ""
    outputs: tuple[Path, ...] = ()
    duration_s: float | None = None
    language: str | None = None
    words: int | None = None
    marks: tuple[Mark, ...] = ()
    seconds: float | None = None
    continued_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {**asdict(self), "outputs": [str(path) for path in self.outputs]}


@dataclass(frozen=True, slots=True)
class Report:
    """The results in the order of the recordings; `trouble` is what ended the work before it was finished.

    `session` carried it, `kept`: it still runs because it was asked to, or was there before.
    """

    results: tuple[Result, ...]
    session: str | None = None
    kept: bool = False
    trouble: LauncherError | None = None
    passed_over: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every recording has its transcripts."""
        return self.trouble is None and all(result.state in GOOD for result in self.results)


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """A recording that is being transcribed: seconds of it, bytes sent while it is uploaded, seconds of it per
    second, and seconds left."""

    path: str
    done_s: float
    duration_s: float | None
    sent: int | None = None
    size: int = 0
    speed: float = 0.0
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far all are: so many of `recordings`, seconds of audio done now, how many per second, and seconds left."""

    finished: int
    recordings: int
    done_s: float
    speed: float
    left_s: float | None
    running: tuple[OnTheWay, ...]


Tell = Callable[[str], None]
Show = Callable[[Progress], None]


def position(seconds: float) -> str:
    """A place in a recording: 12:03, 1:02:03."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after all was left so that the same call goes on; `report` says how far it came."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

"""The exceptions of the launcher: one class, one exit code and one kind for each sort of trouble.

    LauncherError            1  anything else
    ├── RequestError         2  a value the user gave is wrong
    ├── SettingsError        3  a settings file is wrong (file, key and value are named)
    ├── ModelError           4  the model is unknown, incomplete or refused
    ├── SchedulerError       5  Slurm (or the local scheduler) refused or cannot be reached
    ├── SessionError         6  no such session, or it is in the wrong state
    ├── EngineError          7  the engine failed or never became ready
    └── StorageError         8  a directory or file cannot be written

Exit code 130 is left to Ctrl-C. Also the hint that many of them share, for a name with a slip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class LauncherError(Exception):
    """Something the user can read and act on: what is wrong, then what to do.

    `message` is one sentence with the value and where it came from; `hint`, when there is one, is the next step.
    `reason` is the machine-readable cause where one is known, `quote` the words of the program that told, `log` the
    path of the log in which they stand.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        reason: str | None = None,
        *,
        quote: str | None = None,
        log: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason
        self.quote = quote
        self.log = log

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class RequestError(LauncherError):
    """A value that the user typed, posted or passed is wrong."""

    exit_code = 2
    kind = "request"


class SettingsError(LauncherError):
    """A settings file is wrong; the message names file, key and value."""

    exit_code = 3
    kind = "settings"


class ModelError(LauncherError):
    """The model is unknown, incomplete or refused."""

    exit_code = 4
    kind = "model"


class SchedulerError(LauncherError):
    """The scheduler refused the job or cannot be reached."""

    exit_code = 5
    kind = "scheduler"


class SessionError(LauncherError):
    """There is no such session, or it is not in the state that was asked for."""

    exit_code = 6
    kind = "session"


class EngineError(LauncherError):
    """The engine failed or never became ready; docs/states.md lists its reasons."""

    exit_code = 7
    kind = "engine"


class StorageError(LauncherError):
    """A directory or file cannot be written."""

    exit_code = 8
    kind = "storage"


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str | None:
    """The hint `Did you mean a or b?` with the names that are near to `word`; None where none is."""
    import difflib  # slow to load, and only of use to an error

    near = difflib.get_close_matches(word, list(known), most)
    return f"Did you mean {' or '.join(near)}?" if near else None

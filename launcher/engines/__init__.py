"""What runs the model: each engine turns a plan into a command, knows one real request, and explains its own death.

An engine is one module and one line in `ENGINES`. Nothing here starts a process; `launcher.serve` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from launcher.errors import RequestError
from launcher.sessions.plan import Plan

ENGINES = {
    "vllm": "launcher.engines.vllm",
    "whisper": "launcher.engines.whisper",
    "simulated": "launcher.engines.simulated",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A program's arguments and what is added to its environment variables."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes of one engine on several nodes this is, and where they all meet.

    `rank` counts from 0, which is on the session's first node and alone answers requests; `nodes` is how many there
    are. They meet at `port` of `address`, the first node's; `own` is this node's address, which `interface` has, where
    known.
    """

    rank: int
    nodes: int
    address: str
    port: int
    own: str
    interface: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """One real request: ready means that its 200 answer, JSON, has something under `field`.

    `body` is sent as JSON, or with `sound`, the bytes of a wav file, as the fields of a form.
    """

    path: str
    body: Mapping[str, object]
    field: str
    sound: bytes | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an engine ended: a machine-readable reason, one plain sentence and the next step.

    `form_hint` is that step by the names of the form's fields, where it has one; `quote` the line of the log that told,
    or several last ones where none is known, without a prompt or a key.
    """

    reason: str
    message: str
    hint: str | None = None
    form_hint: str | None = None
    quote: str | None = None


class Engine(Protocol):
    """What `launcher.serve` and `launcher.planning` need from an engine module."""

    def check_args(self, args: tuple[str, ...], *, allow_remote_code: bool) -> None:
        """Raise RequestError for an argument that is the launcher's own (sockets, keys) or not allowed here."""

    def command(self, plan: Plan, socket: Path, cache: Path, place: Place | None = None) -> Command:
        """The command that serves `plan`'s model on the Unix socket `socket`, with its caches in `cache`.

        With `place`, that of one of the processes on several nodes: only the first listens on `socket`.
        """

    def probe(self, plan: Plan) -> Probe:
        """The request whose answer makes the session ready."""

    def health(self) -> str:
        """The path that answers 200 once the engine listens."""

    def phase(self, line: str) -> str | None:
        """The phase that a line of the engine's log announces; a hint for people, never the state."""

    def lost(self, pid: int) -> bool:
        """Whether the engine started as `pid` has lost a process that it needs, and only waits for it in vain."""

    def explain(self, log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
        """Why the engine ended, from the end of its log and its exit code (negative: a signal)."""


def engine(name: str) -> Engine:
    """The engine called `name`; raises RequestError that lists the known ones."""
    try:
        module = ENGINES[name]
    except KeyError:
        raise RequestError(
            f'Unknown engine "{name}".', f"Choose one of: {', '.join(sorted(ENGINES))}."
        ) from None
    return cast(Engine, importlib.import_module(module))

"""The blocks of the settings that a session carries with it in `session.json`.

As launcher.settings.schema, of which they are a part; apart from it, so that `launcher status` need not make the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def one_of(*choices: str, default: Any = None) -> Any:
    """One of these words."""
    return field(default=default, metadata={"choices": choices})


def place(default: Any = None, also: str | None = None) -> Any:
    """A folder or a file; what matches `also` is one as well."""
    return field(default=default, metadata={"path": True, "also": also})


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a program comes from; `setup` is a file that the shell of a `module` environment sources first.

    `engines` are the engines it holds; empty: any.
    """

    name: str
    kind: str = one_of("venv", "module", "container", default="venv")
    engines: tuple[str, ...] = one_of("vllm", "whisper", "simulated", default=())
    path: str | None = place()
    modules: tuple[str, ...] = ()
    # An address such as docker://… is Apptainer's to fetch; the doctor advises against it.
    image: str | None = place(also=r"[a-z]+://.+")
    runtime: str = one_of("apptainer", "singularity", default="apptainer")
    binds: tuple[str, ...] = place(())
    env: Mapping[str, str] = field(default_factory=dict)
    setup: str | None = place()


@dataclass(frozen=True, slots=True)
class Network:
    """The address the gateway binds and the host name that clients are told.

    `host` None means the node's own name; `{node}` in it stands for that name up to the first dot.
    """

    # 0.0.0.0: the gateway is the one open port, and it denies by default.
    bind: str = field(default="0.0.0.0", metadata={"pattern": r"[A-Za-z0-9][A-Za-z0-9.-]*"})  # noqa: S104
    host: str | None = field(default=None, metadata={"pattern": r"[A-Za-z0-9{][A-Za-z0-9.{}-]*"})


@dataclass(frozen=True, slots=True)
class Places:
    """Folders: of sessions and of compile caches; on the node, of sockets and of copies of those caches."""

    sessions: str = place("~/.local/state/launcher/sessions")
    cache: str = place("~/.cache/launcher")
    runtime: str | None = place()
    local: str | None = place()

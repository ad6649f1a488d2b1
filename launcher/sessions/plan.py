"""What a session will be: the content of `session.json`, written once before the job and only read after.

Owns the shape of that file and nothing else; how the values are chosen is `launcher.planning`'s business.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from launcher.errors import SessionError
from launcher.sessions.stored import made
from launcher.settings.carried import Environment, Network, Places

SCHEMA = 1
# What `origins` says where neither the user nor the site named a value.
CHOSEN = "chosen to fit"
FIRST_ABLE = "the first that gives what was asked for"


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """What is served: `snapshot` is None only for the simulated engine, `revision` is a commit where one is known."""

    id: str
    served_name: str
    snapshot: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedCluster:
    """Where the job runs; `scheduler` is `slurm` or `local`, on the host `ssh` where one is named."""

    name: str
    scheduler: str
    login_host: str | None = None
    ssh: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The hardware request, after profile and request were joined; all but `nodes` are per node."""

    profile: str
    nodes: int = 1
    gpus: int = 0
    gpu_type: str | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    sbatch_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take; `idle_minutes` 0 means never stop for idleness.

    `engine_restarts` is how often a crashed engine is started again, `audio_hours` how long one recording may be (None:
    as long as it is). `batch_file_gb` is what one uploaded file of a batch may have, `batch_files_gb` all of one key.
    """

    hours: float
    idle_minutes: float
    start_timeout_s: float
    engine_restarts: int = 2
    audio_hours: float | None = None
    batch_file_gb: float | None = 1.0
    batch_files_gb: float | None = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One session before it runs. No secret is ever in it.

    `audio_folders` are those below which a speech engine may read its user's files; empty: wherever that user may.
    `batch` is the folder of the batch run for which it is, and with which it ends. `work_dir` is the folder the engine
    runs in; None: a private one on the node.
    """

    id: str
    name: str
    created_at: float
    door: str
    user: str
    engine: str
    model: PlannedModel
    cluster: PlannedCluster
    resources: Resources
    environment: Environment
    limits: Limits
    network: Network
    places: Places
    launcher: str
    engine_args: tuple[str, ...] = ()
    audio_folders: tuple[str, ...] = ()
    page: bool = True
    work_dir: str | None = None
    batch: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `session.json`."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "session.json") -> Self:
        """Read the text of `session.json`; raises SessionError for another schema or a broken file."""
        try:
            data: dict[str, Any] = json.loads(text)
            schema = data.pop("schema")
            if schema != SCHEMA:
                raise SessionError(
                    f"{source} has schema {schema}, this launcher reads {SCHEMA}.",
                    "Use the launcher that started the session.",
                )
            resources, environment = data.pop("resources"), data.pop("environment")
            return cls(
                model=made(PlannedModel, data.pop("model")),
                cluster=made(PlannedCluster, data.pop("cluster")),
                resources=made(Resources, resources),
                environment=made(Environment, environment),
                limits=made(Limits, data.pop("limits")),
                network=made(Network, data.pop("network")),
                places=made(Places, data.pop("places")),
                engine_args=tuple(data.pop("engine_args")),
                audio_folders=tuple(data.pop("audio_folders", ())),
                **{name: data[name] for name in data if name in cls.__dataclass_fields__},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SessionError(
                f"{source} is not a session file: {error}.", "Start the session again."
            ) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `path`; raises SessionError when it is missing or broken."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SessionError(
                f"{path}: {os.strerror(error.errno or 0)}.", "Is this a session's directory?"
            ) from error
        return cls.from_json(text, str(path))

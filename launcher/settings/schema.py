"""The shape of the settings: plain frozen records, one for each block of the site file.

Owns names, types and defaults; where values come from is `launcher.settings.layers`'s business. The field
metadata `choices` and `pattern` are checked when a record is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What may stand in a Slurm option without quoting; also keeps a leading dash (an option of its own) out.
TOKEN = r"[A-Za-z0-9_][A-Za-z0-9_.:@+,=/&|*()\[\]!-]{0,199}"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"


def _one_of(*choices: str, default: Any = None) -> Any:
    return field(default=default, metadata={"choices": choices})


def _token() -> Any:
    return field(default=None, metadata={"pattern": TOKEN})


@dataclass(frozen=True, slots=True)
class Cluster:
    """One Slurm installation, or this machine; `ondemand` are its ids in OOD's clusters.d (default: the name).

    `login_host` is where a laptop's ssh goes for a tunnel.
    """

    name: str
    scheduler: str = _one_of("slurm", "local", default="slurm")
    ondemand: tuple[str, ...] = ()
    login_host: str | None = _token()


@dataclass(frozen=True, slots=True)
class Profile:
    """A named hardware request; `gpus` per node, `memory_gb` per node, `gpu_memory_gb` per GPU."""

    name: str
    cluster: str
    description: str = ""
    partition: str | None = _token()
    nodes: int = field(default=1, metadata={"minimum": 1})
    gpus: int = field(default=0, metadata={"minimum": 0})
    gpu_type: str | None = _token()
    gpu_memory_gb: float | None = None
    cpus: int | None = field(default=None, metadata={"minimum": 1})
    memory_gb: float | None = field(default=None, metadata={"minimum": 0.1})
    hours: float | None = field(default=None, metadata={"minimum": 0.01})
    hours_max: float = field(default=24, metadata={"minimum": 0.01})
    environment: str | None = None
    account: str | None = _token()
    qos: str | None = _token()
    constraint: str | None = _token()
    reservation: str | None = _token()
    sbatch_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a program comes from; `setup` is a file that the shell of a `module` environment sources first."""

    name: str
    kind: str = _one_of("venv", "module", "container", default="venv")
    path: str | None = None
    modules: tuple[str, ...] = ()
    image: str | None = None
    runtime: str = _one_of("apptainer", "singularity", default="apptainer")
    binds: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    setup: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that the site offers. `id` or `path` says which weights; `engine_args` come before the user's own."""

    name: str
    title: str = ""
    id: str | None = None
    path: str | None = None
    revision: str | None = None
    aliases: tuple[str, ...] = ()
    engine: str = _one_of("vllm", "simulated", default="vllm")
    engine_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    environment: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What a session gets when the request leaves it open."""

    profile: str | None = None
    hours: float = field(default=4, metadata={"minimum": 0.01})
    idle_minutes: float = field(default=60, metadata={"minimum": 0})
    start_timeout_minutes: float = field(default=60, metadata={"minimum": 0.01})
    engine_restarts: int = field(default=2, metadata={"minimum": 0, "maximum": 10})
    page: bool = True


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
    """Folders: of sessions, of compile caches, and of sockets on the node."""

    sessions: str = "~/.local/state/launcher/sessions"
    cache: str = "~/.cache/launcher"
    runtime: str | None = None


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where snapshots are looked for."""

    folders: tuple[str, ...] = ()
    cache: str = "~/.cache/huggingface/hub"


@dataclass(frozen=True, slots=True)
class Allow:
    """What a site lets its users do."""

    models: str = _one_of("any", "catalog", default="any")
    trust_remote_code: bool = False
    pickle_weights: bool = False
    engine_args: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything known before a request.

    `origins` maps a dotted key to the file or variable it came from; `locks` are the keys that are the site's.
    """

    session: SessionDefaults
    network: Network
    places: Places
    models: ModelPlaces
    allow: Allow
    clusters: Mapping[str, Cluster]
    profiles: Mapping[str, Profile]
    environments: Mapping[str, Environment]
    catalog: Mapping[str, CatalogModel]
    origins: Mapping[str, str] = field(default_factory=dict)
    locks: tuple[str, ...] = ()
    site: str | None = None

    def from_user(self, key: str) -> bool:
        """Whether `key` is the user's own word on a machine that has a site's file."""
        return self.site is not None and self.origin(key) not in (self.site, "defaults")

    def origin(self, key: str) -> str:
        """The file or variable that `key` (dotted) came from; the nearest parent's if the key itself was left out."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return "defaults"

    def locked(self, key: str) -> bool:
        """Whether the site keeps `key`, or a block it stands in, to itself."""
        return any(key == lock or key.startswith(f"{lock}.") for lock in self.locks)

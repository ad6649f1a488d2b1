"""The shape of the settings: plain frozen records, one for each block of the site file.

Owns names, types and defaults; where values come from is `launcher.settings.layers`'s business. The field
metadata `choices`, `pattern`, `minimum`, `maximum` and `path` are checked when a record is read, in a list for each
item; `example` is what its error proposes. In a `path`, `~` and variables are replaced first; what matches `also` is
one as well. `variables` are replaced in what is no path, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.settings import origins as at
from launcher.settings.carried import Environment as Environment
from launcher.settings.carried import Network as Network
from launcher.settings.carried import Places as Places
from launcher.settings.carried import one_of, place

# What may stand in a Slurm option without quoting; also keeps a leading dash (an option of its own) out.
TOKEN = r"[A-Za-z0-9_][A-Za-z0-9_.:@+,=/&|*()\[\]!-]{0,199}"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
# A type of GPU stands in the middle of --gres, where a colon or a comma would ask for more GPUs than were counted.
GPU_TYPE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
# Nodes as Slurm lists them; without a slash, which would make it a file's name.
HOSTS = r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]{0,999}"

# A folder or a file as it may be written: from the root, from a home, from a variable.
PATH = r"(?:[/~]|\$[A-Za-z_{]).*"

# A program on another host, found there: in its PATH, from its root, from the home there.
PROGRAM = r"(?:~?/)?[A-Za-z0-9_.][A-Za-z0-9_./:@+=,-]{0,500}"

# Above this, a number is a mistake of the hand; documentation does not name it as a bound.
UNBOUNDED = 1_000_000

# The fields of Open OnDemand's form, as `launcher.ondemand.fields` makes them.
FORM_FIELDS = (
    "model", "profile", "bc_num_hours", "advanced", "custom_model", "revision", "gpus", "context_length", "account",
    "qos", "idle_minutes", "engine_args", "trust_remote_code", "try_anyway",
)  # fmt: skip


def _token() -> Any:
    return field(default=None, metadata={"pattern": TOKEN})


def _tokens() -> Any:
    return field(default=(), metadata={"pattern": TOKEN})


def _from(minimum: float, maximum: float = UNBOUNDED, default: Any = None, example: Any = None) -> Any:
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "example": example})


@dataclass(frozen=True, slots=True)
class Cluster:
    """One Slurm installation, or this machine; `ondemand` are its ids in OOD's clusters.d (default: the name).

    `login_host` is where a laptop's ssh goes for a tunnel. With `ssh`, Slurm's programs run on that host; with
    `launcher` too, the launcher installed there does all the work, and its files need not be seen from here.
    """

    name: str
    scheduler: str = one_of("slurm", "local", default="slurm")
    ondemand: tuple[str, ...] = _tokens()
    login_host: str | None = _token()
    ssh: str | None = _token()
    launcher: str | None = field(default=None, metadata={"pattern": PROGRAM})

    @property
    def remote(self) -> bool:
        """Whether another launcher, reached over ssh, does the work."""
        return self.ssh is not None and self.launcher is not None

    @property
    def in_form(self) -> bool:
        """Whether Open OnDemand can submit to it what is planned here."""
        return self.scheduler == "slurm" and not self.remote


@dataclass(frozen=True, slots=True)
class Profile:
    """A named hardware request; `gpus` per node, `memory_gb` per node, `gpu_memory_gb` per GPU, all in GiB.

    With `gpus_max` a request may have up to so many GPUs, and where it names no number the launcher takes as few of
    them as the model needs. `accounts` and `qos_choices` are what may be asked for (empty: anything);
    `compute_capability` is the GPU's (8.0 is an A100's), where `gpu_type` does not tell it.
    """

    name: str
    cluster: str
    description: str = ""
    partition: str | None = _token()
    nodes: int = _from(1, default=1)
    gpus: int = _from(0, 1024, default=0)
    gpus_max: int | None = _from(1, 1024)
    gpu_type: str | None = field(default=None, metadata={"pattern": GPU_TYPE})
    # More than any GPU has, and less than the smallest one's MiB.
    gpu_memory_gb: float | None = _from(1, 1024, example=80)
    compute_capability: float | None = _from(3, 30, example="8.0")
    cpus: int | None = _from(1, example=8)
    memory_gb: float | None = _from(0.1, example=64)
    hours: float | None = _from(0.01, example=4)
    hours_max: float = _from(0.01, default=24)
    environment: str | None = None
    account: str | None = _token()
    account_required: bool = False
    accounts: tuple[str, ...] = _tokens()
    qos: str | None = _token()
    qos_choices: tuple[str, ...] = _tokens()
    constraint: str | None = _token()
    reservation: str | None = _token()
    sbatch_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that the site offers. `id` or `path` says which weights; `engine_args` come before the user's own."""

    name: str
    title: str = ""
    id: str | None = None
    path: str | None = place(also=r"shipped:.+")
    revision: str | None = None
    aliases: tuple[str, ...] = ()
    engine: str = one_of("vllm", "whisper", "simulated", default="vllm")
    engine_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    environment: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class SessionDefaults:
    """What a session gets when the request leaves it open."""

    profile: str | None = None
    hours: float = _from(0.01, default=4)
    idle_minutes: float = _from(0, default=60)
    start_timeout_minutes: float = _from(0.01, default=60)
    engine_restarts: int = _from(0, 10, default=2)
    page: bool = True


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where snapshots are looked for."""

    folders: tuple[str, ...] = place(())
    cache: str = place("~/.cache/huggingface/hub")


@dataclass(frozen=True, slots=True)
class Allow:
    """What a site lets its users do."""

    models: str = one_of("any", "catalog", default="any")
    downloads: bool = True
    trust_remote_code: bool = False
    pickle_weights: bool = False
    engine_args: bool = True
    publish: bool = False
    audio_folders: tuple[str, ...] = place(())
    nodes: int = _from(1, default=1, example=2)


@dataclass(frozen=True, slots=True)
class Caps:
    """What one user, or one request, may have at most; None: no limit. `gpus` and `hours` are of one session.

    `audio_hours` is how long one recording may be that is sent to a Whisper session. `batch_file_gb` (10^9 bytes) is
    what one file of `/v1/files` may have, `batch_files_gb` all that one owner uploads there.
    """

    sessions: int | None = _from(1, example=4)
    gpus: int | None = _from(0, example=8)
    hours: float | None = _from(0.01, example=24)
    audio_hours: float | None = _from(0.01, example=10)
    batch_file_gb: float | None = _from(0.001, default=1.0, example=1)
    batch_files_gb: float | None = _from(0.001, default=20.0, example=20)


@dataclass(frozen=True, slots=True)
class Form:
    """What Open OnDemand's form shows; `hide` are fields left out of it, `more` is false for no *More options*."""

    hide: tuple[str, ...] = field(default=(), metadata={"choices": FORM_FIELDS})
    more: bool = True
    live: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The one address over many sessions (`launcher gateway`); `port` 0 is chosen once and kept in the state.

    `state` is the URL of a database; None: SQLite in a folder of the user's on this machine.
    """

    host: str = field(default="127.0.0.1", metadata={"pattern": r"[A-Za-z0-9][A-Za-z0-9.-]*"})
    port: int = _from(0, 65535, default=0, example=8000)
    shown_host: str | None = field(default=None, metadata={"pattern": r"[A-Za-z0-9{][A-Za-z0-9.{}-]*"})
    state: str | None = field(default=None, metadata={"variables": True})
    key_hours: float = _from(0.01, default=48)
    hold_seconds_max: float = _from(0, 86400, default=600)
    usage_days: int = _from(32, 36500, default=400)


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that the endpoint may start; `model` None is the entry's own name, `profiles` the first one first.

    `launch` holds further fields of a request, as `launcher launch` has them.
    """

    name: str
    model: str | None = None
    profiles: tuple[str, ...] = ()
    minimum: int = _from(0, 1024, default=0)
    maximum: int = _from(1, 1024, default=1)
    idle_minutes: float = _from(0, default=60)
    hours: float | None = _from(0.01, example=4)
    in_flight: int = _from(1, default=64)
    groups: tuple[str, ...] = ()
    requests_per_minute: int | None = _from(1, example=600)
    tokens_per_minute: int | None = _from(1, UNBOUNDED * 1000, example=100_000)
    launch: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Owners of keys to the endpoint, who may use the offers that name the group."""

    name: str
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything known before a request.

    `origins` maps a dotted key to the file or variable it came from, `lines` each file's keys to their lines; `locks`
    are the keys that are the site's.
    """

    session: SessionDefaults
    network: Network
    places: Places
    models: ModelPlaces
    allow: Allow
    limits: Caps
    form: Form
    clusters: Mapping[str, Cluster]
    profiles: Mapping[str, Profile]
    environments: Mapping[str, Environment]
    catalog: Mapping[str, CatalogModel]
    endpoint: Endpoint = field(default_factory=Endpoint)
    offers: Mapping[str, Offered] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    locks: tuple[str, ...] = ()
    site: str | None = None
    lines: at.Lines = field(default_factory=dict)

    @property
    def planned_here(self) -> dict[str, Profile]:
        """The profiles but for those of clusters whose own launcher plans: what those have is described there."""
        return {name: p for name, p in self.profiles.items() if not self.clusters[p.cluster].remote}

    def from_user(self, key: str) -> bool:
        """Whether `key` is the user's own word on a machine that has a site's file."""
        return self.site is not None and self.origin(key) not in (self.site, "defaults")

    def origin(self, key: str) -> str:
        """The file or variable that `key` (dotted) came from; the nearest parent's if the key itself was left out."""
        return at.origin(key, self.origins)

    def where(self, key: str) -> str:
        """`origin` and the line, for an error about `key`: `/etc/launcher/site.yml, line 12`."""
        return at.where(key, self.origins, self.lines)

    def locked(self, key: str) -> bool:
        """Whether the site keeps `key`, or a block it stands in, to itself."""
        return any(key == lock or key.startswith(f"{lock}.") for lock in self.locks)


# The blocks of a settings file, in the order that its documentation has.
BLOCKS: dict[str, type] = {
    "session": SessionDefaults,
    "network": Network,
    "places": Places,
    "models": ModelPlaces,
    "allow": Allow,
    "limits": Caps,
    "form": Form,
    "endpoint": Endpoint,
}
# Blocks of entries that the site names.
NAMED: dict[str, type] = {
    "clusters": Cluster,
    "profiles": Profile,
    "environments": Environment,
    "catalog": CatalogModel,
    "offers": Offered,
    "groups": Group,
}

"""What a user asks for, and the errors for what cannot be asked for at all: wrong types, unknown names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from launcher.errors import RequestError, SettingsError, did_you_mean
from launcher.settings.records import record


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for; None means: choose for me.

    Sizes are per node, `memory_gb` in GiB, `max_model_len` in tokens, times as named. Without `fit_check` nothing is
    weighed: no model is refused, and no GPUs, split or context are chosen. `environment` is a name of the site's, or
    the path of a virtual environment or an image. `binds` are folders that a container shall see, `env` variables for
    the engine, `log_dir` the folder that the session's own is made in, `work_dir` where the engine runs.
    """

    model: str
    profile: str | None = None
    revision: str | None = None
    name: str | None = None
    hours: float | None = None
    idle_minutes: float | None = None
    engine: str | None = None
    environment: str | None = None
    page: bool | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    exclude: str | None = None
    nodelist: str | None = None
    binds: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    log_dir: str | None = None
    work_dir: str | None = None
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    trust_remote_code: bool = False
    fit_check: bool = True


def check_types(request: Request) -> None:
    """Raise RequestError where a value of `request` has not its field's type."""
    values = {f.name: getattr(request, f.name) for f in dataclasses.fields(Request)}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    try:
        record(Request, given, "request", lambda key: key)
    except SettingsError as error:
        raise RequestError(error.message.partition(": request.")[2] or error.message, "Correct it.") from None


def unknown(what: str, value: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is not there, with the near ones or all."""
    names = list(known)
    advice = did_you_mean(value, names) or f"Choose one of: {', '.join(names)}."
    return RequestError(f'Unknown {what} "{value[:80]}".', advice)

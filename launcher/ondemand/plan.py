"""The plan for what was posted: every value of the form is checked, the session is written, OOD's request is printed.

OOD validates nothing itself (options, limits and patterns are HTML only), so nothing posted is believed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import shlex
from pathlib import Path
from typing import Any

from launcher.api import Launcher, write_session
from launcher.errors import LauncherError, RequestError, SettingsError, StorageError
from launcher.models.resolve import catalog_entry
from launcher.ondemand import card
from launcher.ondemand.fields import AUTO
from launcher.ondemand.words import in_the_forms_words
from launcher.planning import Request, make_plan
from launcher.schedulers import scheduler
from launcher.schedulers.script import job_name
from launcher.sessions import registry
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.settings.schema import Cluster, Settings


def plan(launcher: Launcher, posted: str, root: Path) -> dict[str, Any]:
    """Write the session into the staged directory `root` and return OOD's `batch_connect` and `script` blocks."""
    values = _values(posted)
    settings = launcher.settings
    chosen = values.get("cluster", "")
    request = _request(values, settings)
    try:
        made = make_plan(
            request, settings if request.profile else _on(chosen, request.model, settings), door="ondemand"
        )
    except LauncherError as error:
        error.hint = in_the_forms_words(error.hint)
        raise
    cluster = settings.clusters[made.cluster.name]
    if cluster.scheduler != "slurm":
        raise SettingsError(
            f'Profile "{made.resources.profile}" is not on a Slurm cluster.', "Choose another profile."
        )
    if chosen and not _is_called(cluster, chosen):
        raise RequestError(
            f'Profile "{made.resources.profile}" is not on cluster "{chosen[:60]}".',
            "Choose the cluster and the hardware that belong together.",
        )
    launcher.within_limits()
    _write(made, root)
    return _submission(made)


def _on(chosen: str, model: str, settings: Settings) -> Settings:
    """`settings` with the profiles of that cluster alone, for a request that leaves the hardware open."""
    here = {
        name: profile
        for name, profile in settings.profiles.items()
        if (cluster := settings.clusters[profile.cluster]).scheduler == "slurm"
        and (not chosen or _is_called(cluster, chosen))
    }
    where = f'cluster "{chosen[:60]}"' if chosen else "a Slurm cluster"
    if not here:
        raise RequestError(f"There is no hardware on {where}.", "Choose another cluster.")
    entry = catalog_entry(model, settings)
    if entry is not None and entry.profiles and not here.keys() & set(entry.profiles):
        raise RequestError(
            f'Model "{model[:200]}" does not run on {where}.', f"Choose one of: {', '.join(entry.profiles)}."
        )
    catalog = {
        name: dataclasses.replace(other, profiles=tuple(p for p in other.profiles if p in here))
        for name, other in settings.catalog.items()
    }
    first = settings.session.profile
    session = dataclasses.replace(settings.session, profile=first if first in here else None)
    return dataclasses.replace(settings, profiles=here, catalog=catalog, session=session)


def _is_called(cluster: Cluster, chosen: str) -> bool:
    # OOD's clusters may be named by a pattern.
    return any(fnmatch.fnmatchcase(chosen, name) for name in cluster.ondemand or (cluster.name,))


def _values(posted: str) -> dict[str, str]:
    try:
        data = json.loads(posted)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The form's values are not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise RequestError("The form's values are not a JSON object.")
    return {str(key): str(value).strip() for key, value in data.items() if value is not None}


def _request(values: dict[str, str], settings: Settings) -> Request:
    def text(*names: str) -> str | None:
        return next((values[name] for name in names if values.get(name)), None)

    model = text("custom_model", "model")
    if model is None:
        raise RequestError("No model was chosen.", "Choose one in the form.")
    profile = text("profile")
    if profile == AUTO and AUTO not in settings.profiles:
        profile = None
    # OOD's own fields, where a site's sub-app has them in place of ours.
    return Request(
        model=model,
        profile=profile,
        revision=text("revision"),
        account=text("account", "auto_accounts", "bc_account"),
        qos=text("qos", "auto_qos"),
        partition=text("auto_queues", "bc_queue"),
        hours=_hours(values, profile, settings),
        idle_minutes=_number(values, "idle_minutes", "Stop when unused for"),
        gpus=_whole(values, "gpus", "GPUs"),
        max_model_len=_whole(values, "context_length", "Context length"),
        engine_args=_words(values.get("engine_args", "")),
        trust_remote_code=values.get("trust_remote_code") == "1",
        fit_check=values.get("try_anyway") != "1",
    )


def _hours(values: dict[str, str], profile: str | None, settings: Settings) -> float | None:
    hours = _number(values, "bc_num_hours", "Hours")
    described = settings.profiles.get(profile or "")
    if hours == 1 and described is not None and described.hours_max < 1:
        return described.hours_max  # the form's least is a whole hour
    return hours


def _whole(values: dict[str, str], name: str, label: str) -> int | None:
    number = _number(values, name, label)
    if number is not None and not number.is_integer():
        raise RequestError(f'{label} must be a whole number, not "{values[name][:40]}".')
    return None if number is None else int(number)


def _number(values: dict[str, str], name: str, label: str) -> float | None:
    text = values.get(name, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise RequestError(f'{label} must be a number, not "{text[:40]}".') from None


def _words(text: str) -> tuple[str, ...]:
    # Quotes as in a shell, but no shell: nothing is expanded.
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise RequestError(f"The engine arguments cannot be read: {error}.", "Close every quote.") from error


def _write(made: Plan, root: Path) -> None:
    paths = SessionPaths(root)
    folder = Path(made.places.sessions)
    try:
        # OOD makes the directory itself, but only after this; 0700 because the key will be in it.
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_session(made, paths, header=False)
        card.write_waiting(made, root)
        registry.link(folder, made.id, root)
    except (OSError, StorageError) as error:
        for path in (paths.plan, paths.job_script, root / card.INFO, folder / made.id):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise error if isinstance(error, StorageError) else registry.storage_error(error, root) from error


def _submission(made: Plan) -> dict[str, Any]:
    return {
        "batch_connect": {"template": "basic", "conn_params": list(card.CONNECTION_WORDS)},
        "script": {
            "job_name": job_name(made),
            "wall_time": max(60, round(made.limits.hours * 3600)),
            # Our own --time too would be the last word; OOD's comes from wall_time.
            "native": [o for o in scheduler("slurm").options(made) if not o.startswith("--time=")],
        },
    }

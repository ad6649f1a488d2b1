"""The plan for what was posted: every value of the form is checked, the session is written, OOD's request is printed.

OOD validates nothing itself (options, limits and patterns are HTML only), so nothing posted is believed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.api import Launcher, write_session
from launcher.errors import LauncherError, RequestError, StorageError
from launcher.models.resolve import catalog_entry, resolve
from launcher.ondemand import card
from launcher.ondemand.fields import AUTO, UNUSED
from launcher.ondemand.words import in_the_forms_words
from launcher.planning import Request, make_plan
from launcher.planning.limits import within
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
    request = _request(_of_use(values, settings), settings)
    here = _on(chosen, request, settings)
    request = _within_the_hour(request, here)
    try:
        made = make_plan(request, here, door="ondemand")
    except LauncherError as error:
        error.hint = in_the_forms_words(error.hint)
        if chosen and (other := _other_cluster(request, chosen, settings)) is not None:
            error.hint = f'Choose cluster "{other}". {error.hint or ""}'.rstrip()
        raise
    launcher.within_limits()
    _write(made, root)
    return _submission(made)


def _on(chosen: str, request: Request, settings: Settings) -> Settings:
    """`settings` with the profiles of that cluster alone; raises RequestError where the request needs another one."""
    here = {
        name: profile
        for name, profile in settings.profiles.items()
        if (cluster := settings.clusters[profile.cluster]).in_form
        and (not chosen or _is_called(cluster, chosen))
    }
    where = f'cluster "{chosen[:60]}"' if chosen else "a Slurm cluster"
    if request.profile is not None and request.profile in settings.profiles.keys() - here.keys():
        raise RequestError(
            f'Profile "{request.profile}" is not on {where}.',
            _advice([request.profile], settings) or "Choose other hardware.",
        )
    if not here:
        raise RequestError(f"There is no hardware on {where}.", "Choose another cluster.")
    entry = catalog_entry(request.model, settings)
    if entry is not None and entry.profiles and not here.keys() & set(entry.profiles):
        raise RequestError(
            f'Model "{request.model[:200]}" does not run on {where}.',
            _advice(entry.profiles, settings) or "Choose another model.",
        )
    catalog = {
        name: dataclasses.replace(other, profiles=tuple(p for p in other.profiles if p in here))
        for name, other in settings.catalog.items()
    }
    first = settings.session.profile
    session = dataclasses.replace(settings.session, profile=first if first in here else None)
    return dataclasses.replace(settings, profiles=here, catalog=catalog, session=session)


def _advice(profiles: Iterable[str], settings: Settings) -> str | None:
    found = [settings.clusters[settings.profiles[name].cluster] for name in profiles]
    names = dict.fromkeys(f'"{_name_of(c)}"' for c in found if c.in_form)
    return f"Choose cluster {' or '.join(names)}." if names else None


def _name_of(cluster: Cluster) -> str:
    return (cluster.ondemand or (cluster.name,))[0]


def _other_cluster(request: Request, chosen: str, settings: Settings) -> str | None:
    """The cluster that the same request would run on, where none of the hardware on the chosen one would do."""
    free = dataclasses.replace(request, profile=None)
    clusters = (c for c in settings.clusters.values() if c.in_form)
    others = [_name_of(cluster) for cluster in clusters if not _is_called(cluster, chosen)]
    # The chosen one first: where other hardware of it would do, there is nothing to say.
    for name in [chosen, *others] if others else []:
        with contextlib.suppress(LauncherError):
            make_plan(free, _on(name, free, settings), door="ondemand")
            return None if name == chosen else name
    return None


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


def _of_use(values: dict[str, str], settings: Settings) -> dict[str, str]:
    """`values` without those that the model's engine has no use for: a field that is hidden is posted all the same."""
    filled = {name for names in UNUSED.values() for name in names if values.get(name, "0") not in ("", "0")}
    model = _model(values)
    if model is None or not filled:
        return values
    try:
        engine = resolve(model, settings, values.get("revision") or None).engine
    except LauncherError:  # the plan will say it
        return values
    return {name: value for name, value in values.items() if name not in UNUSED.get(engine, ())}


def _model(values: dict[str, str]) -> str | None:
    return values.get("custom_model") or values.get("model") or None


def _request(values: dict[str, str], settings: Settings) -> Request:
    def text(*names: str) -> str | None:
        return next((values[name] for name in names if values.get(name)), None)

    model = _model(values)
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
        hours=_number(values, "bc_num_hours", "Hours"),
        idle_minutes=_number(values, "idle_minutes", "Stop when unused for"),
        gpus=_whole(values, "gpus", "GPUs"),
        max_model_len=_tokens(values, "context_length", "Context length"),
        engine_args=_words(values.get("engine_args", "")),
        trust_remote_code=values.get("trust_remote_code") == "1",
        fit_check=values.get("try_anyway") != "1",
    )


def _within_the_hour(request: Request, settings: Settings) -> Request:
    """`request` with less than an hour where the hardware gives no whole one, which is the form's least."""
    if request.hours != 1:
        return request
    entry = catalog_entry(request.model, settings)
    names = [request.profile] if request.profile else (entry and entry.profiles) or settings.profiles
    given = [within(settings.profiles[name], settings) for name in names if name in settings.profiles]
    most = max((profile.hours_max for profile in given if profile is not None), default=1)
    return dataclasses.replace(request, hours=min(1, most))


def _tokens(values: dict[str, str], name: str, label: str) -> int | None:
    """A whole number as people write it: 32768, 32,768, 32 768; also 32k, which here is 32 × 1024."""
    text = values.get(name, "")
    if written := re.fullmatch(r"(\d{1,3}(?:[, _\u00a0\u202f']\d{3})+|\d{1,15}) ?([kK]?)", text, re.ASCII):
        return int(re.sub(r"\D", "", written[1])) * (1024 if written[2] else 1)
    return _whole(values, name, label)


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

"""The plan for what was posted: every value of the form is checked, the session is written, OOD's request is printed.

OOD validates nothing itself (options, limits and patterns are HTML only), so nothing posted is believed here.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from launcher.api import Launcher, write_session
from launcher.errors import RequestError, SettingsError, StorageError
from launcher.ondemand import card
from launcher.planning import Request, make_plan
from launcher.schedulers import scheduler
from launcher.schedulers.script import job_name
from launcher.sessions import registry
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan


def plan(launcher: Launcher, posted: str, root: Path) -> dict[str, Any]:
    """Write the session into the staged directory `root` and return OOD's `batch_connect` and `script` blocks."""
    values = _values(posted)
    settings = launcher.settings
    made = make_plan(_request(values), settings, door="ondemand")
    cluster = settings.clusters[made.cluster.name]
    if cluster.scheduler != "slurm":
        raise SettingsError(
            f'Profile "{made.resources.profile}" is not on a Slurm cluster.', "Choose another profile."
        )
    chosen = values.get("cluster", "")
    if chosen and chosen not in (cluster.ondemand or (cluster.name,)):
        raise RequestError(
            f'Profile "{made.resources.profile}" is not on cluster "{chosen[:60]}".',
            "Choose the cluster and the hardware that belong together.",
        )
    _write(made, root)
    return _submission(made)


def _values(posted: str) -> dict[str, str]:
    try:
        data = json.loads(posted)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The form's values are not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise RequestError("The form's values are not a JSON object.")
    return {str(key): str(value).strip() for key, value in data.items() if value is not None}


def _request(values: dict[str, str]) -> Request:
    def text(name: str) -> str | None:
        return values.get(name) or None

    model = text("custom_model") or text("model")
    if model is None:
        raise RequestError("No model was chosen.", "Choose one in the form.")
    return Request(
        model=model,
        profile=text("profile"),
        revision=text("revision"),
        account=text("account"),
        hours=_number(values, "bc_num_hours", "Hours"),
        idle_minutes=_number(values, "idle_minutes", "Stop when unused for"),
        engine_args=_words(values.get("engine_args", "")),
    )


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
